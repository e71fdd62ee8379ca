using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;

namespace FramePin.Core.Inspection;

/// <summary>
/// /proc/PID/pagemap: bit 63 present, 62 swapped, 61 file or shared, 58 guard region, 57 write-protected by a
/// userfaultfd, 56 exclusively mapped, 55 soft-dirty; the PFN below, or the slot of swap from bit 5 on. Areas of
/// VM_PFNMAP read as holes.
/// </summary>
/// <param name="Space">The address space.</param>
/// <param name="Start">Address in bytes.</param>
/// <param name="Count">Pages.</param>
public readonly record struct PagemapQuery(SpaceId Space, ulong Start, int Count) : IQuery<ulong[]>
{
    public ulong[] Run(in Turn turn)
    {
        var kernel = turn.Kernel;
        var space = kernel.Space(Space);
        const ulong present = 1UL << 63;
        const ulong fileOrShared = 1UL << 61;
        const ulong exclusive = 1UL << 56;
        const ulong swapped = 1UL << 62;
        const ulong softDirty = 1UL << 55;
        const ulong uffdWriteProtected = 1UL << 57;
        const ulong guard = 1UL << 58;
        var result = new ulong[Count];
        FolioMaps? maps = null;
        if (space.Exited) return result;
        for (var i = 0; i < Count; i++)
        {
            var address = Start + ((ulong)i << PageGeometry.PageShift);
            if (space.Vmas.Find(address) is { } vma)
            {
                if (kernel.SoftDirty != 0 && vma.Has(VmFlags.SoftDirty)) result[i] = softDirty;
                // walk_page_test: areas without pages are passed over as a hole.
                if (vma.Has(VmFlags.PfnMap)) continue;
            }

            var slot = space.PageTable.Find(address);
            var entry = slot.Exists ? space.PageTable[slot] : 0;
            if ((entry & Pte.Marker) != 0)
                result[i] |= entry == Pte.GuardMarker && kernel.Profile.HasGuardRegions ? swapped | guard : swapped;
            if ((entry & Pte.SoftDirty) != 0) result[i] |= softDirty;
            if ((entry & Pte.UffdWp) != 0) result[i] |= uffdWriteProtected;
            // The type of the device, 0, and the slot.
            if ((entry & Pte.Swap) != 0) result[i] |= swapped | (Pte.SlotOf(entry) << 5);
            if (!Pte.IsMapped(entry)) continue;
            var pfn = Pte.PfnOf(entry) + ((address >> PageGeometry.PageShift) & ((1UL << slot.Order) - 1));
            result[i] |= present | pfn.Value;
            // The huge zero page is not anonymous and has a page to ask.
            if (Pte.PfnOf(entry) == kernel.HugeZero) result[i] |= fileOrShared;
            if ((entry & Pte.Special) != 0) continue;
            if ((entry & Pte.Anon) == 0) result[i] |= fileOrShared;
            var isAlone = kernel.Memory.Frames[kernel.Memory.Frames.HeadOf(pfn)].MapCount == 1;
            if (!isAlone && (entry & (Pte.Anon | Pte.Compound)) != 0 && kernel.Memory.Frames.OrderOf(pfn) > 0)
            {
                // Of a large folio each page counts for itself; where a huge leaf maps it, the first one speaks for all
                // (pagemap_pmd_range).
                maps ??= CountMaps(kernel);
                isAlone = maps.Of(slot.Order > 0 ? Pte.PfnOf(entry) : pfn, kernel.Memory.Frames) == 1;
            }

            if (isAlone) result[i] |= exclusive;
        }

        return result;
    }

    /// <summary>
    /// How often the pages of large folios are mapped (folio_precise_page_mapcount): by small entries, and whole by
    /// leaves of their size.
    /// </summary>
    private sealed record FolioMaps(Dictionary<Pfn, int> Parts, Dictionary<Pfn, int> Whole)
    {
        public int Of(Pfn pfn, FrameTable frames) =>
            Parts.GetValueOrDefault(pfn) + Whole.GetValueOrDefault(frames.HeadOf(pfn));
    }

    /// <summary>Walks every page table.</summary>
    private static FolioMaps CountMaps(KernelState kernel)
    {
        var maps = new FolioMaps([], []);
        foreach (var space in kernel.Spaces)
        {
            var leaves = space.PageTable.Leaves(0, space.TaskSize);
            while (leaves.MoveNext())
            {
                var entry = leaves.Entry;
                var counts = leaves.Slot.Order > 0 ? maps.Whole : (entry & Pte.Compound) != 0 ? maps.Parts : null;
                if (Pte.IsMapped(entry) && counts is not null)
                    counts[Pte.PfnOf(entry)] = counts.GetValueOrDefault(Pte.PfnOf(entry)) + 1;
            }
        }

        return maps;
    }
}
