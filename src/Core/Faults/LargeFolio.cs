using System.Diagnostics;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>Large anonymous folios that small entries map: who does, and how they are split. Under the turn.</summary>
internal static class LargeFolio
{
    /// <summary>
    /// split_folio (mm/huge_memory.c) at <paramref name="head"/>: each frame is a folio of its own from then on, with
    /// the references of the entries that map it, and is freed where none does. False, and nothing done but that huge
    /// leaves may have become small: somebody holds it otherwise (can_split_folio), or no table is left.
    /// </summary>
    /// <param name="kernel">The machine's memory.</param>
    /// <param name="head">First frame of the folio.</param>
    /// <param name="dropsZeroes"> Frames that hold nothing but zeroes give way to the zero page, as whenever a folio is
    /// split for the sake of a part of it (try_to_map_unused_to_zeropage).
    /// </param>
    public static bool Split(KernelState kernel, Pfn head, bool dropsZeroes)
    {
        var frames = kernel.Memory.Frames;
        if ((frames[head].Flags & FrameFlags.Anon) == 0 || frames.RefCount(head) != frames[head].MapCount) return false;
        foreach (var (vma, address) in Rmap.Entries(kernel, head))
        {
            var slot = vma.Space.PageTable.Find(address);
            // Taken away to be split, each leaf gives up the lock of its area; what comes back takes it again
            // (try_to_migrate_one).
            if (slot.Order == 0) Mlock.Unmapped(kernel, vma, head);
            else if (!Mapping.SplitLeaf(kernel, vma.Space, address, slot)) return false;
        }

        var order = frames.OrderOf(head);
        var maps = new int[1 << order];
        var locks = new ushort[1 << order];
        var mayDrop = dropsZeroes && kernel.Profile.SplitDropsZeroes && !Mlock.IsLocked(kernel, head);
        var leaves = Rmap.Entries(kernel, head);
        Debug.Assert(leaves.Count == frames[head].MapCount, "an entry of the folio was not found");
        foreach (var (vma, address) in leaves)
        {
            var table = vma.Space.PageTable;
            ref var entry = ref table[table.Find(address)];
            // One page that was stored to makes the whole folio dirty (try_to_migrate_one), and so each page that comes
            // of it.
            if ((entry & Pte.Dirty) != 0) kernel.Memory.MarkDirty(head);
            var pfn = Pte.PfnOf(entry);
            var isDropped = mayDrop && !vma.Has(VmFlags.Locked) && (frames[pfn].Flags & FrameFlags.HwPoison) == 0
                && !kernel.Memory.Bytes.Of(pfn).ContainsAnyExcept((byte)0);
            if (isDropped)
            {
                var kept = entry & (Pte.UffdWp | Pte.SoftDirty);
                entry = Pte.Leaf(
                    kernel.Memory.ZeroPage, Pte.Special | Pte.Accessed | Mapping.AccessBits(vma, false) | kept);
                continue;
            }

            entry &= ~Pte.Compound;
            maps[(int)(pfn.Value - head.Value)]++;
            if (vma.Has(VmFlags.Locked)) locks[(int)(pfn.Value - head.Value)]++;
        }

        var shared = frames[head].Flags & ~FrameFlags.MappedShared;
        var (anonVma, index) = (frames[head].AnonVmaId, frames[head].Index);
        for (var i = 0; i < maps.Length; i++)
        {
            var pfn = head + (ulong)i;
            var info = frames[pfn];
            var flags = shared | (info.Flags & FrameFlags.HwPoison);
            info.Clear();
            info.Flags = flags;
            info.MapCount = maps[i];
            info.AnonVmaId = anonVma;
            info.Index = index + (ulong)i;
            info.MlockCount = locks[i];
            if (locks[i] > 0) info.Flags |= FrameFlags.Mlocked;
            frames.InitCount(pfn);
            if (maps[i] > 0) frames.AddRefs(pfn, maps[i] - 1);
            else kernel.Memory.Put(pfn);
        }

        return true;
    }

    /// <summary>
    /// folio_maybe_mapped_shared: more than one entry maps a small folio, or more than one address space a part of a
    /// large one. Of these only two are remembered, so that a third one that stays when they are gone does not know
    /// that it is alone.
    /// </summary>
    public static bool IsMappedShared(KernelState kernel, Pfn head)
    {
        var info = kernel.Memory.Frames[head];
        if (info.MapCount <= 1 || kernel.Memory.Frames.OrderOf(head) == 0) return info.MapCount > 1;
        return (info.Flags & FrameFlags.MappedShared) != 0;
    }

    /// <summary>
    /// Counts entries of <paramref name="space"/> that map a folio from now on, and for a large anonymous one who maps
    /// it (include/linux/rmap.h: folio_add_return_large_mapcount).
    /// </summary>
    public static void AddMaps(KernelState kernel, AddressSpace space, Pfn head, int count)
    {
        var info = kernel.Memory.Frames[head];
        info.MapCount += count;
        if (!RemembersSpaces(info)) return;
        var users = new Users(kernel.Memory.Frames[head + 1]);
        if (users.First == space.Id.Value) users.FirstCount += count;
        else if (users.Second == space.Id.Value) users.SecondCount += count;
        else if (users.First == 0)
        {
            (users.First, users.FirstCount) = (space.Id.Value, count);
            if (info.MapCount != count) info.Flags |= FrameFlags.MappedShared;
        }
        else if (users.Second == 0)
        {
            (users.Second, users.SecondCount) = (space.Id.Value, count);
            info.Flags |= FrameFlags.MappedShared;
        }
    }

    /// <summary>
    /// The reverse (folio_sub_return_large_mapcount). Entries that were made while both places were taken may be
    /// counted against another.
    /// </summary>
    public static void RemoveMaps(KernelState kernel, AddressSpace space, Pfn head, int count)
    {
        var info = kernel.Memory.Frames[head];
        info.MapCount -= count;
        if (!RemembersSpaces(info)) return;
        var users = new Users(kernel.Memory.Frames[head + 1]);
        if (users.First == space.Id.Value)
        {
            if (users.FirstCount > count)
            {
                users.FirstCount -= count;
                return;
            }

            (users.First, users.FirstCount) = (0, 0);
        }
        else if (users.Second == space.Id.Value)
        {
            if (users.SecondCount > count)
            {
                users.SecondCount -= count;
                return;
            }

            (users.Second, users.SecondCount) = (0, 0);
        }

        if (users.FirstCount == info.MapCount || users.SecondCount == info.MapCount)
            info.Flags &= ~FrameFlags.MappedShared;
    }

    /// <summary>
    /// folio_pte_batch: entries in a row, in one table and below the end, that map the folio's frames in a row.
    /// </summary>
    public static int Batch(PageTable table, LeafSlot slot, ulong address, ulong end, int folio)
    {
        var first = table[slot];
        if (folio == 1) return 1;
        var most = Math.Min(
            PageGeometry.EntriesPerTable - slot.Index, (int)((end - address) >> PageGeometry.PageShift));
        most = Math.Min(most, folio - (int)(Pte.PfnOf(first).Value & (ulong)(folio - 1)));
        var count = 1;
        while (count < most && IsNext(table[slot with { Index = slot.Index + count }], first, count)) count++;
        return count;
    }

    /// <summary>The same entry but for its frame, and what reclaim does not mind: accessed, dirty, writable.</summary>
    private static bool IsNext(ulong entry, ulong first, int distance)
    {
        const ulong minded = ~(Pte.PfnMask | Pte.Accessed | Pte.Dirty | Pte.SoftDirty | Pte.Write | Pte.Exclusive);
        return Pte.IsMapped(entry) && ((entry ^ first) & minded) == 0
            && Pte.PfnOf(entry).Value == Pte.PfnOf(first).Value + (ulong)distance;
    }

    private static bool RemembersSpaces(FrameRecord head) =>
        head.Order > 0 && (head.Flags & (FrameFlags.Head | FrameFlags.Anon | FrameFlags.HugeTlb)) == (FrameFlags.Head
            | FrameFlags.Anon);

    /// <summary>
    /// Two address spaces, and how many entries of each map the folio: kept in the record of its second frame, as Linux
    /// does.
    /// </summary>
    private readonly ref struct Users(FrameRecord second)
    {
        private readonly FrameRecord _second = second;

        public int First
        {
            get => (int)(uint)_second.Index;
            set => _second.Index = (_second.Index & ~0xffff_fffful) | (uint)value;
        }

        public int Second
        {
            get => (int)(_second.Index >> 32);
            set => _second.Index = (uint)_second.Index | ((ulong)value << 32);
        }

        public int FirstCount
        {
            get => (int)(uint)_second.Link;
            set => _second.Link = (_second.Link & ~0xffff_fffful) | (uint)value;
        }

        public int SecondCount
        {
            get => (int)(_second.Link >> 32);
            set => _second.Link = (uint)_second.Link | ((ulong)value << 32);
        }
    }
}
