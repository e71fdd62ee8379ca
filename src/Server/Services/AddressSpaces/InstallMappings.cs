using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Syscalls;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;
using InstalledMapping = FramePin.Core.Syscalls.InstalledMapping;

namespace FramePin.Server.Services;

internal sealed partial class AddressSpaceService
{
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

    /// <summary>Areas as a recording's first maps show them (Core/Syscalls/InstallMappingCall.cs).</summary>
    public override Task<InstallMappingsResponse> InstallMappings(
        InstallMappingsRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(
            context, request.AddressSpace, Names.AddressSpaces, Right.Use, "address_space");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var space = host.Spaces.Get(id).Thing;
            var most = options.Limits.BatchOperationsMax;
            if (request.Mappings.Count > most)
                throw Refusals.Limit("batch_operations_max", (ulong)most, (ulong)request.Mappings.Count);
            foreach (var mapping in request.Mappings.Select(mapping => ToInstalled(host, mapping)).ToList())
            {
                var error = host.Machine.Call(new InstallMappingCall(space, mapping)).Error;
                if (error != Errno.None) throw Refusals.Errno("install", error, ("range", mapping.Range.ToString()));
                host.Watches.TellMapped(space, mapping.Range);
            }

            return Task.FromResult(new InstallMappingsResponse());
        });
    }

    private static InstalledMapping ToInstalled(MachineHost host, V1.InstalledMapping mapping)
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
        return new InstalledMapping
        {
            Range = new AddressRange(mapping.Start, mapping.End),
            Prot = (Prot)mapping.Prot,
            Kind = WireEnums.ToCore(mapping.Kind, "mappings.kind"),
            IsShared = mapping.Shared,
            File = mapping.File.Length == 0 ? FileId.None : host.Files.Get(mapping.File, "mappings.file").Thing,
            IsReadOnlyFile = !WireEnums.ToCore(mapping.OpenMode, "mappings.open_mode").ForWrite,
            Offset = mapping.Offset,
            Extra = extra,
        };
    }
}
