using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>
/// Puts frames into page tables and takes them out, with references and map counts. The one place where an entry and
/// the frame behind it change together. Under the turn.
/// </summary>
internal static class Mapping
{
    /// <summary>
    /// Access bits of an entry in <paramref name="vma"/>: PROT_NONE keeps the frame and grants nothing.
    /// </summary>
    public static ulong AccessBits(Vma vma, bool writable)
    {
        if (!vma.HasAny(VmFlags.AccessMask)) return Pte.ProtNone;
        return Pte.Present | (writable && vma.Has(VmFlags.Write) ? Pte.Write : 0);
    }

    /// <summary>
    /// True when entries of a shared file mapping are born writable (no dirty tracking; vma_wants_writenotify).
    /// </summary>
    public static bool SharedBornWritable(KernelState kernel, Vma vma) =>
        vma.Has(VmFlags.Shared | VmFlags.Write) && vma.File is not { TracksDirty: true } && !WatchesStores(kernel, vma);

    /// <summary>
    /// vma_soft_dirty_enabled: the area's soft-dirty bits were cleared, and its next stores are to be noticed.
    /// </summary>
    public static bool WatchesStores(KernelState kernel, Vma vma) =>
        kernel.SoftDirty != 0 && !vma.Has(VmFlags.SoftDirty) && !vma.IsHugeTlb;

    /// <summary>
    /// Maps a small frame that is already referenced by the caller; the mapping takes that reference over. An anonymous
    /// one was just made, and nothing maps it yet.
    /// </summary>
    /// <returns>False when no table is left; the reference stays with the caller.</returns>
    public static bool MapPage(KernelState kernel, AddressSpace space, Vma vma, ulong address, Pfn pfn, ulong bits)
    {
        var slot = space.PageTable.Ensure(address, 0);
        if (!slot.Exists) return false;
        space.PageTable[slot] = Pte.Leaf(pfn, bits);
        var head = kernel.Memory.Frames.HeadOf(pfn);
        if ((bits & Pte.Anon) != 0) Rmap.AddNewAnon(kernel, vma, address, head);
        LargeFolio.AddMaps(kernel, space, head, 1);
        Mlock.Mapped(kernel, vma, head);
        return true;
    }

    /// <summary>Maps a frame without counting it: the zero page, or a raw PFN.</summary>
    public static bool MapSpecial(AddressSpace space, ulong address, Pfn pfn, ulong bits)
    {
        var slot = space.PageTable.Ensure(address, 0);
        if (!slot.Exists) return false;
        space.PageTable[slot] = Pte.Leaf(pfn, bits | Pte.Special);
        return true;
    }

    /// <summary>
    /// Drops what an entry of <paramref name="vma"/> held: its map count and reference, if it is counted at all, or its
    /// part in a slot of swap.
    /// </summary>
    public static void Release(KernelState kernel, AddressSpace space, Vma vma, ulong entry)
    {
        if ((entry & Pte.Swap) != 0) kernel.Swap!.FreeWithCache(Pte.SlotOf(entry));
        if (!Pte.IsMapped(entry) || (entry & Pte.Special) != 0) return;
        var head = kernel.Memory.Frames.HeadOf(Pte.PfnOf(entry));
        var info = kernel.Memory.Frames[head];
        LargeFolio.RemoveMaps(kernel, space, head, 1);
        Mlock.Unmapped(kernel, vma, head);
        if ((entry & Pte.Dirty) != 0 && (info.Flags & FrameFlags.InCache) != 0) kernel.Memory.MarkDirty(head);
        // free_swap_cache
        if (info.MapCount == 0 && (info.Flags & FrameFlags.SwapCache) != 0) kernel.Swap!.TryDropCache(head);
        kernel.Memory.Put(head);
    }

    /// <summary>
    /// Splits a transparent huge leaf into 512 small ones: 511 more references and map counts on the folio.
    /// </summary>
    public static bool SplitLeaf(KernelState kernel, AddressSpace space, ulong address, LeafSlot slot)
    {
        var entry = space.PageTable[slot];
        if (!space.PageTable.Split(slot)) return false;
        if ((entry & Pte.Special) != 0)
        {
            // The huge zero page: small entries of the small one, none of them counted (__split_huge_zero_page_pmd).
            var bits = (entry & Pte.KeepMask & ~(Pte.PfnMask | Pte.Huge)) | (entry & (Pte.Present | Pte.ProtNone));
            var entries = kernel.Tables.Table(PageTable.TableOf(space.PageTable[slot]));
            entries.Fill(Pte.Leaf(kernel.Memory.ZeroPage, bits));
            return true;
        }

        const int more = PageGeometry.EntriesPerTable - 1;
        var head = kernel.Memory.Frames.HeadOf(Pte.PfnOf(entry));
        kernel.Memory.Frames.AddRefs(head, more);
        LargeFolio.AddMaps(kernel, space, head, more);
        // Its small entries do not lock what the huge one did (folio_remove_rmap_pmd).
        if (Mlock.IsLocked(kernel, head)) Mlock.Unmapped(kernel, space.Vmas.Find(address), head);
        // The folio knows now what the huge entry said (__split_huge_pmd_locked).
        if ((entry & Pte.Dirty) != 0) kernel.Memory.MarkDirty(head);
        return true;
    }

    /// <summary>
    /// Splits a huge leaf that <paramref name="address"/> cuts in two; nothing to do elsewhere. False: no table left.
    /// </summary>
    public static bool SplitAt(KernelState kernel, AddressSpace space, ulong address)
    {
        var slot = space.PageTable.Find(address);
        if (!slot.Exists || slot.Order == 0 || PageGeometry.IsAligned(address, slot.Size)) return true;
        var head = Pte.PfnOf(space.PageTable[slot]);
        return (kernel.Memory.Frames[head].Flags & FrameFlags.HugeTlb) != 0 || SplitLeaf(kernel, space, address, slot);
    }

    /// <summary>
    /// Removes every entry of <paramref name="vma"/> in [start, end) and what it held (zap_page_range), markers too.
    /// Leaves that the borders cut are split first. Tables stay, empty as they may be: munmap frees them.
    /// </summary>
    /// <param name="keepMarkers">Guard markers stay (MADV_DONTNEED).</param>
    /// <param name="onlyFile">Leaves private copies alone (truncate without even_cows).</param>
    public static bool Zap(
        KernelState kernel, AddressSpace space, Vma vma, ulong start, ulong end, bool keepMarkers = false,
        bool onlyFile = false)
    {
        if (!SplitAt(kernel, space, start) || !SplitAt(kernel, space, end)) return false;
        var leaf = space.PageTable.Leaves(start, end);
        while (leaf.MoveNext())
        {
            var old = leaf.Entry;
            if ((keepMarkers && old == Pte.GuardMarker) || (onlyFile && (old & Pte.Anon) != 0)) continue;
            leaf.Entry = 0;
            if (vma.IsHugeTlb) HugeTlb.RestorePromise(kernel, vma, leaf.Address, old);
            Release(kernel, space, vma, old);
        }

        return true;
    }

    /// <summary>Gives the entries of a range the protection of <paramref name="vma"/> (change_protection).</summary>
    public static bool ChangeProtection(KernelState kernel, AddressSpace space, Vma vma, ulong start, ulong end)
    {
        if (!SplitAt(kernel, space, start) || !SplitAt(kernel, space, end)) return false;
        var leaf = space.PageTable.Leaves(start, end);
        while (leaf.MoveNext())
        {
            ref var entry = ref leaf.Entry;
            if (Pte.IsMapped(entry))
                entry = (entry & Pte.KeepMask) | AccessBits(vma, MayStayWritable(kernel, vma, entry));
        }

        return true;
    }

    /// <summary>
    /// can_change_pte_writable: mprotect makes a page writable at once where no write fault would have anything to do.
    /// </summary>
    public static bool MayStayWritable(KernelState kernel, Vma vma, ulong entry)
    {
        if (!vma.Has(VmFlags.Write) || (entry & Pte.UffdWp) != 0) return false;
        var isWatched = WatchesStores(kernel, vma);
        if (isWatched && (entry & Pte.SoftDirty) == 0) return false;
        if (!vma.Has(VmFlags.Shared)) return (entry & (Pte.Anon | Pte.Exclusive)) == (Pte.Anon | Pte.Exclusive);
        return ((entry & Pte.DirtyTracked) == 0 && !isWatched) || (entry & Pte.Dirty) != 0;
    }
}
