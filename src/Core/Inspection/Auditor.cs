using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Core.Inspection;

/// <summary>
/// Recomputes every reference, pin and map count from the page tables, caches, devices and vectors, and checks the
/// structures themselves. Empty when all is well; otherwise a sentence for each finding.
/// </summary>
public readonly record struct AuditQuery : IQuery<IReadOnlyList<string>>
{
    public IReadOnlyList<string> Run(in Turn turn) => new Auditor(turn.Kernel).FindFaults();
}

/// <summary>One audit of a machine. Under the turn.</summary>
internal sealed class Auditor(KernelState kernel)
{
    /// <summary>What a frame's counts should be, added up from everything that refers to it.</summary>
    private struct Expected
    {
        public long Word;
        public int Maps;

        /// <summary>Exclusive entries that map the whole folio.</summary>
        public int Exclusive;

        /// <summary>
        /// Small entries into a large folio, by frame: each page of it is exclusive or not for itself.
        /// </summary>
        public Dictionary<Pfn, (int Maps, int Exclusive)>? Parts;
    }

    /// <summary>A sentence for each finding; empty when all is well.</summary>
    public List<string> FindFaults()
    {
        var findings = new List<string>();
        var expected = new Dictionary<ulong, Expected>();
        foreach (var space in kernel.Spaces) AuditSpace(space, expected, findings);
        foreach (var file in kernel.Files.Values) AuditFile(file, expected, findings);
        foreach (var device in kernel.Devices) AuditDevice(device, expected);
        AuditForks(expected);
        AuditSwap(expected, findings);
        ReverseMapAudit.Run(kernel, findings);
        if (kernel.HugeZero != Pfn.Invalid) AddWord(expected, kernel.HugeZero, 1);
        var pins = AuditVectors(expected);
        var outstanding = kernel.Memory.Statistics.Acquired - kernel.Memory.Statistics.Released;
        if (outstanding != pins) findings.Add($"pins outstanding by the counters {outstanding}, by the vectors {pins}");
        AuditZone(kernel.Memory.Normal, expected, findings);
        AuditZone(kernel.Memory.Movable, expected, findings);
        foreach (var pool in kernel.HugePools.Values)
            AuditPool(pool, findings);
        AuditTables(findings);
        return findings;
    }

    /// <summary>
    /// A pool counts what files and private areas were promised and have not taken, without the pages that bring a
    /// promise back only when they are freed.
    /// </summary>
    private void AuditPool(HugePool pool, List<string> findings)
    {
        if (pool.Total == 0) return;
        if (pool.Available < 0) findings.Add($"hugetlb pool of order {pool.Order} promised too much");
        var promised = kernel.Files.Values.Where(file => file.Pool == pool).Sum(file => file.OpenPromises);
        foreach (var vma in kernel.Spaces.SelectMany(space => space.Vmas.All))
        {
            if (vma.HugeOrder != pool.Order || vma.Reserve is not { } reserve) continue;
            promised += reserve.CountPromised(vma.HugePageOf(vma.Start), vma.HugePageOf(vma.End));
        }

        for (var pfn = 0UL; pfn < kernel.Memory.Frames.Count; pfn++)
        {
            var info = kernel.Memory.Frames[new Pfn(pfn)];
            if ((info.Flags & FrameFlags.RestoreReserve) != 0 && info.Order == pool.Order) promised--;
        }

        if (promised != pool.Reserved)
            findings.Add(
                $"hugetlb pool of order {pool.Order}: {pool.Reserved} promised by its count, {promised} by areas");
    }

    private void AuditSpace(AddressSpace space, Dictionary<ulong, Expected> expected, List<string> findings)
    {
        Vma? last = null;
        foreach (var vma in space.Vmas.All)
        {
            if (vma.Start >= vma.End || ((vma.Start | vma.End) & ~PageGeometry.PageMask) != 0)
                findings.Add($"{space}: VMA {vma} is empty or unaligned");
            if (last is not null && last.End > vma.Start) findings.Add($"{space}: VMA {vma} overlaps {last}");
            last = vma;
        }

        var leaves = space.PageTable.Leaves(0, space.TaskSize);
        while (leaves.MoveNext())
        {
            var (address, slot, entry) = (leaves.Address, leaves.Slot, leaves.Entry);
            var vma = space.Vmas.Find(address);
            if (vma is null || address + slot.Size > vma.End && slot.Order == 0)
                findings.Add($"{space}: entry at 0x{address:x} outside every VMA");
            else AuditEntry(space, vma, address, entry, slot, expected, findings);
        }
    }

    private void AuditEntry(
        AddressSpace space, Vma vma, ulong address, ulong entry, LeafSlot slot, Dictionary<ulong, Expected> expected,
        List<string> findings)
    {
        // Those of swap are added up apart (AuditSwap).
        if ((entry & (Pte.Marker | Pte.Swap)) != 0) return;
        if (!Pte.IsMapped(entry))
        {
            findings.Add($"{space}: entry 0x{entry:x} at 0x{address:x} maps nothing");
            return;
        }

        if ((entry & Pte.Write) != 0 && !vma.Has(Abi.VmFlags.Write))
            findings.Add($"{space}: writable entry at 0x{address:x} in a VMA without VM_WRITE");
        if ((entry & Pte.Special) != 0) return;
        if (Pte.Has(entry, Pte.Anon | Pte.Write) && (entry & Pte.Exclusive) == 0)
            findings.Add($"{space}: writable anonymous entry at 0x{address:x} is not exclusive");
        var pfn = Pte.PfnOf(entry);
        var head = kernel.Memory.Frames.HeadOf(pfn);
        ref var frame = ref System.Runtime.InteropServices.CollectionsMarshal.GetValueRefOrAddDefault(
            expected, head.Value, out _);
        frame.Word++;
        frame.Maps++;
        var isExclusive = (entry & Pte.Exclusive) != 0 ? 1 : 0;
        if (slot.Order == 0 && (entry & Pte.Compound) != 0)
        {
            frame.Parts ??= [];
            var (maps, exclusive) = frame.Parts.GetValueOrDefault(pfn);
            frame.Parts[pfn] = (maps + 1, exclusive + isExclusive);
        }
        else
        {
            frame.Exclusive += isExclusive;
        }

        var isAnon = (kernel.Memory.Frames[head].Flags & FrameFlags.Anon) != 0;
        if (isAnon != ((entry & Pte.Anon) != 0))
            findings.Add($"{space}: entry at 0x{address:x} and {pfn} disagree on anonymous");
        var order = kernel.Memory.Frames.OrderOf(head);
        if (slot.Order == 0 && (order > 0) != ((entry & Pte.Compound) != 0))
            findings.Add($"{space}: entry at 0x{address:x} and {pfn} disagree on the size of the folio");
    }

    private void AuditFile(MemoryFile file, Dictionary<ulong, Expected> expected, List<string> findings)
    {
        foreach (var (index, head) in file.CachedFolios())
        {
            var info = kernel.Memory.Frames[head];
            if (info.FileId != file.Id || info.Index != index)
                findings.Add($"file {file.Id}: {head} at page {index} says file {info.FileId} page {info.Index}");
            AddWord(expected, head, 1);
        }

        var mappings = kernel.Spaces.Sum(space => space.Vmas.All.Count(vma => ReferenceEquals(vma.File, file)));
        if (mappings != file.MappingCount)
            findings.Add($"file {file.Id}: {file.MappingCount} mappings counted, {mappings} found");
    }

    /// <summary>Each slot is counted by the entries that name it, and what the cache holds says so.</summary>
    private void AuditSwap(Dictionary<ulong, Expected> expected, List<string> findings)
    {
        if (kernel.Swap is not { } swap) return;
        var named = new Dictionary<ulong, int>();
        foreach (var space in kernel.Spaces)
        {
            var leaves = space.PageTable.Leaves(0, space.TaskSize);
            while (leaves.MoveNext())
            {
                var entry = leaves.Entry;
                if ((entry & Pte.Swap) != 0) named[Pte.SlotOf(entry)] = named.GetValueOrDefault(Pte.SlotOf(entry)) + 1;
            }
        }

        foreach (var (number, count, cached) in swap.Slots)
        {
            named.Remove(number, out var names);
            if (count != names) findings.Add($"slot {number} of swap: counted {count}, named by {names} entries");
            if (cached == Pfn.Invalid)
            {
                if (count == 0) findings.Add($"slot {number} of swap: in use for nobody");
                continue;
            }

            AddWord(expected, cached, 1);
            var info = kernel.Memory.Frames[cached];
            if ((info.Flags & FrameFlags.SwapCache) == 0 || info.SwapSlot != number)
                findings.Add($"{cached}: in the swap cache for slot {number}, but says {info.Flags} {info.SwapSlot}");
        }

        foreach (var (number, names) in named)
            findings.Add($"slot {number} of swap: free, but named by {names} entries");
    }

    /// <summary>Pages that a fork has still to copy have a reference more, the parent's and the child's.</summary>
    private void AuditForks(Dictionary<ulong, Expected> expected)
    {
        foreach (var copy in kernel.Part<ForkCopies>().Open)
            for (var i = 0UL; i < (copy.IsLarge ? 1 : copy.Frames); i++)
            {
                AddWord(expected, kernel.Memory.Frames.HeadOf(copy.From + i), 1);
                AddWord(expected, copy.To + i, 1);
            }
    }

    private static void AuditDevice(Device device, Dictionary<ulong, Expected> expected)
    {
        if (!device.IsRam) return;
        var held = System.Numerics.BitOperations.RoundUpToPowerOf2(device.Frames);
        for (var i = 0UL; i < held; i++) AddWord(expected, device.First + i, 1);
    }

    /// <summary>Adds up what vectors hold; returns the pins among it, in pages.</summary>
    private long AuditVectors(Dictionary<ulong, Expected> expected)
    {
        var pins = 0L;
        foreach (var vector in PinTable.Of(kernel).Vectors())
        {
            if (!vector.GotRef) continue;
            foreach (var run in vector.Runs)
            {
                for (var i = 0UL; i < run.Count; i++)
                {
                    var pfn = run.First + i;
                    if (vector.IsPinned && pfn == kernel.Memory.ZeroPage) continue;
                    if (vector.IsPinned) pins++;
                    var head = kernel.Memory.Frames.HeadOf(pfn);
                    AddWord(expected, head, vector.IsPinned
                        ? FrameTable.PinDelta(kernel.Memory.Frames.OrderOf(head), 1)
                        : 1);
                }
            }
        }

        return pins;
    }

    private static void AddWord(Dictionary<ulong, Expected> expected, Pfn head, long delta)
    {
        ref var frame = ref System.Runtime.InteropServices.CollectionsMarshal.GetValueRefOrAddDefault(
            expected, head.Value, out _);
        frame.Word += delta;
    }

    /// <summary>A page that one entry maps exclusively is mapped by no other, small or whole.</summary>
    private static void AuditParts(
        Dictionary<Pfn, (int Maps, int Exclusive)> parts, int wholeMaps, List<string> findings)
    {
        foreach (var (pfn, (maps, exclusive)) in parts)
            if (exclusive > 0 && maps + wholeMaps != 1)
                findings.Add($"{pfn}: exclusive in {exclusive} of {maps + wholeMaps} entries");
    }

    private void AuditZone(Zone zone, Dictionary<ulong, Expected> expected, List<string> findings)
    {
        if (zone.CountFree() != zone.FreeFrames)
            findings.Add($"{zone.Kind}: {zone.FreeFrames} free frames counted, {zone.CountFree()} in the lists");
        var frames = kernel.Memory.Frames;
        for (var pfn = zone.Start; pfn < zone.Watermark;)
        {
            var at = new Pfn(pfn);
            var info = frames[at];
            var size = (info.Flags & (FrameFlags.Head | FrameFlags.Buddy)) != 0 ? 1UL << info.Order : 1;
            expected.TryGetValue(pfn, out var want);
            var have = frames.Counts[pfn];
            // A plain GET of the zero page is the one count above the reserved one: it lies below every zone.
            if (have != want.Word)
                findings.Add($"{at}: counts {Describe(have)}, expected {Describe(want.Word)} ({info.Flags})");
            if ((info.Flags & FrameFlags.Buddy) == 0 && info.MapCount != want.Maps)
                findings.Add($"{at}: map count {info.MapCount}, expected {want.Maps}");
            if (want.Exclusive > 0 && want.Exclusive != want.Maps)
                findings.Add($"{at}: exclusive in {want.Exclusive} of {want.Maps} entries");
            if (want.Parts is { } parts) AuditParts(parts, want.Maps - parts.Values.Sum(part => part.Maps), findings);
            if (have == 0 && (info.Flags & FrameFlags.Head) != 0 && (info.Flags & FrameFlags.HugeTlb) == 0)
                findings.Add($"{at}: in use without a reference");
            if ((info.Flags & FrameFlags.Buddy) != 0 && have != 0) findings.Add($"{at}: free with a reference");
            pfn += size;
        }
    }

    private void AuditTables(List<string> findings)
    {
        var tables = kernel.Spaces.Sum(space => space.PageTable.CountTables()) + kernel.Files.Values.Sum(
            file => file.TableCount);
        if (tables != kernel.Tables.InUse)
            findings.Add($"{kernel.Tables.InUse} page tables in use, {tables} reachable");
    }

    private static string Describe(long word) => $"{(int)word} refs {(int)(word >> 32)} pins";
}
