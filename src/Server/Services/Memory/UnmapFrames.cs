using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MemoryService
{
    /// <summary>The process has unmapped the frames of a hold.</summary>
    public override Task<UnmapFramesResponse> UnmapFrames(UnmapFramesRequest request, ServerCallContext context)
    {
        var (host, _) = machines.Resolve(context, request.Attachment, Names.Attachments, Right.Use, "attachment");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            if (!attachments.Get(request.Attachment).Release(request.Hold))
                throw Refusals.NotFound("HOLD", $"{request.Attachment}/holds/{request.Hold}");
            return Task.FromResult(new UnmapFramesResponse());
        });
    }
}
