using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Pinning;

internal enum MigrationOutcome
{
    /// <summary>Every pinned folio may stay where it is.</summary>
    AllPinnable,
    /// <summary>Pins were dropped and folios moved: pin again.</summary>
    Moved,
    /// <summary>A folio could not be moved; no pins are left.</summary>
    Failed,
}

/// <summary>
/// check_and_migrate_movable_pages: what a long-term pin caught in ZONE_MOVABLE is moved out first (kernel-semantics 3.8). Under
/// the turn.
/// </summary>
internal static class LongTermMigration
{
    /// <summary>Looks at the frames that <paramref name="vector"/> took from slot <paramref name="from"/> on.</summary>
    public static MigrationOutcome Run(MmContext mm, AddressSpace space, ulong start, FrameVector vector, long from)
    {
        var movable = Collect(mm, start, vector, from);
        if (movable.Count == 0) return MigrationOutcome.AllPinnable;
        DropFrom(mm, vector, from);
        foreach (var (head, address) in movable)
        {
            if (mm.Plan.Decide(ChoicePoint.Migration, space.Name, address) == FaultAction.Oom || !Move(mm, space, head, address))
                return MigrationOutcome.Failed;
        }

        return MigrationOutcome.Moved;
    }

    private static List<(Pfn Head, ulong Address)> Collect(MmContext mm, ulong start, FrameVector vector, long from)
    {
        var found = new List<(Pfn, ulong)>();
        var last = Pfn.Invalid;
        var slot = 0L;
        foreach (var run in vector.Runs)
        {
            for (var i = 0UL; i < run.Count; i++, slot++)
            {
                if (slot < from) continue;
                var pfn = run.First + i;
                if (pfn == mm.Memory.ZeroPage || mm.Memory.IsLongTermPinnable(pfn)) continue;
                var head = mm.Memory.Frames.HeadOf(pfn);
                if (head == last) continue;
                last = head;
                found.Add((head, (start & PageGeometry.PageMask) + ((ulong)(slot - from) << PageGeometry.PageShift)));
            }
        }

        return found;
    }

    /// <summary>Drops the pins from slot <paramref name="from"/> on and takes them out of the vector.</summary>
    private static void DropFrom(MmContext mm, FrameVector vector, long from)
    {
        // The fast path's part was pinnable already; keep it and rewrite the runs behind it.
        var kept = new List<FrameRun>();
        var dropped = new List<FrameRun>();
        var slot = 0L;
        foreach (var run in vector.Runs)
        {
            var keep = Math.Clamp(from - slot, 0, (long)run.Count);
            if (keep > 0) kept.Add(FrameRun.FromPacked(FrameRun.Pack(run.First.Value, (ulong)keep, run.IsLarge)));
            if (keep < (long)run.Count)
            {
                var rest = run.Count - (ulong)keep;
                dropped.Add(FrameRun.FromPacked(FrameRun.Pack((run.First + (ulong)keep).Value, rest, run.IsLarge)));
            }

            slot += (long)run.Count;
        }

        foreach (var run in dropped) DropRun(mm, run);
        vector.Reset();
        var writer = new RunWriter(vector);
        foreach (var run in kept) writer.Append(run.First.Value, run.Count, run.IsLarge);
        writer.Finish();
    }

    private static void DropRun(MmContext mm, FrameRun run)
    {
        for (var i = 0UL; i < run.Count; i++)
        {
            var pfn = run.First + i;
            if (pfn == mm.Memory.ZeroPage) continue;
            var head = mm.Memory.Frames.HeadOf(pfn);
            mm.Memory.DropCounts(head, FrameTable.PinDelta(mm.Memory.Frames.OrderOf(head), 1));
            mm.Memory.Statistics.Release(1, CountMode.Exclusive);
        }
    }

    /// <summary>Moves a folio to memory where it may stay; false when somebody else holds a reference or memory is out.</summary>
    private static bool Move(MmContext mm, AddressSpace space, Pfn head, ulong address)
    {
        var frames = mm.Memory.Frames;
        ref var info = ref frames[head];
        // Unmapped while the lock was free, and gone with our own pin: nothing is left to be moved.
        if (frames.RefCount(head) == 0) return true;
        if ((info.Flags & (FrameFlags.HwPoison | FrameFlags.Device)) != 0) return false;
        var inCache = (info.Flags & FrameFlags.InCache) != 0;
        // Every reference must be a mapping or the cache's: any other means that somebody uses the page (row 34).
        if (frames.RefCount(head) != info.MapCount + (inCache ? 1 : 0)) return false;
        var mappings = FindMappings(mm, space, head, address, info.MapCount);
        if (mappings.Count != info.MapCount) return false;
        var order = frames.OrderOf(head);
        var kept = info.Flags & (FrameFlags.Anon | FrameFlags.Dirty | FrameFlags.Referenced | FrameFlags.Secret);
        if (mm.Memory.Allocate(order, AllocationContext.Unmovable, kept) is not { } fresh) return false;
        var size = 1UL << order;
        mm.Memory.Bytes.Of(head, size).CopyTo(mm.Memory.Bytes.Of(fresh, size));
        foreach (var (owner, at) in mappings)
        {
            var slot = owner.PageTable.Find(at);
            ref var entry = ref owner.PageTable[slot];
            var offset = Pte.PfnOf(entry).Value - head.Value;
            entry = (entry & ~Pte.PfnMask) | ((fresh.Value + offset) << Pte.PfnShift);
            frames.AddRefs(fresh, 1);
            frames[fresh].MapCount++;
            info.MapCount--;
            if (info.MapCount > 0 || inCache) mm.Memory.Put(head);
        }

        // The fresh folio's own first reference is the cache's, or is dropped now that the mappings hold theirs.
        if (inCache) mm.Files[info.FileId].Replace(info.Index, fresh);
        else
        {
            mm.Memory.Put(head);
            mm.Memory.Put(fresh);
        }

        mm.MigrationCount++;
        return true;
    }

    /// <summary>Every entry that maps the folio: the one at hand first, then, if there are more, all address spaces.</summary>
    private static List<(AddressSpace Space, ulong Address)> FindMappings(
        MmContext mm, AddressSpace space, Pfn head, ulong address, int expected)
    {
        var found = new List<(AddressSpace, ulong)>();
        if (expected == 1 && !space.Exited && space.PageTable.Find(address) is { Exists: true } slot && Maps(mm, space.PageTable[slot], head))
            return [(space, address)];
        foreach (var candidate in mm.Spaces)
        {
            var at = 0UL;
            while (found.Count < expected && candidate.PageTable.Next(ref at, PageGeometry.TaskSize, out var leaf))
            {
                if (Maps(mm, candidate.PageTable[leaf], head)) found.Add((candidate, at));
                at = PageGeometry.AlignDown(at, leaf.Size) + leaf.Size;
            }
        }

        return found;
    }

    private static bool Maps(MmContext mm, ulong entry, Pfn head) =>
        Pte.IsMapped(entry) && (entry & Pte.Special) == 0 && mm.Memory.Frames.HeadOf(Pte.PfnOf(entry)) == head;
}
