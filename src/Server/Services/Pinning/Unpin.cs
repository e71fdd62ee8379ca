using System.Diagnostics;
using FramePin.Server.Machines;
using FramePin.Server.Telemetry;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>put_vaddr_frames and frame_vector_destroy (Core/Pinning/FrameVectors.cs).</summary>
    public override Task<UnpinResponse> Unpin(UnpinRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(context, request.FrameVector, Right.Use, "frame_vector");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            // Given back whatever becomes of the vector: it is unmapped.
            if (request.Hold != 0) FindLive(host, request.Attachment)?.Release(request.Hold);
            var record = host.Vectors.Get(number);
            LinkTo(record, Activity.Current);
            if (!host.Vectors.Release(record, request.Dirty, out var frames)) throw record.NotReady();
            Activity.Current?.SetTag(TelemetryNames.PagesReleased, frames);
            telemetry.CountReleased(frames);
            return Task.FromResult(new UnpinResponse { Frames = (ulong)frames });
        });
    }
}
