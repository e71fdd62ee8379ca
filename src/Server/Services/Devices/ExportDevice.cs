using System.Diagnostics;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class DeviceService
{
    /// <summary>A frame vector over the pages of a device, as a dma-buf holds its exporter's.</summary>
    public override Task<ExportDeviceResponse> ExportDevice(ExportDeviceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(context, request.Name, Names.Devices, Right.Use, "name");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            using var pin = pins.Begin(Activity.Current);
            pin.Export(new PinScope(host, host.Leases.Find(request.Lease), null), host.Devices.Get(id));
            var response = new ExportDeviceResponse { FrameVector = pin.Record.Name };
            pin.Commit();
            pin.GiveBackWhenLost(context, request.RequestId);
            return Task.FromResult(response);
        });
    }
}
