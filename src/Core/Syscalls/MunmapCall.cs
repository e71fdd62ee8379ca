using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>munmap (mm/vma.c: do_vmi_munmap; Semantics 4.3).</summary>
public readonly partial record struct MunmapCall(SpaceId Space, ulong Start, ulong Length) : ISyscall<MunmapCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Space(Space) is { Exited: false } space
        ? Run(turn.Kernel, space, Start, Length)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Start).Add(Length);

    public static MunmapCall Read(ref CommandReader reader) =>
        new(reader.Space(), reader.U64(), reader.U64());

    internal static SyscallResult Run(KernelState kernel, AddressSpace space, ulong start, ulong length)
    {
        if (!PageGeometry.IsAligned(start, PageGeometry.PageSize)) return Errno.EINVAL;
        if (start > space.TaskSize || length > space.TaskSize - start) return Errno.EINVAL;
        length = PageGeometry.AlignUp(length, PageGeometry.PageSize);
        if (length == 0) return Errno.EINVAL;
        var error = Unmap(kernel, space, new AddressRange(start, start + length));
        return error == Errno.None ? SyscallResult.Ok() : error;
    }

    /// <summary>Removes what lies in the range; nothing there is fine. On an error nothing is unmapped.</summary>
    internal static Errno Unmap(KernelState kernel, AddressSpace space, AddressRange range)
    {
        var error = Gather(space, range);
        if (error != Errno.None) return error;
        if (!Mapping.SplitAt(kernel, space, range.Start) || !Mapping.SplitAt(kernel, space, range.End))
            return Errno.ENOMEM;
        foreach (var vma in space.Vmas.Overlapping(range))
        {
            Mapping.Zap(kernel, space, vma, vma.Start, vma.End);
            space.Unlink(vma);
            kernel.DropIfUnused(vma.File);
            kernel.DropIfUnused(vma.Device);
        }

        var floor = space.Vmas.Before(range.Start)?.End ?? 0;
        var ceiling = space.Vmas.FindFrom(range.End)?.Start ?? ulong.MaxValue;
        space.PageTable.Prune(range.Start, range.End, floor, ceiling);
        return Errno.None;
    }

    /// <summary>
    /// vms_gather_munmap_vmas: cuts the areas at the ends of the range and sees whether all of it may go. Cuts stay
    /// when it may not.
    /// </summary>
    internal static Errno Gather(AddressSpace space, AddressRange range)
    {
        if (space.Vmas.FindFrom(range.Start) is not { } first || first.Start >= range.End) return Errno.None;
        if (range.Start > first.Start)
        {
            // A hole in the middle of one area makes one more of them; trimming an end does not (row 116).
            if (range.End < first.End && space.MapCount >= PageGeometry.MaxMapCount) return Errno.ENOMEM;
            if (first.Has(VmFlags.Sealed)) return Errno.EPERM;
            var error = VmaMerge.Split(space, first, range.Start, out _, checksLimit: false);
            if (error != Errno.None) return error;
        }

        foreach (var vma in space.Vmas.Overlapping(range))
        {
            if (vma.Has(VmFlags.Sealed)) return Errno.EPERM;
            if (vma.End <= range.End) continue;
            var error = VmaMerge.Split(space, vma, range.End, out _, checksLimit: false);
            if (error != Errno.None) return error;
        }

        return Errno.None;
    }
}
