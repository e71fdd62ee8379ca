using System.Diagnostics;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>Splits a large anonymous folio into small ones (mm/huge_memory.c: split_folio). Under the turn.</summary>
internal static class FolioSplit
{
    /// <summary>
    /// Splits the folio at <paramref name="head"/>: each frame is a folio of its own from then on, with the references of the entries that
    /// map it, and is freed where none does. False, and nothing done but that huge leaves may have become small: somebody holds it
    /// otherwise (can_split_folio), or no table is left.
    /// </summary>
    public static bool Run(MmContext mm, Pfn head)
    {
        var frames = mm.Memory.Frames;
        if ((frames[head].Flags & FrameFlags.Anon) == 0 || frames.RefCount(head) != frames[head].MapCount) return false;
        foreach (var (space, address) in Leaves(mm, head))
        {
            var slot = space.PageTable.Find(address);
            if (slot.Order > 0 && !Mapping.SplitLeaf(mm, space, slot)) return false;
        }

        var order = frames.OrderOf(head);
        var maps = new int[1 << order];
        foreach (var (space, address) in Leaves(mm, head))
        {
            ref var entry = ref space.PageTable[space.PageTable.Find(address)];
            entry &= ~Pte.Compound;
            maps[(int)(Pte.PfnOf(entry).Value - head.Value)]++;
        }

        Debug.Assert(maps.Sum() == frames[head].MapCount, "an entry of the folio was not found");
        var kept = frames[head].Flags;
        for (var i = 0; i < maps.Length; i++)
        {
            var pfn = head + (ulong)i;
            ref var info = ref frames[pfn];
            var flags = kept | (info.Flags & FrameFlags.HwPoison);
            info = default;
            info.Flags = flags;
            info.MapCount = maps[i];
            frames.InitCount(pfn);
            if (maps[i] > 0) frames.AddRefs(pfn, maps[i] - 1);
            else mm.Memory.Put(pfn);
        }

        return true;
    }

    /// <summary>
    /// folio_maybe_mapped_shared: more than one entry maps a small folio, or more than one address space a part of a large one.
    /// </summary>
    public static bool IsMappedShared(MmContext mm, Pfn head)
    {
        var maps = mm.Memory.Frames[head].MapCount;
        if (maps <= 1 || mm.Memory.Frames.OrderOf(head) == 0) return maps > 1;
        return Leaves(mm, head).Select(leaf => leaf.Space).Distinct().Skip(1).Any();
    }

    private static List<(AddressSpace Space, ulong Address)> Leaves(MmContext mm, Pfn head)
    {
        var found = new List<(AddressSpace, ulong)>();
        var left = mm.Memory.Frames[head].MapCount;
        foreach (var space in mm.Spaces)
        {
            var address = 0UL;
            while (left > 0 && space.PageTable.Next(ref address, PageGeometry.TaskSize, out var slot))
            {
                var entry = space.PageTable[slot];
                if (Pte.IsMapped(entry) && (entry & Pte.Special) == 0 && mm.Memory.Frames.HeadOf(Pte.PfnOf(entry)) == head)
                {
                    found.Add((space, address));
                    left--;
                }

                address = PageGeometry.AlignDown(address, slot.Size) + slot.Size;
            }
        }

        return found;
    }
}
