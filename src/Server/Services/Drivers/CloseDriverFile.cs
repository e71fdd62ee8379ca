using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class DriverService
{
    public override Task<CloseDriverFileResponse> CloseDriverFile(
        CloseDriverFileRequest request, ServerCallContext context)
    {
        var (host, file) = Find(context, request.File);
        return host.Requests.Run(context, request.RequestId, request, async cancelled =>
        {
            // The close goes on when its caller leaves, and a repeat finds the file closed.
            if (file is not null) await drivers.Close(file).WaitAsync(cancelled).ConfigureAwait(false);
            return new CloseDriverFileResponse();
        });
    }
}
