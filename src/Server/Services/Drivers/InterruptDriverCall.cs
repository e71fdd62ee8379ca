using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class DriverService
{
    public override Task<InterruptDriverCallResponse> InterruptDriverCall(
        InterruptDriverCallRequest request, ServerCallContext context)
    {
        var (host, file) = Find(context, request.File);
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            file?.Tagged.Signal(request.Tag);
            return Task.FromResult(new InterruptDriverCallResponse());
        });
    }
}
