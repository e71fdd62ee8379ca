using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class DriverService
{
    public override Task<InterruptDriverCallResponse> InterruptDriverCall(
        InterruptDriverCallRequest request, ServerCallContext context)
    {
        var (_, file) = Find(context, request.File);
        file?.Tagged.Signal(request.Tag);
        return Task.FromResult(new InterruptDriverCallResponse());
    }
}
