using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// Puts a mapping that exec made into place, as a recording or a live process shows it. -EEXIST over another mapping,
/// -EINVAL outside the user address space.
/// </summary>
public readonly record struct InstallMappingCall(SpaceId Space, InstalledMapping Mapping) : ISyscall<InstallMappingCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Space(Space) is { Exited: false } space
        ? Install(turn.Kernel, space, Mapping)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Mapping.Range).Add((uint)Mapping.Prot)
        .Add((int)Mapping.Kind).Add(Mapping.IsShared).Add(Mapping.File).Add(Mapping.IsReadOnlyFile)
        .Add(Mapping.Offset).Add((ulong)Mapping.Extra);

    public static InstallMappingCall Read(ref CommandReader reader) => new(reader.Space(), new InstalledMapping
    {
        Range = reader.Range(),
        Prot = (Prot)reader.U32(),
        Kind = (InstalledKind)reader.I32(),
        IsShared = reader.Bool(),
        File = reader.File(),
        IsReadOnlyFile = reader.Bool(),
        Offset = reader.U64(),
        Extra = (VmFlags)reader.U64(),
    });

    internal static Errno Install(KernelState kernel, AddressSpace space, InstalledMapping mapping)
    {
        if (mapping.Kind == InstalledKind.Vsyscall)
        {
            space.HasVsyscall = true;
            return Errno.None;
        }

        var range = mapping.Range;
        if (range.IsEmpty || range.End > space.TaskSize) return Errno.EINVAL;
        if (((range.Start | range.End | mapping.Offset) & ~PageGeometry.PageMask) != 0) return Errno.EINVAL;
        if (space.Vmas.Intersects(range)) return Errno.EEXIST;
        if (mapping.Kind == InstalledKind.Stack) space.StackStart = range.End - PageGeometry.PageSize;
        var file = kernel.File(mapping.File);
        if (file is null && mapping.File != FileId.None) return Errno.EBADF;
        // What mmap asks of a file's offset (file_mmap_ok) and of huge pages (hugetlbfs_file_mmap).
        if (file is not null && mapping.Offset > long.MaxValue - range.Length) return Errno.EOVERFLOW;
        if (file is { Order: > 0 } && ((range.Start | range.End | mapping.Offset)
            & ((PageGeometry.PageSize << file.Order) - 1)) != 0)
            return Errno.EINVAL;
        var offset = file is null ? range.Start : mapping.Offset;
        VmaMerge.InsertOrMerge(space, new Vma
        {
            Start = range.Start,
            End = range.End,
            Flags = mapping.VmFlags | kernel.NewArea,
            PageOffset = offset >> PageGeometry.PageShift,
            File = file,
            SpecialName = mapping.SpecialName,
            HugeOrder = file?.Order ?? 0,
        });
        return Errno.None;
    }
}

/// <summary>What kind of mapping exec left behind.</summary>
public enum InstalledKind
{
    Ordinary,
    Stack,
    Vdso,
    Vvar,
    VvarClock,
    Vsyscall,
}

/// <summary>A mapping to put into place as it stands in /proc/PID/maps.</summary>
public sealed record InstalledMapping
{
    public required AddressRange Range { get; init; }

    public required Prot Prot { get; init; }

    public InstalledKind Kind { get; init; }

    /// <summary>Shared ('s' in maps).</summary>
    public bool IsShared { get; init; }

    /// <summary>The file; none for anonymous memory.</summary>
    public FileId File { get; init; }

    /// <summary>The shared file was not opened for writing.</summary>
    public bool IsReadOnlyFile { get; init; }

    /// <summary>Byte offset in the file.</summary>
    public ulong Offset { get; init; }

    /// <summary>Flags beyond protection and sharing (VmFlags of smaps), such as NORESERVE or DONTCOPY.</summary>
    public VmFlags Extra { get; init; }

    internal string? SpecialName => Kind switch
    {
        InstalledKind.Vdso => "[vdso]",
        InstalledKind.Vvar => "[vvar]",
        InstalledKind.VvarClock => "[vvar_vclock]",
        _ => null,
    };

    internal VmFlags VmFlags
    {
        get
        {
            var flags = (VmFlags)(Prot & Prot.AccessMask) | VmFlags.MayRead | VmFlags.MayWrite | VmFlags.MayExec
                | Extra;
            if (IsShared)
            {
                flags |= VmFlags.MayShare | VmFlags.Shared;
                if (IsReadOnlyFile) flags &= ~(VmFlags.MayWrite | VmFlags.Shared);
            }
            else if ((Prot & Prot.Write) != 0 && (Extra & VmFlags.NoReserve) == 0)
            {
                flags |= VmFlags.Account;
            }

            return Kind switch
            {
                InstalledKind.Stack => flags | VmFlags.GrowsDown | VmFlags.Account,
                InstalledKind.Vdso => flags | VmFlags.DontExpand,
                InstalledKind.Vvar or InstalledKind.VvarClock => (flags & ~(VmFlags.MayWrite | VmFlags.MayExec))
                    | VmFlags.Io | VmFlags.PfnMap | VmFlags.DontExpand | VmFlags.DontDump,
                _ => flags,
            };
        }
    }
}
