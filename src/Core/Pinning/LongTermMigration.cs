using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
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
/// check_and_migrate_movable_pages: what a long-term pin caught in ZONE_MOVABLE is moved out first (Semantics
/// 3.8). Under the turn.
/// </summary>
internal static class LongTermMigration
{
    /// <summary>Looks at the frames that <paramref name="vector"/> took from slot <paramref name="from"/> on.</summary>
    public static MigrationOutcome Run(
        KernelState kernel, AddressSpace space, ulong start, FrameVector vector, long from)
    {
        var movable = Collect(kernel, start, vector, from);
        if (movable.Count == 0) return MigrationOutcome.AllPinnable;
        DropFrom(kernel, vector, from);
        foreach (var (head, address) in movable)
        {
            if (kernel.Plan.Decide(ChoicePoint.Migration, space.Name, address) == FaultAction.Oom
                || !Move(kernel, space, head, address))
                return MigrationOutcome.Failed;
        }

        return MigrationOutcome.Moved;
    }

    private static List<(Pfn Head, ulong Address)> Collect(
        KernelState kernel, ulong start, FrameVector vector, long from)
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
                if (pfn == kernel.Memory.ZeroPage || kernel.Memory.IsLongTermPinnable(pfn)) continue;
                var head = kernel.Memory.Frames.HeadOf(pfn);
                if (head == last) continue;
                last = head;
                found.Add((head, (start & PageGeometry.PageMask) + ((ulong)(slot - from) << PageGeometry.PageShift)));
            }
        }

        return found;
    }

    /// <summary>Drops the pins from slot <paramref name="from"/> on and takes them out of the vector.</summary>
    private static void DropFrom(KernelState kernel, FrameVector vector, long from)
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

        foreach (var run in dropped) DropRun(kernel, run);
        vector.Reset();
        var writer = new RunWriter(vector);
        foreach (var run in kept) writer.Append(run.First.Value, run.Count, run.IsLarge);
        writer.Finish();
    }

    private static void DropRun(KernelState kernel, FrameRun run)
    {
        for (var i = 0UL; i < run.Count; i++)
        {
            var pfn = run.First + i;
            if (pfn == kernel.Memory.ZeroPage) continue;
            var head = kernel.Memory.Frames.HeadOf(pfn);
            kernel.Memory.DropCounts(head, FrameTable.PinDelta(kernel.Memory.Frames.OrderOf(head), 1));
            kernel.Memory.Statistics.Release(1);
        }
    }

    /// <summary>
    /// Moves a folio to memory where it may stay; false when something else holds a reference or memory is out.
    /// </summary>
    private static bool Move(KernelState kernel, AddressSpace space, Pfn head, ulong address)
    {
        // Unmapped while the lock was free, and gone with our own pin: nothing is left to be moved.
        if (kernel.Memory.Frames.RefCount(head) == 0) return true;
        if (!Migration.IsMovable(kernel, head)) return false;
        if (kernel.Memory.Allocate(
            kernel.Memory.Frames.OrderOf(head), AllocationContext.Unmovable, FrameFlags.None) is not { } fresh)
            return false;
        if (Migration.Move(kernel, head, fresh, space, address)) return true;
        kernel.Memory.Put(fresh);
        return false;
    }
}
