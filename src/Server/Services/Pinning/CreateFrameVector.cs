using FramePin.Server.Machines;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>frame_vector_create (row 1).</summary>
    public override Task<FrameVector> CreateFrameVector(CreateFrameVectorRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Parent, Right.Use, "parent");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var lease = host.Leases.Find(request.Lease);
            var record = host.Vectors.Create(request.Frames, lease);
            host.Vectors.Publish(record);
            return Task.FromResult(Views.Of(host, record, withRuns: false, options.Limits));
        });
    }
}
