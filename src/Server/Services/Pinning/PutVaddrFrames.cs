using System.Diagnostics;
using FramePin.Server.Machines;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>put_vaddr_frames: the vector stays, empty.</summary>
    public override Task<FrameVector> PutVaddrFrames(PutVaddrFramesRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(context, request.FrameVector, Right.Use, "frame_vector");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var record = host.Vectors.Get(number);
            lock (record.Gate)
            {
                var vector = record.Content;
                LinkTo(record, Activity.Current);
                telemetry.CountReleased(vector.Count);
                host.Vectors.Put(record, request.Dirty);
            }

            return Task.FromResult(Views.Of(host, record, withRuns: false, options.Limits));
        });
    }
}
