using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MemoryService
{
    /// <summary>Holds a vector's frames for a local process that maps them.</summary>
    public override Task<MapFramesResponse> MapFrames(MapFramesRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(context, request.FrameVector, Names.FrameVectors, Right.Use, "frame_vector");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var attachment = FindAttachment(host, request.Attachment, "frame_vector");
            var record = host.Vectors.Get(Names.Number(id, "frame_vector"));
            var hold = 0UL;
            try
            {
                // The gate covers the hold and the answer, since another call may put the vector and fill it anew.
                lock (record.Gate)
                {
                    hold = attachment.Hold(record);
                    var runs = WireFrames.ToRuns(record.Content, options.Limits);
                    return Task.FromResult(new MapFramesResponse { Hold = hold, Runs = runs });
                }
            }
            catch
            {
                if (hold != 0) attachment.Release(hold);
                throw;
            }
        });
    }
}
