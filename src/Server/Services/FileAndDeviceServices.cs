using System.Diagnostics;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Server.Configuration;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;
using FileKind = FramePin.V1.FileKind;
using MemoryFile = FramePin.Core.Backing.MemoryFile;

namespace FramePin.Server.Services;

/// <summary>Memory files.</summary>
internal sealed class FileService(MachineRegistry machines, DaemonOptions options) : V1.FileService.FileServiceBase
{
    private const ulong LargestFile = 1UL << 46;

    public override Task<V1.File> CreateFile(CreateFileRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var kind = WireEnums.ToCore(request.Kind, "kind");
            CheckSize(request.SizeBytes);
            if (request.Path.Length > options.Limits.PathLengthMax)
                throw Refusals.Limit(
                    "path_length_max", (ulong)options.Limits.PathLengthMax, (ulong)request.Path.Length);
            if (request.Path.Contains('\n', StringComparison.Ordinal))
                throw Refusals.Bad("path", "must not hold a line break");
            var order = request.HugePageBytes switch
            {
                0 or PageGeometry.PmdSize => PageGeometry.PmdOrder,
                PageGeometry.PudSize => PageGeometry.PudOrder,
                _ => throw Refusals.Bad("huge_page_bytes", "is 2 MiB or 1 GiB"),
            };
            var (id, file) = host.Files.Add(request.FileId, chosen => host.Machine.CreateFile(
                request.Path.Length == 0 ? $"/{chosen}" : request.Path, kind, request.SizeBytes, order,
                request.Device.Length == 0 ? null : request.Device, request.Inode));
            return Task.FromResult(ToWire(host, id, file));
        });
    }

    public override Task<V1.File> GetFile(GetFileRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.Name, Names.Files, "name");
        return Task.FromResult(ToWire(host, id, host.Files.Get(id)));
    }

    public override Task<ListFilesResponse> ListFiles(ListFilesRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        var (page, next) = Paging.ByNumber(
            host.Files.All.OrderBy(pair => pair.Value.Id), pair => (ulong)pair.Value.Id,
            new PageRequest(Names.Collection(host.Id, Names.Files), request.PageSize, request.PageToken),
            options.Limits);
        var response = new ListFilesResponse { NextPageToken = next };
        response.Files.Add(page.Select(pair => ToWire(host, pair.Key, pair.Value)));
        return Task.FromResult(response);
    }

    public override Task<V1.File> TruncateFile(TruncateFileRequest request, ServerCallContext context)
    {
        CheckSize(request.SizeBytes);
        return Change(context, request.Name, request.RequestId, request, "ftruncate",
            (host, file) => host.Machine.Truncate(file, request.SizeBytes));
    }

    public override Task<V1.File> PunchHole(PunchHoleRequest request, ServerCallContext context) =>
        Change(context, request.Name, request.RequestId, request, "fallocate",
            (host, file) => host.Machine.PunchHole(file, request.Offset, request.Length));

    public override Task<V1.File> SealFile(SealFileRequest request, ServerCallContext context) =>
        Change(context, request.Name, request.RequestId, request, "fcntl(F_ADD_SEALS)",
            (host, file) => host.Machine.SealWrite(file));

    public override Task<DeleteFileResponse> DeleteFile(DeleteFileRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.Name, Names.Files, "name");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var file = host.Files.Get(id);
            host.Machine.Unlink(file);
            host.Files.Remove(id, file);
            return Task.FromResult(new DeleteFileResponse());
        });
    }

    private Task<V1.File> Change(
        ServerCallContext context, string name, string requestId, Google.Protobuf.IMessage request, string call,
        Func<MachineHost, MemoryFile, Errno> change)
    {
        var (host, id) = machines.Resolve(name, Names.Files, "name");
        return host.Requests.Run(context, requestId, request, () =>
        {
            var file = host.Files.Get(id);
            return host.Watches.RunAsync(Mappings(host, file), TakeCause.Truncate, () =>
            {
                var error = change(host, file);
                return error == Errno.None ? ToWire(host, id, file) : throw Refusals.Errno(call, error);
            });
        });
    }

    /// <summary>Where a file is mapped, in any address space.</summary>
    private static List<(Core.Vmas.AddressSpace, Core.Addressing.AddressRange)> Mappings(
        MachineHost host, MemoryFile file) => file.MappingCount == 0
        ? []
        : [
            .. host.Spaces.All.Select(pair => pair.Value).SelectMany(
                space => host.Machine.Maps(space).Where(
                entry => entry.Inode == file.Inode && entry.Name.StartsWith(file.Name, StringComparison.Ordinal))
            .Select(entry => (space, entry.Range)))];

    private static void CheckSize(ulong size)
    {
        if (size > LargestFile) throw Refusals.Limit("file_bytes_max", LargestFile, size);
    }

    private static V1.File ToWire(MachineHost host, string id, MemoryFile file) => new()
    {
        Name = Names.Child(host.Id, Names.Files, id),
        Kind = WireEnums.ToWire(file.Kind),
        SizeBytes = file.Size,
        Path = file.Name,
        Device = file.DeviceNumber,
        Inode = file.Inode,
        HugePageBytes = file.Order == 0 ? 0 : PageGeometry.PageSize << file.Order,
        Mappings = (uint)file.MappingCount,
        CachedPages = file.CachedFrames,
    };
}

/// <summary>Devices.</summary>
internal sealed class DeviceService(MachineRegistry machines, PinTransactions pins,
    DaemonOptions options) : V1.DeviceService.DeviceServiceBase
{
    public override Task<Device> CreateDevice(CreateDeviceRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var mapping = WireEnums.ToCore(request.Mapping, "mapping");
            if (request.Pages == 0) throw Refusals.Bad("pages", "must be at least 1");
            if (request.Pages > options.Limits.DevicePagesMax)
                throw Refusals.Limit("device_pages_max", options.Limits.DevicePagesMax, request.Pages);
            var needsRam = request.Mapping is DeviceMapping.IoPages or DeviceMapping.MixedPages
                or DeviceMapping.FaultPages
                or DeviceMapping.P2PPages or DeviceMapping.ServedPages;
            if (needsRam && !request.Ram)
                throw Refusals.Bad("ram", $"{request.Mapping} maps pages, which only RAM has");
            var lease = host.Leases.Find(request.Lease);
            var (id, device) = host.Devices.Add(request.DeviceId, chosen => host.Machine.CreateDevice(
                request.Path.Length == 0 ? $"/dev/{chosen}" : request.Path, mapping, request.Pages, request.Ram,
                request.HasClose, !request.ReadOnly, request.RemapsInParts));
            host.HangOn(lease, device, () => host.RemoveDevice(id, device));
            return Task.FromResult(ToWire(host, id, device));
        });
    }

    public override Task<Device> GetDevice(GetDeviceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.Name, Names.Devices, "name");
        return Task.FromResult(ToWire(host, id, host.Devices.Get(id)));
    }

    public override Task<ListDevicesResponse> ListDevices(ListDevicesRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        var (page, next) = Paging.ByNumber(
            host.Devices.All.OrderBy(pair => pair.Value.Id.Value), pair => (ulong)pair.Value.Id.Value,
            new PageRequest(Names.Collection(host.Id, Names.Devices), request.PageSize, request.PageToken),
            options.Limits);
        var response = new ListDevicesResponse { NextPageToken = next };
        response.Devices.Add(page.Select(pair => ToWire(host, pair.Key, pair.Value)));
        return Task.FromResult(response);
    }

    public override Task<DeleteDeviceResponse> DeleteDevice(DeleteDeviceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.Name, Names.Devices, "name");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            host.RemoveDevice(id, host.Devices.Get(id));
            return Task.FromResult(new DeleteDeviceResponse());
        });
    }

    public override Task<ExportDeviceResponse> ExportDevice(ExportDeviceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.Name, Names.Devices, "name");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            using var pin = pins.Begin(Activity.Current);
            var scope = new PinScope(host, host.Leases.Find(request.Lease), null);
            if (!host.Devices.Get(id).IsRam)
                throw Refusals.State("NO_PAGES", "the device's range is MMIO, which has no pages to hold");
            pin.Export(scope, host.Devices.Get(id));
            var response = new ExportDeviceResponse { FrameVector = pin.Record.Name };
            pin.Commit();
            return Task.FromResult(response);
        });
    }

    private static Device ToWire(MachineHost host, string id, Core.Backing.Device device) => new()
    {
        Name = Names.Child(host.Id, Names.Devices, id),
        Mapping = WireEnums.ToWire(device.Mapping),
        Pages = device.Frames,
        Ram = device.IsRam,
        FirstPfn = device.First.Value,
        Path = device.Name,
    };
}
