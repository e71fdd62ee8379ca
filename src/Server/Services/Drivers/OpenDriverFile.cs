using FramePin.Server.Drivers;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class DriverService
{
    public override Task<OpenDriverFileResponse> OpenDriverFile(
        OpenDriverFileRequest request, ServerCallContext context)
    {
        var (host, node) = machines.Resolve(context, request.Driver, Names.Drivers, Right.Use, "driver");
        return host.Requests.Run(context, request.RequestId, request, async cancelled =>
        {
            var (errno, file) = await drivers.OpenAsync(
                drivers.Get(host, node), host.Leases.Find(request.Lease), request.NonBlocking, cancelled)
                .ConfigureAwait(false);
            if (file is not null && request.RequestId.Length == 0) context.WhenLost(() => _ = drivers.Close(file));
            return new OpenDriverFileResponse
            {
                Errno = Shown(errno, isClosed: false),
                File = file is null ? "" : DriverRegistry.NameOf(file),
            };
        });
    }
}
