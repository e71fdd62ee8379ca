using System.Diagnostics;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>frame_vector_to_pages and frame_vector_to_pfns (Core/Pinning/FrameVector.cs).</summary>
    public override Task<ConvertResponse> Convert(ConvertRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(context, request.FrameVector, Right.Use, "frame_vector");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var record = host.Vectors.Get(number);
            LinkTo(record, Activity.Current);
            lock (record.Gate)
            {
                ConvertOne(host, record, request.To);
                return Task.FromResult(new ConvertResponse
                {
                    Kind = WireFrames.KindOf(record.Content),
                    Runs = request.OmitFrames ? null : WireFrames.ToRuns(record.Content, options.Limits),
                });
            }
        });
    }

    /// <summary>
    /// Under the vector's gate. Throws the refusal of what cannot be converted; nothing is changed then.
    /// </summary>
    private static void ConvertOne(MachineHost host, VectorRecord record, FrameKind to)
    {
        switch (to)
        {
            case FrameKind.Pages when host.Machine.ToPages(record.Content) != Errno.None:
                throw Refusals.State(
                    "EINVAL", "frame_vector_to_pages: a PFN has no struct page; nothing was converted",
                    ("errno", "22"), ("errno_name", "EINVAL"), ("call", "frame_vector_to_pages"));
            case FrameKind.Pages:
                return;
            case FrameKind.Pfns:
                host.Machine.ToPfns(record.Content);
                return;
            default:
                throw Refusals.Bad("to", "must be PAGES or PFNS");
        }
    }
}
