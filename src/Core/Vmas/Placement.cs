using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;

namespace FramePin.Core.Vmas;

/// <summary>
/// Chooses addresses (mm/mmap.c: get_unmapped_area; mm/huge_memory.c: thp_get_unmapped_area; Semantics 0.1).
/// </summary>
internal static class Placement
{
    /// <summary>Start of a VMA with the guard gap that a growing stack keeps below it (vm_start_gap).</summary>
    public static ulong GuardedStart(Vma vma) =>
        !vma.Has(VmFlags.GrowsDown) ? vma.Start
        : vma.Start > PageGeometry.StackGuardGap ? vma.Start - PageGeometry.StackGuardGap : 0;

    /// <summary>
    /// The address for a new mapping of <paramref name="length"/> bytes (page multiple).
    /// </summary>
    /// <param name="space">Where.</param>
    /// <param name="profile">Decides whether anonymous memory is aligned to huge pages.</param>
    /// <param name="hint">Wanted address, 0 for none; taken when it is free.</param>
    /// <param name="length">Bytes, a multiple of the page size.</param>
    /// <param name="file">The file; null for anonymous memory and devices.</param>
    /// <param name="fileOffset">Byte offset in the file.</param>
    /// <param name="hugeOrder">Huge page order of a hugetlb mapping, 0 otherwise.</param>
    /// <param name="isMove">A move by mremap: no huge-page alignment.</param>
    /// <returns>The address, or -ENOMEM.</returns>
    public static SyscallResult Choose(
        AddressSpace space, KernelProfile profile, ulong hint, ulong length, MemoryFile? file, ulong fileOffset,
        int hugeOrder, bool isMove)
    {
        if (length > PageGeometry.TaskSize) return Errno.ENOMEM;
        var alignment = PageGeometry.PageSize << hugeOrder;
        if (hugeOrder == 0 && !isMove && WantsHugeAlignment(profile, hint, length, file, fileOffset))
        {
            // __thp_get_unmapped_area asks for room to align first, with the hint too; a hint taken is left as it is.
            if (hint != 0 && TakeHint(space, hint, length + PageGeometry.PmdSize) is { } roomy)
                return SyscallResult.Ok(roomy);
            if (SearchAligned(space, length, file is null ? 0 : fileOffset) is { } aligned)
                return SyscallResult.Ok(aligned);
        }

        if (hint != 0 && TakeHint(space, PageGeometry.AlignUp(hint, alignment), length) is { } taken)
            return SyscallResult.Ok(taken);
        if (hugeOrder > 0) return Search(space, length, alignment);
        return Search(space, length, PageGeometry.PageSize);
    }

    private static ulong? TakeHint(AddressSpace space, ulong address, ulong length)
    {
        if (address < PageGeometry.MmapMinAddress || address > PageGeometry.TaskSize - length) return null;
        var next = space.Vmas.FindFrom(address);
        if (next is not null && address + length > GuardedStart(next)) return null;
        return address;
    }

    private static bool WantsHugeAlignment(
        KernelProfile profile, ulong hint, ulong length, MemoryFile? file, ulong fileOffset)
    {
        if (file is null)
            return profile.AlignsHugeAnonymous && hint == 0 && PageGeometry.IsAligned(length, PageGeometry.PmdSize);
        if (!file.HasHugePlacement) return false;
        var firstAligned = PageGeometry.AlignUp(fileOffset, PageGeometry.PmdSize);
        return fileOffset + length > firstAligned && fileOffset + length - firstAligned >= PageGeometry.PmdSize;
    }

    private static ulong? SearchAligned(AddressSpace space, ulong length, ulong fileOffset)
    {
        var found = Search(space, length + PageGeometry.PmdSize, PageGeometry.PageSize);
        if (!found.IsOk) return null;
        var shift = (fileOffset - found.Value) & (PageGeometry.PmdSize - 1);
        return found.Value + (shift == 0 ? PageGeometry.PmdSize : shift);
    }

    /// <summary>Highest gap below mmap_base that holds the length; if there is none, the lowest above it.</summary>
    private static SyscallResult Search(AddressSpace space, ulong length, ulong alignment)
    {
        var top = Math.Min(space.Layout.MmapBase, PageGeometry.TaskSize);
        var vmas = space.Vmas;
        var wanted = length + alignment - PageGeometry.PageSize;
        var limit = top;
        for (var i = vmas.LowerIndex(top) - 1; i >= -1; i--)
        {
            var gapStart = Math.Max(i >= 0 ? vmas[i].End : 0, PageGeometry.MmapMinAddress);
            var above = i + 1 < vmas.Count ? vmas[i + 1] : null;
            var gapEnd = Math.Min(limit, above?.Start ?? PageGeometry.TaskSize);
            if (gapEnd < gapStart || gapEnd - gapStart < wanted) continue;
            if (above is not null && GuardedStart(above) < gapEnd)
            {
                // A gap that would do, but for the stack above it: the search goes on below the stack's guard gap.
                limit = gapEnd = GuardedStart(above);
                if (gapEnd < gapStart || gapEnd - gapStart < wanted) continue;
            }

            return SyscallResult.Ok(PageGeometry.AlignDown(gapEnd - length, alignment));
        }

        return SearchBottomUp(space, length, alignment, top);
    }

    private static SyscallResult SearchBottomUp(AddressSpace space, ulong length, ulong alignment, ulong from)
    {
        var vmas = space.Vmas;
        var start = from;
        for (var i = vmas.LowerIndex(from); ; i++)
        {
            var end = i < vmas.Count ? GuardedStart(vmas[i]) : PageGeometry.TaskSize;
            var address = PageGeometry.AlignUp(start, alignment);
            if (end > address && end - address >= length) return SyscallResult.Ok(address);
            if (i >= vmas.Count) return Errno.ENOMEM;
            start = Math.Max(start, vmas[i].End);
        }
    }
}
