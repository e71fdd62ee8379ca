using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Inspection;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Syscalls;
using FramePin.Server.Configuration;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Grpc.Core;
using AddressSpace = FramePin.V1.AddressSpace;
using Errno = FramePin.Core.Abi.Errno;
using InstalledMapping = FramePin.V1.InstalledMapping;
using MapsEntry = FramePin.V1.MapsEntry;

namespace FramePin.Server.Services;

/// <summary>
/// Address spaces: making, forking, ending, and looks at them. The memory calls stand in a file of their own.
/// </summary>
internal sealed partial class AddressSpaceService(MachineRegistry machines, DaemonOptions options)
    : V1.AddressSpaceService.AddressSpaceServiceBase
{
    private static readonly AddressRange Everything = new(0, ulong.MaxValue);

    private static readonly Dictionary<string, VmFlags> ExtraFlags = new(StringComparer.Ordinal)
    {
        ["nr"] = VmFlags.NoReserve,
        ["dc"] = VmFlags.DontCopy,
        ["dd"] = VmFlags.DontDump,
        ["nh"] = VmFlags.NoHugePage,
        ["hg"] = VmFlags.HugePage,
        ["lo"] = VmFlags.Locked,
        ["wf"] = VmFlags.WipeOnFork,
        ["sr"] = VmFlags.SeqRead,
        ["rr"] = VmFlags.RandRead,
    };

    public override Task<AddressSpace> CreateAddressSpace(CreateAddressSpaceRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var layout = WireMapping.ToLayout(request.Layout);
            var task = WireMapping.ToTask(request.Task);
            var lease = host.Leases.Find(request.Lease);
            var (_, space) = host.Spaces.Add(request.AddressSpaceId, id => host.Machine.CreateAddressSpace(id, layout, task));
            host.HangOn(lease, space, () => _ = host.Watches.RunAsync(
                [(space, Everything)], TakeCause.Exit, () => host.ExitSpace(space)));
            return Task.FromResult(WireMapping.ToWire(host, space));
        });
    }

    public override Task<AddressSpace> GetAddressSpace(GetAddressSpaceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.Name, Names.AddressSpaces, "name");
        return Task.FromResult(WireMapping.ToWire(host, host.Spaces.Get(id)));
    }

    public override Task<ListAddressSpacesResponse> ListAddressSpaces(
        ListAddressSpacesRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        var (page, next) = Paging.ByNumber(
            host.Spaces.All.Select(pair => pair.Value).OrderBy(space => space.Id.Value), space => (ulong)space.Id.Value,
            new PageRequest(Names.Collection(host.Id, Names.AddressSpaces), request.PageSize, request.PageToken),
            options.Limits);
        var response = new ListAddressSpacesResponse { NextPageToken = next };
        response.AddressSpaces.Add(page.Select(space => WireMapping.ToWire(host, space)));
        return Task.FromResult(response);
    }

    public override Task<AddressSpace> ForkAddressSpace(ForkAddressSpaceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.Name, Names.AddressSpaces, "name");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var parent = host.Spaces.Get(id);
            return host.Watches.RunAsync([(parent, Everything)], TakeCause.Fork, () =>
            {
                var error = Errno.None;
                Core.Vmas.AddressSpace? child = null;
                host.Spaces.Add(request.ChildId, childId =>
                {
                    child = host.Machine.Fork(parent, childId, out error);
                    return child ?? throw Refusals.Errno("fork", error);
                });
                return WireMapping.ToWire(host, child!);
            });
        });
    }

    public override Task<ExitAddressSpaceResponse> ExitAddressSpace(
        ExitAddressSpaceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.Name, Names.AddressSpaces, "name");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var space = host.Spaces.Get(id);
            return host.Watches.RunAsync([(space, Everything)], TakeCause.Exit, () =>
                host.ExitSpace(space) ? new ExitAddressSpaceResponse()
                    : throw Refusals.NotFound("ADDRESS_SPACE", request.Name));
        });
    }

    public override Task<InstallMappingsResponse> InstallMappings(
        InstallMappingsRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.AddressSpace, Names.AddressSpaces, "address_space");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var space = host.Spaces.Get(id);
            var most = options.Limits.BatchOperationsMax;
            if (request.Mappings.Count > most)
                throw Refusals.Limit("batch_operations_max", (ulong)most, (ulong)request.Mappings.Count);
            foreach (var mapping in request.Mappings.Select(mapping => ToInstalled(host, mapping)).ToList())
            {
                var error = host.Machine.InstallMapping(space, mapping);
                if (error != Errno.None) throw Refusals.Errno("install", error, ("range", mapping.Range.ToString()));
            }

            return Task.FromResult(new InstallMappingsResponse());
        });
    }

    public override Task<SetTaskResponse> SetTask(SetTaskRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.AddressSpace, Names.AddressSpaces, "address_space");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var error = host.Machine.SetTask(host.Spaces.Get(id), WireMapping.ToTask(request.Task));
            return error == Errno.None
                ? Task.FromResult(new SetTaskResponse())
                : throw Refusals.Errno("set_task", error);
        });
    }

    public override Task<GetMapsResponse> GetMaps(GetMapsRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.AddressSpace, Names.AddressSpaces, "address_space");
        var response = new GetMapsResponse();
        foreach (var entry in host.Machine.Maps(host.Spaces.Get(id), request.WithUsage))
        {
            response.Entries.Add(new MapsEntry
            {
                Start = entry.Range.Start,
                End = entry.Range.End,
                Permissions = entry.Permissions,
                Offset = entry.Offset,
                Device = entry.DeviceNumber,
                Inode = entry.Inode,
                Path = entry.Name,
                Line = entry.ToMapsLine(),
                Rss = entry.Rss,
                Anonymous = entry.Anonymous,
                AnonHuge = entry.AnonHuge,
                Swap = entry.Swap,
                KernelPageSize = entry.KernelPageSize,
                VmFlags = entry.VmFlagLetters(),
            });
        }

        return Task.FromResult(response);
    }

    public override Task<GetPagemapResponse> GetPagemap(GetPagemapRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.AddressSpace, Names.AddressSpaces, "address_space");
        if ((request.Start & 0xfff) != 0) throw Refusals.Bad("start", "must be a multiple of 4096");
        if (request.Pages > options.Limits.PagemapPagesMax)
            throw Refusals.Limit("pagemap_pages_max", options.Limits.PagemapPagesMax, request.Pages);
        if (request.Start > PageGeometry.TaskSize) throw Refusals.Bad("start", "lies above the user address space");
        var response = new GetPagemapResponse();
        response.Entries.AddRange(host.Machine.Pagemap(host.Spaces.Get(id), request.Start, (int)request.Pages));
        return Task.FromResult(response);
    }

    private Core.Syscalls.InstalledMapping ToInstalled(MachineHost host, InstalledMapping mapping)
    {
        if ((mapping.Prot & ~(uint)Prot.AccessMask) != 0)
            throw Refusals.Bad("mappings.prot", "knows PROT_READ, PROT_WRITE, PROT_EXEC");
        if (mapping.Shared && mapping.File.Length == 0)
            throw Refusals.Bad("mappings.file", "a shared mapping needs the file that it shares");
        var extra = VmFlags.None;
        foreach (var letters in mapping.VmFlags)
            extra |= ExtraFlags.TryGetValue(letters, out var flag)
                ? flag
                : throw Refusals.Bad("mappings.vm_flags", $"'{letters}' cannot be set");
        return new Core.Syscalls.InstalledMapping
        {
            Range = new AddressRange(mapping.Start, mapping.End),
            Prot = (Prot)mapping.Prot,
            Kind = WireEnums.ToCore(mapping.Kind, "mappings.kind"),
            IsShared = mapping.Shared,
            File = mapping.File.Length == 0
                ? FileId.None
                : new FileId(FileIn(host, mapping.File, "mappings.file").Id),
            IsReadOnlyFile = !WireEnums.ToCore(mapping.OpenMode, "mappings.open_mode").ForWrite,
            Offset = mapping.Offset,
            Extra = extra,
        };
    }

    private Core.Backing.MemoryFile FileIn(MachineHost host, string name, string field)
    {
        var (owner, id) = machines.Resolve(name, Names.Files, field);
        return owner == host ? owner.Files.Get(id) : throw Refusals.Bad(field, "belongs to another machine");
    }
}
