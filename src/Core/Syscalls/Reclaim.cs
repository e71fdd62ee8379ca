using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// MADV_PAGEOUT, and MADV_FREE and MADV_WILLNEED beside it: reclaim of the pages of one area (mm/madvise.c,
/// mm/vmscan.c: shrink_folio_list). Under the turn.
/// </summary>
internal static class Reclaim
{
    /// <summary>
    /// MADV_FREE: anonymous pages may be dropped from now on until somebody stores to them (madvise_free_pte_range).
    /// They keep their contents until then. Pages in swap are dropped at once.
    /// </summary>
    public static void MarkLazyFree(KernelState kernel, AddressSpace space, Vma vma, AddressRange part) =>
        ForEachFolio(kernel, space, part, (slot, pages) =>
        {
            var head = kernel.Memory.Frames.HeadOf(Pte.PfnOf(space.PageTable[slot]));
            var info = kernel.Memory.Frames[head];
            var isShared = slot.Order > 0 ? LargeFolio.IsMappedShared(kernel, head) : info.MapCount != pages;
            // A page that was written through a pin is given away only by its last user.
            var isUsed = (info.Flags & (FrameFlags.Dirty | FrameFlags.SwapCache)) != 0 || slot.Order > 0;
            if (isUsed && isShared) return;
            if ((info.Flags & FrameFlags.SwapCache) != 0 && !kernel.Swap!.TryDropCache(head)) return;
            for (var i = 0; i < pages; i++)
                space.PageTable[slot with { Index = slot.Index + i }] &= ~(Pte.Dirty | Pte.Accessed);
            info.Flags &= ~FrameFlags.Dirty;
            // A locked page is on no list of pages to reclaim (folio_mark_lazyfree: unevictable).
            if ((info.Flags & FrameFlags.Mlocked) == 0) info.Flags |= FrameFlags.LazyFree;
        }, onSwap: (ref ulong entry) => Drop(kernel, space, vma, ref entry));

    /// <summary>
    /// madvise_pageout for one area: pages that nobody else maps are unmapped, and go where nothing is lost by that.
    /// </summary>
    public static void PageOut(KernelState kernel, AddressSpace space, Vma vma, AddressRange part)
    {
        // can_do_file_pageout: else it would tell who has the file cached.
        var mayPageOutFile = !vma.IsClosedTo(space.Task);
        if (!vma.IsAnonymous && !mayPageOutFile && vma.Has(VmFlags.MayShare)) return;
        ForEachFolio(kernel, space, part, (slot, pages) =>
        {
            var entry = space.PageTable[slot];
            var head = kernel.Memory.Frames.HeadOf(Pte.PfnOf(entry));
            var info = kernel.Memory.Frames[head];
            if ((info.Flags & FrameFlags.HwPoison) != 0 || LargeFolio.IsMappedShared(kernel, head)) return;
            if ((entry & Pte.Anon) == 0 && !mayPageOutFile) return;
            if (Mlock.IsLocked(kernel, head)) Mlock.PutBack(kernel, head);
            else if ((entry & Pte.Anon) == 0) PageOutFile(kernel, space, vma, slot);
            else if ((info.Flags & FrameFlags.LazyFree) != 0 || vma.Has(VmFlags.Droppable))
                Discard(kernel, space, vma, slot, pages);
            else PageOutAnonymous(kernel, space, vma, slot, pages);
        });
    }

    /// <summary>
    /// madvise_willneed without a disk file: what is in swap is read back into the swap cache, and not mapped.
    /// </summary>
    public static void ReadBack(KernelState kernel, AddressSpace space, Vma vma, AddressRange part)
    {
        if (kernel.Swap is not { } swap) return;
        if (vma.File is { } file)
        {
            for (var at = part.Start; at < part.End; at += PageGeometry.PageSize) file.ReadBack(vma.IndexOf(at));
            return;
        }

        if (!vma.IsAnonymous) return;
        ForEachFolio(kernel, space, part, act: null, onSwap: (ref ulong entry) =>
        {
            var slot = Pte.SlotOf(entry);
            if (swap.Cached(slot) is not null
                || kernel.Memory.Allocate(0, AllocationContext.Movable, FrameFlags.Anon) is not { } pfn)
                return;
            swap.Read(slot, pfn);
            swap.AddToCache(slot, pfn);
            kernel.Memory.Put(pfn);
        });
    }

    /// <summary>
    /// MADV_COLD: nothing ages here, but a large folio that the range cuts is split as for the others.
    /// </summary>
    public static void Cool(KernelState kernel, AddressSpace space, AddressRange part) =>
        ForEachFolio(kernel, space, part, static (_, _) => { });

    /// <summary>
    /// Drops pages of MADV_FREE and of droppable memory, unless they were stored to since or have another user.
    /// </summary>
    private static void Discard(KernelState kernel, AddressSpace space, Vma vma, LeafSlot slot, int pages)
    {
        var head = kernel.Memory.Frames.HeadOf(Pte.PfnOf(space.PageTable[slot]));
        var info = kernel.Memory.Frames[head];
        var isDroppable = vma.Has(VmFlags.Droppable);
        var isDirty = (info.Flags & FrameFlags.Dirty) != 0;
        for (var i = 0; i < pages; i++)
            isDirty |= (space.PageTable[slot with { Index = slot.Index + i }] & Pte.Dirty) != 0;
        var isKept = (isDirty && !isDroppable) || kernel.Memory.Frames.RefCount(head) != info.MapCount;
        if (slot.Order > 0)
        {
            // try_to_unmap looks at its pages one by one (TTU_SPLIT_HUGE_PMD): the table of small entries stays.
            if (!Mapping.SplitLeaf(kernel, space, vma.Start, slot)) return;
            slot = new LeafSlot(PageTable.TableOf(space.PageTable[slot]), 0, 0);
            pages = PageGeometry.EntriesPerTable;
        }

        if (isKept)
        {
            // Stored to, it is ordinary memory again.
            if (isDirty) info.Flags &= ~FrameFlags.LazyFree;
            return;
        }

        for (var i = 0; i < pages; i++)
            Drop(kernel, space, vma, ref space.PageTable[slot with { Index = slot.Index + i }]);
    }

    /// <summary>
    /// Anonymous memory goes to swap: its entries name slots from then on. A page that somebody else holds a reference
    /// on stays in the swap cache, where the next fault finds it; a pinned one is not touched, nor is a large one that
    /// is held.
    /// </summary>
    private static void PageOutAnonymous(KernelState kernel, AddressSpace space, Vma vma, LeafSlot slot, int pages)
    {
        var frames = kernel.Memory.Frames;
        var head = frames.HeadOf(Pte.PfnOf(space.PageTable[slot]));
        if (frames.MaybeDmaPinned(head)) return;
        // A large folio goes as it is where it fits; else its pages are tried one by one, of which only the others are
        // kept.
        var fits = kernel.Swap is { } device && device.Used + (ulong)(1 << frames.OrderOf(head)) <= device.Pages;
        if (frames.OrderOf(head) > 0 && !LargeFolio.Split(kernel, head, dropsZeroes: !fits)) return;
        if (kernel.Swap is not { } swap) return;
        if (slot.Order > 0)
        {
            // A table of small entries has taken the place of the huge leaf.
            slot = new LeafSlot(PageTable.TableOf(space.PageTable[slot]), 0, 0);
            pages = PageGeometry.EntriesPerTable;
        }

        for (var i = 0; i < pages; i++)
        {
            ref var entry = ref space.PageTable[slot with { Index = slot.Index + i }];
            if ((entry & Pte.Special) == 0) SwapOut(kernel, space, vma, swap, ref entry);
        }
    }

    private static void SwapOut(KernelState kernel, AddressSpace space, Vma vma, SwapDevice swap, ref ulong entry)
    {
        var (old, frames) = (entry, kernel.Memory.Frames);
        var pfn = Pte.PfnOf(old);
        if ((frames[pfn].Flags & FrameFlags.SwapCache) == 0 && !swap.TryAdd(pfn)) return;
        var number = frames[pfn].SwapSlot;
        swap.Duplicate(number);
        entry = Pte.SwapEntry(number, old & Pte.SwapKeepMask);
        kernel.Memory.MarkDirty(pfn);
        Mapping.Release(kernel, space, vma, old);
        // is_page_cache_freeable: else it is not written, and stays.
        if (frames.RefCount(pfn) == 1) swap.WriteOut(pfn);
    }

    private static void PageOutFile(KernelState kernel, AddressSpace space, Vma vma, LeafSlot slot)
    {
        ref var entry = ref space.PageTable[slot];
        var frames = kernel.Memory.Frames;
        var pfn = Pte.PfnOf(entry);
        var info = frames[pfn];
        // Secret memory is unevictable.
        if ((info.Flags & (FrameFlags.InCache | FrameFlags.Secret)) != FrameFlags.InCache) return;
        var (file, index) = (kernel.Files[info.FileId], info.Index);
        Drop(kernel, space, vma, ref entry);
        // Used ones cannot go; dirty ones of a disk file wait for write-back.
        if (!frames.MaybeDmaPinned(pfn) && frames.RefCount(pfn) == 1 && file.Evict(index)) return;
        if ((info.Flags & FrameFlags.Dirty) != 0 && file.TracksDirty) info.Flags |= FrameFlags.Reclaim;
    }

    private static void Drop(KernelState kernel, AddressSpace space, Vma vma, ref ulong entry)
    {
        var old = entry;
        entry = 0;
        Mapping.Release(kernel, space, vma, old);
    }

    private delegate void SwapAction(ref ulong entry);

    /// <summary>
    /// Walks the counted entries of a range by folios: a leaf of any size, or as many small leaves in a row as map a
    /// whole large folio. A large folio that the range or its entries cover in part is split first, where nobody else
    /// maps or holds it, and passed over where that cannot be. Without an action only entries of swap are looked at.
    /// </summary>
    private static void ForEachFolio(
        KernelState kernel, AddressSpace space, AddressRange part, Action<LeafSlot, int>? act,
        SwapAction? onSwap = null)
    {
        var (table, frames) = (space.PageTable, kernel.Memory.Frames);
        var leaf = table.Leaves(part);
        while (leaf.MoveNext())
        {
            var (entry, slot, address) = (leaf.Entry, leaf.Slot, leaf.Address);
            if ((entry & Pte.Swap) != 0) onSwap?.Invoke(ref leaf.Entry);
            if (!Pte.IsMapped(entry) || (entry & Pte.Special) != 0 || act is null) continue;
            var head = frames.HeadOf(Pte.PfnOf(entry));
            var folio = 1 << frames.OrderOf(head);
            var pages = slot.Order > 0 ? folio : LargeFolio.Batch(table, slot, address, part.End, folio);
            var isWhole = slot.Order > 0 ? address == leaf.End - slot.Size && leaf.End <= part.End : pages == folio;
            if (slot.Order == 0) leaf.Skip(pages);
            if (isWhole) act(slot, slot.Order > 0 ? 1 : pages);
            else if (!LargeFolio.IsMappedShared(kernel, head) && LargeFolio.Split(kernel, head, dropsZeroes: true))
                leaf.Again();
        }
    }
}
