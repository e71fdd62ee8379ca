using System.Diagnostics;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;

namespace FramePin.Core.Pinning;

/// <summary>Gives references back (unpin_user_pages, put_page; kernel-semantics 3.2).</summary>
/// <remarks>
/// Runs inside the <see cref="CountGate"/> and takes no turn; a folio whose last reference goes is queued for the next one.
/// Allocates nothing.
/// </remarks>
internal static class Unpin
{
    /// <summary>Drops what a vector holds, run by run, and empties it.</summary>
    /// <param name="mm">The machine's memory.</param>
    /// <param name="vector">A vector whose frames hold references.</param>
    /// <param name="makeDirty">Marks each folio dirty first (unpin_user_pages_dirty_lock).</param>
    public static void All(MmContext mm, FrameVector vector, bool makeDirty)
    {
        var gate = mm.Memory.Gate;
        var mode = gate.EnterPin();
        Runs(mm, vector.Slots[..vector.RunCount], vector.IsPinned, makeDirty, mode);
        if (vector.IsPinned) mm.Memory.Statistics.Release(vector.Count, mode);
        vector.LetGo();
        gate.LeavePin(mode);
    }

    private static void Runs(MmContext mm, ReadOnlySpan<ulong> slots, bool isPinned, bool makeDirty, CountMode mode)
    {
        if (makeDirty) MarkDirty(mm.Memory, slots);
        if (mode == CountMode.Exclusive) Drop<PlainCounts>(mm.Memory, slots, isPinned);
        else Drop<InterlockedCounts>(mm.Memory, slots, isPinned);
    }

    private static void Drop<TCounts>(PhysicalMemory memory, ReadOnlySpan<ulong> slots, bool isPinned)
        where TCounts : struct, ICountAccess
    {
        var counts = memory.Frames.Counts;
        var delta = isPinned ? FrameTable.PinBias : 1L;
        // A PIN of the shared zero page was not counted; GET of it was.
        var uncounted = isPinned ? memory.ZeroPage.Value : ulong.MaxValue;
        foreach (var packed in slots)
        {
            if ((packed & FrameRun.LargeBit) != 0)
            {
                DropLarge<TCounts>(memory, FrameRun.FromPacked(packed), isPinned);
                continue;
            }

            var pfn = packed >> FrameRun.CountBits;
            var last = pfn + (packed & FrameRun.CountMask);
            for (; pfn <= last; pfn++)
            {
                if (pfn == uncounted) continue;
                var left = (int)TCounts.Subtract(ref counts[pfn], delta);
                if (left <= 0) DroppedLast(memory, pfn, left);
            }
        }
    }

    private static void DropLarge<TCounts>(PhysicalMemory memory, FrameRun run, bool isPinned)
        where TCounts : struct, ICountAccess
    {
        var pfn = run.First;
        var rest = run.Count;
        while (rest > 0)
        {
            var head = memory.Frames.HeadOf(pfn);
            var order = memory.Frames.OrderOf(head);
            var inFolio = Math.Min(rest, head.Value + (1UL << order) - pfn.Value);
            var delta = isPinned ? FrameTable.PinDelta(order, (long)inFolio) : (long)inFolio;
            var left = (int)TCounts.Subtract(ref memory.Frames.Counts[head.Value], delta);
            if (left <= 0) DroppedLast(memory, head.Value, left);
            pfn += inFolio;
            rest -= inFolio;
        }
    }

    private static void DroppedLast(PhysicalMemory memory, ulong pfn, int left)
    {
        // Less than nothing left: somebody gave back what they did not hold. Going on would free a frame in use.
        if (left < 0) throw new InvalidOperationException($"refcount of pfn 0x{pfn:x} fell to {left}: a reference was dropped twice");
        memory.QueueFree(new Pfn(pfn));
    }

    private static void MarkDirty(PhysicalMemory memory, ReadOnlySpan<ulong> slots)
    {
        foreach (var packed in slots)
        {
            var run = FrameRun.FromPacked(packed);
            for (var i = 0UL; i < run.Count; i++)
            {
                ref var flags = ref memory.Frames[memory.Frames.HeadOf(run.First + i)].Flags;
                Interlocked.Or(ref System.Runtime.CompilerServices.Unsafe.As<FrameFlags, uint>(ref flags), (uint)FrameFlags.Dirty);
            }
        }
    }
}
