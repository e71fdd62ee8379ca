using FramePin.Core.Addressing;
using FramePin.Core.Syscalls;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class DeviceService
{
    /// <summary>A device with a range of RAM or MMIO (Core/Syscalls/DeviceCommands.cs).</summary>
    public override Task<Device> CreateDevice(CreateDeviceRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Parent, Right.Use, "parent");
        return host.Requests.Run(context, request.RequestId, request, cancelled =>
        {
            var mapping = WireEnums.ToCore(request.Mapping, "mapping");
            Names.CheckText(request.Path, options.Limits.PathLengthMax, "path_length_max", "path");
            if (request.Pages == 0) throw Refusals.Bad("pages", "must be at least 1");
            if (request.Pages > options.Limits.DevicePagesMax)
                throw Refusals.Limit("device_pages_max", options.Limits.DevicePagesMax, request.Pages);
            var needsRam = request.Mapping is DeviceMapping.IoPages or DeviceMapping.MixedPages
                or DeviceMapping.FaultPages or DeviceMapping.P2PPages or DeviceMapping.ServedPages;
            if (needsRam && !request.Ram)
                throw Refusals.Bad("ram", $"{request.Mapping} maps pages, which only RAM has");
            var lease = host.Leases.Find(request.Lease);
            using var name = host.Devices.Reserve(request.DeviceId);
            var created = host.Machine.Call(new CreateDeviceCall(
                request.Path.Length == 0 ? $"/dev/{name.Id}" : request.Path, mapping, request.Pages, request.Ram,
                request.HasClose, !request.ReadOnly, request.RemapsInParts, request.AnonymousInode,
                !request.NoAccess));
            if (!created.IsOk) throw Refusals.Errno("create_device", created.Error);
            var device = name.Fill(new DeviceId((int)created.Value));
            // A caller who has gone would never learn its name.
            if (cancelled.IsCancellationRequested) host.RemoveDevice(device);
            cancelled.ThrowIfCancellationRequested();
            host.HangOn(lease, device, () => host.RemoveDevice(device));
            return Task.FromResult(Views.Of(host, device));
        });
    }
}
