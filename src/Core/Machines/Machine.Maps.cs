using System.Globalization;
using System.Text;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Machines;

/// <summary>A VMA as /proc/PID/maps shows it, and what smaps adds. Sizes in bytes.</summary>
public sealed record MapsEntry
{
    public required AddressRange Range { get; init; }

    public required VmFlags Flags { get; init; }

    /// <summary>Byte offset in the file; 0 without one.</summary>
    public required ulong Offset { get; init; }

    public required string DeviceNumber { get; init; }

    public required ulong Inode { get; init; }

    /// <summary>Path or name in brackets; empty for plain anonymous memory.</summary>
    public required string Name { get; init; }

    public ulong Rss { get; init; }

    public ulong Anonymous { get; init; }

    /// <summary>Bytes of private memory that are in swap.</summary>
    public ulong Swap { get; init; }

    /// <summary>Bytes mapped by 2 MiB leaves of anonymous memory.</summary>
    public ulong AnonHuge { get; init; }

    public ulong KernelPageSize { get; init; } = PageGeometry.PageSize;

    /// <summary>The four letters of maps.</summary>
    public string Permissions => string.Create(4, Flags, static (span, flags) =>
    {
        span[0] = (flags & VmFlags.Read) != 0 ? 'r' : '-';
        span[1] = (flags & VmFlags.Write) != 0 ? 'w' : '-';
        span[2] = (flags & VmFlags.Exec) != 0 ? 'x' : '-';
        span[3] = (flags & VmFlags.MayShare) != 0 ? 's' : 'p';
    });

    /// <summary>The line of /proc/PID/maps, without its newline (fs/proc/task_mmu.c: show_map_vma).</summary>
    public string ToMapsLine()
    {
        const int nameColumn = 73;
        var line = string.Create(
            CultureInfo.InvariantCulture,
            $"{Range.Start:x8}-{Range.End:x8} {Permissions} {Offset:x8} {DeviceNumber} {Inode} ");
        return Name.Length == 0 ? line : line.PadRight(nameColumn) + Name;
    }

    /// <summary>The VmFlags line of smaps: two letters a flag.</summary>
    public string VmFlagLetters()
    {
        var text = new StringBuilder();
        foreach (var (flag, letters) in Letters)
            if ((Flags & flag) != 0) text.Append(letters).Append(' ');
        return text.ToString();
    }

    private static readonly (VmFlags Flag, string Letters)[] Letters =
    [
        (VmFlags.Read, "rd"), (VmFlags.Write, "wr"), (VmFlags.Exec, "ex"), (VmFlags.Shared, "sh"),
        (VmFlags.MayRead, "mr"),
        (VmFlags.MayWrite, "mw"), (VmFlags.MayExec, "me"), (VmFlags.MayShare, "ms"), (VmFlags.GrowsDown, "gd"),
        (VmFlags.UffdMissing, "um"), (VmFlags.PfnMap, "pf"), (VmFlags.MaybeGuard, "gu"), (VmFlags.UffdWp, "uw"),
        (VmFlags.Locked, "lo"), (VmFlags.Io, "io"), (VmFlags.SeqRead, "sr"),
        (VmFlags.RandRead, "rr"), (VmFlags.DontCopy, "dc"), (VmFlags.DontExpand, "de"), (VmFlags.LockOnFault, "lf"),
        (VmFlags.Account, "ac"), (VmFlags.NoReserve, "nr"), (VmFlags.HugeTlb, "ht"), (VmFlags.Arch, "ar"),
        (VmFlags.WipeOnFork, "wf"),
        (VmFlags.DontDump, "dd"), (VmFlags.SoftDirty, "sd"), (VmFlags.MixedMap, "mm"), (VmFlags.HugePage, "hg"),
        (VmFlags.NoHugePage, "nh"), (VmFlags.Mergeable, "mg"), (VmFlags.Droppable, "dp"), (VmFlags.Sealed, "sl"),
    ];
}

/// <summary>maps, smaps and pagemap.</summary>
public sealed partial class Machine
{
    /// <summary>The VMAs of an address space in order, the vsyscall page last. Empty for one that has exited.</summary>
    /// <param name="space">Whose.</param>
    /// <param name="withUsage">Also counts resident memory, which walks the page table.</param>
    public IReadOnlyList<MapsEntry> Maps(AddressSpace space, bool withUsage = false)
    {
        using var turn = EnterQuery();
        var entries = new List<MapsEntry>(space.Vmas.Count + 1);
        if (space.Exited) return entries;
        foreach (var vma in space.Vmas.All) entries.Add(Describe(space, vma, withUsage));
        if (!space.HasVsyscall) return entries;
        entries.Add(new MapsEntry
        {
            Range = new AddressRange(0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000),
            Flags = VmFlags.Exec,
            Offset = 0,
            DeviceNumber = "00:00",
            Inode = 0,
            Name = "[vsyscall]",
        });
        return entries;
    }

    /// <summary>
    /// /proc/PID/pagemap for <paramref name="count"/> pages from <paramref name="start"/>: bit 63 present, 62 swapped,
    /// 61 file or shared, 58 guard region, 57 write-protected by a userfaultfd, 56 exclusively mapped, 55 soft-dirty,
    /// PFN below, or the slot of swap from bit 5 on.
    /// </summary>
    public ulong[] Pagemap(AddressSpace space, ulong start, int count)
    {
        const ulong present = 1UL << 63;
        const ulong fileOrShared = 1UL << 61;
        const ulong exclusive = 1UL << 56;
        const ulong swapped = 1UL << 62;
        const ulong softDirty = 1UL << 55;
        const ulong uffdWriteProtected = 1UL << 57;
        const ulong guard = 1UL << 58;
        using var turn = EnterQuery();
        var result = new ulong[count];
        FolioMaps? maps = null;
        if (space.Exited) return result;
        for (var i = 0; i < count; i++)
        {
            var address = start + ((ulong)i << PageGeometry.PageShift);
            if (_kernel.SoftDirty != 0 && space.Vmas.Find(address) is { } vma && vma.Has(VmFlags.SoftDirty))
                result[i] = softDirty;
            var slot = space.PageTable.Find(address);
            var entry = slot.Exists ? space.PageTable[slot] : 0;
            if ((entry & Pte.Marker) != 0)
                result[i] |= entry == Pte.GuardMarker && Profile.HasGuardRegions ? swapped | guard : swapped;
            if ((entry & Pte.SoftDirty) != 0) result[i] |= softDirty;
            if ((entry & Pte.UffdWp) != 0) result[i] |= uffdWriteProtected;
            // The type of the device, 0, and the slot.
            if ((entry & Pte.Swap) != 0) result[i] |= swapped | (Pte.SlotOf(entry) << 5);
            if (!Pte.IsMapped(entry)) continue;
            var pfn = Pte.PfnOf(entry) + ((address >> PageGeometry.PageShift) & ((1UL << slot.Order) - 1));
            result[i] |= present | pfn.Value;
            // The huge zero page is not anonymous and has a page to ask.
            if (Pte.PfnOf(entry) == _kernel.HugeZero) result[i] |= fileOrShared;
            if ((entry & Pte.Special) != 0) continue;
            if ((entry & Pte.Anon) == 0) result[i] |= fileOrShared;
            var isAlone = _kernel.Memory.Frames[_kernel.Memory.Frames.HeadOf(pfn)].MapCount == 1;
            if (!isAlone && (entry & (Pte.Anon | Pte.Compound)) != 0 && _kernel.Memory.Frames.OrderOf(pfn) > 0)
            {
                // Of a large folio each page counts for itself; where a huge leaf maps it, the first one speaks for all
                // (pagemap_pmd_range).
                maps ??= CountMaps();
                isAlone = maps.Of(slot.Order > 0 ? Pte.PfnOf(entry) : pfn, _kernel.Memory.Frames) == 1;
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
    private FolioMaps CountMaps()
    {
        var maps = new FolioMaps([], []);
        foreach (var space in _kernel.Spaces)
        {
            var address = 0UL;
            while (space.PageTable.Next(ref address, PageGeometry.TaskSize, out var slot))
            {
                var entry = space.PageTable[slot];
                var counts = slot.Order > 0 ? maps.Whole : (entry & Pte.Compound) != 0 ? maps.Parts : null;
                if (Pte.IsMapped(entry) && counts is not null)
                    counts[Pte.PfnOf(entry)] = counts.GetValueOrDefault(Pte.PfnOf(entry)) + 1;
                address = PageGeometry.AlignDown(address, slot.Size) + slot.Size;
            }
        }

        return maps;
    }

    private static MapsEntry Describe(AddressSpace space, Vma vma, bool withUsage)
    {
        var entry = new MapsEntry
        {
            Range = vma.Range,
            Flags = vma.Flags,
            Offset = vma.File is null && vma.Device is null ? 0 : vma.PageOffset << PageGeometry.PageShift,
            DeviceNumber = vma.File?.DeviceNumber ?? (vma.Device is null ? "00:00" : "00:05"),
            Inode = vma.File?.Inode ?? (ulong)(vma.Device?.Id ?? 0),
            Name = NameOf(space, vma),
            KernelPageSize = PageGeometry.PageSize << vma.HugeOrder,
        };
        if (!withUsage) return entry;
        ulong rss = 0, anonymous = 0, huge = 0, swap = 0;
        var address = vma.Start;
        while (space.PageTable.Next(ref address, vma.End, out var slot))
        {
            var leaf = space.PageTable[slot];
            if ((leaf & Pte.Swap) != 0) swap += slot.Size;
            if (Pte.IsMapped(leaf) && (leaf & Pte.Special) == 0)
            {
                rss += slot.Size;
                if ((leaf & Pte.Anon) != 0) anonymous += slot.Size;
                if ((leaf & (Pte.Anon | Pte.Huge)) == (Pte.Anon | Pte.Huge) && !vma.IsHugeTlb) huge += slot.Size;
            }

            address = PageGeometry.AlignDown(address, slot.Size) + slot.Size;
        }

        return entry with { Rss = rss, Anonymous = anonymous, AnonHuge = huge, Swap = swap };
    }

    private static string NameOf(AddressSpace space, Vma vma)
    {
        if (vma.File is { } file) return file.Name;
        if (vma.Device is { } device) return device.Name;
        if (vma.SpecialName is { } special) return special;
        if (vma.Start < space.Brk && vma.End > space.Layout.StartBrk) return "[heap]";
        return space.StackStart != 0 && vma.Range.Contains(space.StackStart) ? "[stack]" : "";
    }
}
