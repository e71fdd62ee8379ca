using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>munmap (mm/vma.c: do_vmi_munmap; kernel-semantics 4.3).</summary>
internal static class MunmapCall
{
    public static SyscallResult Run(MmContext mm, AddressSpace space, ulong start, ulong length)
    {
        if (!PageGeometry.IsAligned(start, PageGeometry.PageSize)) return Errno.EINVAL;
        if (start > PageGeometry.TaskSize || length > PageGeometry.TaskSize - start) return Errno.EINVAL;
        length = PageGeometry.AlignUp(length, PageGeometry.PageSize);
        if (length == 0) return Errno.EINVAL;
        var error = Unmap(mm, space, new AddressRange(start, start + length));
        return error == Errno.None ? SyscallResult.Ok() : error;
    }

    /// <summary>Removes what lies in the range; nothing there is fine. On an error nothing is unmapped.</summary>
    public static Errno Unmap(MmContext mm, AddressSpace space, AddressRange range)
    {
        var affected = space.Vmas.Overlapping(range);
        if (affected.Count == 0) return Errno.None;
        if (affected.Exists(vma => vma.Has(VmFlags.Sealed))) return Errno.EPERM;
        var first = affected[0];
        var last = affected[^1];
        var cutsFirst = range.Start > first.Start;
        var cutsLast = range.End < last.End;
        // A hole in the middle of one area makes one more of them; trimming an end does not (row 116).
        if (cutsFirst && range.End < first.End && space.MapCount >= PageGeometry.MaxMapCount) return Errno.ENOMEM;
        foreach (var vma in affected)
        {
            var cuts = (cutsFirst && vma == first) || (cutsLast && vma == last);
            if (cuts && vma.NeverSplit) return Errno.EINVAL;
            if (cuts && vma.IsHugeTlb && !CutsAtHugePage(vma, range)) return Errno.EINVAL;
        }

        if (!Mapping.SplitAt(mm, space, range.Start) || !Mapping.SplitAt(mm, space, range.End)) return Errno.ENOMEM;
        foreach (var vma in affected) Remove(mm, space, vma, range);
        return Errno.None;
    }

    private static bool CutsAtHugePage(Vma vma, AddressRange range)
    {
        var size = PageGeometry.PageSize << vma.HugeOrder;
        var cut = vma.Range.Intersect(range);
        return PageGeometry.IsAligned(cut.Start, size) && PageGeometry.IsAligned(cut.End, size);
    }

    private static void Remove(MmContext mm, AddressSpace space, Vma vma, AddressRange range)
    {
        var cut = vma.Range.Intersect(range);
        Mapping.Zap(mm, space, cut.Start, cut.End);
        if (cut.Start > vma.Start && cut.End < vma.End)
        {
            var upper = vma.Slice(cut.End, vma.End);
            vma.End = cut.Start;
            space.Vmas.Insert(upper);
            VmaMerge.Opened(upper);
        }
        else if (cut.Start > vma.Start)
        {
            vma.End = cut.Start;
        }
        else if (cut.End < vma.End)
        {
            vma.PageOffset = vma.IndexOf(cut.End);
            vma.Start = cut.End;
        }
        else
        {
            space.Vmas.Remove(vma);
            VmaMerge.Closed(vma);
            mm.DropIfUnused(vma.File);
        }
    }
}
