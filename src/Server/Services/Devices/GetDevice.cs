using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class DeviceService
{
    public override Task<Device> GetDevice(GetDeviceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(context, request.Name, Names.Devices, Right.Read, "name");
        return Task.FromResult(Views.Of(host, host.Devices.Get(id)));
    }
}
