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
            var record = host.Vectors.Get(number);
            lock (record.Gate)
            {
                if (record.Content.Count > 0)
                    throw Refusals.State(
                        "VECTOR_NOT_EMPTY", "frame_vector_destroy wants an empty vector: put its frames first");
            }

            if (!host.Vectors.Release(record, dirty: false, out _)) throw record.NotReady();
            return Task.FromResult(new DestroyFrameVectorResponse());
        });
    }
}
