using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>Faults on memory that was paged out (mm/memory.c: do_swap_page).</summary>
internal static partial class FaultHandler
{
    /// <summary>
    /// Maps the page that a swap entry stands for: the cached one, or a fresh one, which skips the cache where only
    /// this entry names the slot. Exclusive is what the entry says, what was just read for it alone, and what nobody
    /// else holds.
    /// </summary>
    private static VmFault SwapIn(KernelState kernel, in FaultRequest request, LeafSlot slot)
    {
        var (space, vma, swap) = (request.Space, request.Vma, kernel.Swap!);
        var frames = kernel.Memory.Frames;
        ref var entry = ref space.PageTable[slot];
        var old = entry;
        var number = Pte.SlotOf(old);
        var isExclusive = (old & Pte.Exclusive) != 0;
        var cached = swap.Cached(number);
        if (cached is { } found && (frames[found].Flags & FrameFlags.HwPoison) != 0) return VmFault.HwPoison;
        if ((cached ?? kernel.AllocatePage(
            space, request.Address & PageGeometry.PageMask, request.Context, FrameFlags.Anon)) is not { } pfn)
            return VmFault.Oom;
        if (cached is not null) frames.AddRefs(pfn, 1);
        else
        {
            swap.Read(number, pfn);
            if (swap.Count(number) == 1)
            {
                isExclusive = true;
                kernel.Memory.MarkDirty(pfn);
            }
            else
            {
                swap.AddToCache(number, pfn);
            }
        }

        swap.Free(number);
        if (ShouldDropCache(kernel, request, pfn)) swap.TryDropCache(pfn);
        isExclusive |= frames.RefCount(pfn) == 1;
        var bits = Pte.Anon | Pte.Accessed | (old & (Pte.UffdWp | Pte.SoftDirty));
        var isWatched = (vma.Has(VmFlags.UffdWp) && (old & Pte.UffdWp) != 0)
            || (Mapping.WatchesStores(kernel, vma) && (old & Pte.SoftDirty) == 0);
        bits |= Mapping.AccessBits(vma, isExclusive && !isWatched) | (isExclusive ? Pte.Exclusive : 0);
        var isWritten = request.IsWrite && (bits & Pte.Write) != 0;
        entry = Pte.Leaf(pfn, bits | (isWritten ? Pte.Dirty | kernel.SoftDirty : 0));
        var isFresh = frames[pfn].AnonVmaId == 0;
        if (isFresh)
        {
            if (isExclusive) Rmap.AddNewAnon(kernel, vma, request.Address, pfn);
            else Rmap.AddSharedAnon(kernel, vma, request.Address, pfn);
        }

        frames[pfn].MapCount++;
        // folio_add_new_anon_rmap locks nothing: only a page that was found in the swap cache is locked here.
        if (!isFresh || kernel.Profile.SwapInLocksFreshPages) Mlock.Mapped(kernel, vma, pfn);
        if (request.IsWrite && !isWritten)
        {
            var result = WriteProtected(kernel, request, slot);
            if ((result & VmFault.ErrorMask) != 0) return result;
        }

        return VmFault.NoPage | VmFault.Major;
    }

    /// <summary>
    /// should_try_to_free_swap: for a writer that would be alone, for locked memory, and where swap is short.
    /// </summary>
    private static bool ShouldDropCache(KernelState kernel, in FaultRequest request, Pfn pfn)
    {
        var info = kernel.Memory.Frames[pfn];
        if ((info.Flags & FrameFlags.SwapCache) == 0) return false;
        if (kernel.Swap!.IsHalfFull || request.Vma.Has(VmFlags.Locked) || (info.Flags & FrameFlags.Mlocked) != 0)
            return true;
        return request.IsWrite && kernel.Memory.Frames.RefCount(pfn) == 2;
    }
}
