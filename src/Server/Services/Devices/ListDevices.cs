using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class DeviceService
{
    public override Task<ListDevicesResponse> ListDevices(ListDevicesRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Parent, Right.Read, "parent");
        var list = Names.Collection(host.Id, Names.Devices);
        var (page, next) = Paging.ByNumber(
            host.Devices.All.OrderBy(device => device.Thing.Value), device => (ulong)device.Thing.Value,
            new PageRequest(list, request.PageSize, request.PageToken), options.Limits);
        var response = new ListDevicesResponse { NextPageToken = next };
        response.Devices.Add(page.Select(device => Views.Find(host, device)).OfType<Device>());
        return Task.FromResult(response);
    }
}
