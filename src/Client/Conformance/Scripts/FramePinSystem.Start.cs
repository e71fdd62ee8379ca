using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Machines;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Conformance.Scripts;

/// <summary>What a script finds: the process and the files.</summary>
public sealed partial class FramePinSystem
{
    private void Install(AddressSpace space, InitialMapping mapping)
    {
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
            ? _machine.CreateFile(mapping.Name, FileKind.Disk, size)
            : null;
        var error = _machine.InstallMapping(space, new InstalledMapping
        {
            Range = new AddressRange(mapping.Start, mapping.End),
            Prot = (mapping.Permissions[0] == 'r' ? Prot.Read : 0) | (mapping.Permissions[1] == 'w' ? Prot.Write : 0)
                | (mapping.Permissions[2] == 'x' ? Prot.Exec : 0),
            Kind = kind,
            File = file is null ? FileId.None : new FileId(file.Id),
            Offset = mapping.Offset,
        });
        if (error != Errno.None) throw new InvalidOperationException($"installing {mapping}: {error}");
    }

    private MemoryFile? CreateFile(FileSpec spec)
    {
        if (spec.SameAs >= 0 || spec.IsZeroDevice || spec.IsRomDevice) return null;
        if (_machine.CreateFile(spec.Name, spec.Kind, (ulong)spec.Pages * spec.PageSize, spec.Kind == FileKind.HugeTlb
            ? 9
            : 0) is not { } file)
            return null;
        // What root opens on a disk or in a tmpfs is writable by root alone; so is secret memory.
        if (spec.Kind is FileKind.Disk or FileKind.Secret || spec.Name == "tmpfs")
            _machine.SetOthersMayWrite(file, false);
        if (spec.Kind is FileKind.HugeTlb or FileKind.Secret) return file;
        for (var page = 0; page < spec.Pages; page++)
            _machine.WriteFile(file, (ulong)page * Page, [FileSpec.FirstByte(page)], out _);
        _machine.Fsync(file);
        return file;
    }

    /// <summary>A process runs: the page of its code is mapped, and the tables over it are there.</summary>
    private void TouchText(AddressSpace space)
    {
        foreach (var mapping in Initial.Mappings)
            if (mapping.Name == "exe") _machine.Touch(space, mapping.Start, isWrite: false);
    }

    private ulong FindZeroPage(AddressSpace space)
    {
        var mapped = _machine.Mmap(space, new MmapRequest
        {
            Length = Page,
            Prot = Prot.Read,
            Flags = MapFlags.Private | MapFlags.Anonymous,
        });
        _machine.Touch(space, mapped.Value, isWrite: false);
        var pfn = _machine.Translate(space, mapped.Value)!.Value.Value;
        _machine.Munmap(space, mapped.Value, Page);
        return pfn;
    }
}
