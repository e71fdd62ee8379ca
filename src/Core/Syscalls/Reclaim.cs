using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// MADV_PAGEOUT and what MADV_FREE leaves for it: reclaim of single pages without swap (mm/vmscan.c: shrink_folio_list). Large folios are
/// left alone. Under the turn.
/// </summary>
internal static class Reclaim
{
    /// <summary>
    /// MADV_FREE: anonymous pages may be dropped from now on until somebody stores to them (madvise_free_pte_range). They keep their
    /// contents until then.
    /// </summary>
    public static void MarkLazyFree(MmContext mm, AddressSpace space, AddressRange part)
    {
        ForEachSmall(space, part, slot =>
        {
            ref var entry = ref space.PageTable[slot];
            if ((entry & Pte.Anon) == 0 || (entry & Pte.Compound) != 0) return;
            ref var info = ref mm.Memory.Frames[Pte.PfnOf(entry)];
            // What somebody wrote through a pin is only the last user's to give away.
            if ((info.Flags & FrameFlags.Dirty) != 0 && info.MapCount != 1) return;
            entry &= ~(Pte.Dirty | Pte.Accessed);
            info.Flags = (info.Flags | FrameFlags.LazyFree) & ~FrameFlags.Dirty;
        });
    }

    /// <summary>madvise_pageout for one area: pages that only one entry maps are unmapped, and dropped where nothing would be lost.</summary>
    public static void PageOut(MmContext mm, AddressSpace space, Vma vma, AddressRange part)
    {
        // can_do_file_pageout: else it would tell who has the file cached.
        var mayPageOutFile = vma.File is not { OthersMayWrite: false } || space.Task.OwnsFiles;
        if (!vma.IsAnonymous && !mayPageOutFile && vma.Has(VmFlags.MayShare)) return;
        ForEachSmall(space, part, slot => PageOutOne(mm, space, vma, slot, mayPageOutFile));
    }

    private static void PageOutOne(MmContext mm, AddressSpace space, Vma vma, LeafSlot slot, bool mayPageOutFile)
    {
        ref var entry = ref space.PageTable[slot];
        if ((entry & (Pte.Special | Pte.Compound)) != 0) return;
        var frames = mm.Memory.Frames;
        var pfn = Pte.PfnOf(entry);
        ref var info = ref frames[pfn];
        if (info.MapCount != 1 || (info.Flags & (FrameFlags.HwPoison | FrameFlags.Mlocked)) != 0) return;
        if ((entry & Pte.Anon) != 0)
        {
            var isDroppable = vma.Has(VmFlags.Droppable);
            if ((info.Flags & FrameFlags.LazyFree) == 0 && !isDroppable) return;
            // Stored to since, or used by somebody else: it stays, and is ordinary memory again.
            var isDirty = (entry & Pte.Dirty) != 0 || (info.Flags & FrameFlags.Dirty) != 0;
            if ((isDirty && !isDroppable) || frames.RefCount(pfn) != 1)
            {
                if (isDirty) info.Flags &= ~FrameFlags.LazyFree;
                return;
            }

            Unmap(mm, ref entry);
            return;
        }

        // Secret memory is unevictable.
        if ((info.Flags & (FrameFlags.InCache | FrameFlags.Secret)) != FrameFlags.InCache || !mayPageOutFile) return;
        var (file, index) = (mm.Files[info.FileId], info.Index);
        Unmap(mm, ref entry);
        // Dirty pages wait for write-back or, in memory files, for swap that is not there; used ones cannot go.
        var isKept = (info.Flags & FrameFlags.Dirty) != 0 || frames.MaybeDmaPinned(pfn) || frames.RefCount(pfn) != 1;
        if (!isKept) file.Evict(index);
        else if ((info.Flags & FrameFlags.Dirty) != 0 && file.TracksDirty) info.Flags |= FrameFlags.Reclaim;
    }

    private static void Unmap(MmContext mm, ref ulong entry)
    {
        var old = entry;
        entry = 0;
        Mapping.Release(mm, old);
    }

    private static void ForEachSmall(AddressSpace space, AddressRange part, Action<LeafSlot> act)
    {
        var address = part.Start;
        while (space.PageTable.Next(ref address, part.End, out var slot))
        {
            if (slot.Order == 0 && Pte.IsMapped(space.PageTable[slot])) act(slot);
            address = PageGeometry.AlignDown(address, slot.Size) + slot.Size;
        }
    }
}
