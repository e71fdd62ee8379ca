using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>frame_vector_destroy (row 9).</summary>
    public override Task<DestroyFrameVectorResponse> DestroyFrameVector(
        DestroyFrameVectorRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(context, request.FrameVector, Right.Use, "frame_vector");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            host.Vectors.DestroyEmpty(host.Vectors.Get(number));
            return Task.FromResult(new DestroyFrameVectorResponse());
        });
    }
}
