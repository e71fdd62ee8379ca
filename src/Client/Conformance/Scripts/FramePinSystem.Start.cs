using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Inspection;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Conformance.Scripts;

/// <summary>What a script finds: the process and the files.</summary>
public sealed partial class FramePinSystem
{
    private void Install(SpaceId space, InitialMapping mapping)
    {
        if (mapping.Name == FileSpec.CounterPage)
        {
            var mapped = MmapCounter(space, new Step(
                0, StepKind.Mmap, mapping.Start, mapping.End - mapping.Start, (ulong)(Prot.Read | Prot.Write),
                (ulong)(MapFlags.Shared | MapFlags.Fixed)));
            if (!mapped.IsOk) throw new InvalidOperationException($"installing {mapping}: {mapped.Error}");
            return;
        }

        var kind = mapping.Name switch
        {
            "[stack]" => InstalledKind.Stack,
            "[vdso]" => InstalledKind.Vdso,
            "[vvar]" => InstalledKind.Vvar,
            "[vvar_vclock]" => InstalledKind.VvarClock,
            "[vsyscall]" => InstalledKind.Vsyscall,
            _ => InstalledKind.Ordinary,
        };
        var size = mapping.End - mapping.Start;
        var file = mapping.Name.Length > 0 && mapping.Name[0] != '['
            ? new FileId((int)_machine.Call(new CreateFileCall(mapping.Name, FileKind.Disk, size)).Value)
            : FileId.None;
        var error = _machine.Call(new InstallMappingCall(space, new InstalledMapping
        {
            Range = new AddressRange(mapping.Start, mapping.End),
            Prot = (mapping.Permissions[0] == 'r' ? Prot.Read : 0) | (mapping.Permissions[1] == 'w' ? Prot.Write : 0)
                | (mapping.Permissions[2] == 'x' ? Prot.Exec : 0),
            Kind = kind,
            File = file,
            Offset = mapping.Offset,
        })).Error;
        if (error != Errno.None) throw new InvalidOperationException($"installing {mapping}: {error}");
    }

    private FileId CreateFile(FileSpec spec)
    {
        if (spec.SameAs >= 0 || spec.IsZeroDevice || spec.IsRomDevice || spec.IsCounterPage) return FileId.None;
        var order = spec.Kind == FileKind.HugeTlb ? PageGeometry.PmdOrder : 0;
        var made = _machine.Call(
            new CreateFileCall(spec.Name, spec.Kind, (ulong)spec.Pages * spec.PageSize, order));
        if (!made.IsOk) return FileId.None;
        var file = new FileId((int)made.Value);
        // A file that root makes on a disk or in a tmpfs is writable by root alone; so is secret memory.
        if (spec.Kind is FileKind.Disk or FileKind.Secret || spec.Name == "tmpfs")
            _machine.Call(new ChmodCall(file, OthersMayWrite: false));
        if (spec.Kind is FileKind.HugeTlb or FileKind.Secret) return file;
        for (var page = 0; page < spec.Pages; page++)
            _machine.Execute<WriteFileCall, WriteFileResult>(
                new(file, (ulong)page * Page, [FileSpec.FirstByte(page)]));
        _machine.Call(new FsyncCall(file));
        return file;
    }

    /// <summary>A process runs: the page of its code is mapped, and the tables over it are there.</summary>
    private void TouchText(SpaceId space)
    {
        foreach (var mapping in Initial.Mappings)
            if (mapping.Name == "exe")
                _machine.Execute<TouchCall, AccessResult>(new(space, mapping.Start, 1, IsWrite: false));
    }

    private ulong FindZeroPage(SpaceId space)
    {
        var mapped = _machine.Call(new MmapCall(space, 0, Page, Prot.Read, MapFlags.Private | MapFlags.Anonymous));
        _machine.Execute<TouchCall, AccessResult>(new(space, mapped.Value, 1, IsWrite: false));
        var pfn = _machine.Query<TranslateQuery, Pfn?>(new(space, mapped.Value))!.Value.Value;
        _machine.Call(new MunmapCall(space, mapped.Value, Page));
        return pfn;
    }
}
