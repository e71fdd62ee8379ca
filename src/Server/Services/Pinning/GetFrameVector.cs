using FramePin.Server.Machines;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    public override Task<FrameVector> GetFrameVector(GetFrameVectorRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(context, request.Name, Right.Read, "name");
        return Task.FromResult(Views.Of(host, host.Vectors.Get(number), !request.OmitFrames, options.Limits));
    }
}
