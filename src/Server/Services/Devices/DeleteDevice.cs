using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class DeviceService
{
    /// <summary>The device loses its name. Its memory goes with the last mapping.</summary>
    public override Task<DeleteDeviceResponse> DeleteDevice(DeleteDeviceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(context, request.Name, Names.Devices, Right.Use, "name");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            host.RemoveDevice(host.Devices.Get(id));
            return Task.FromResult(new DeleteDeviceResponse());
        });
    }
}
