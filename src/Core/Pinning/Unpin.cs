using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.Native;

namespace FramePin.Core.Pinning;

/// <summary>Gives references back (unpin_user_pages, put_page; Semantics 3.2).</summary>
/// <remarks>
/// Runs inside the <see cref="CountGate"/> and takes no turn; a folio whose last reference goes is queued for the next
/// one. Allocates nothing.
/// </remarks>
internal static class Unpin
{
    /// <summary>Drops what a vector holds, run by run, and empties it.</summary>
    /// <param name="kernel">The machine's memory.</param>
    /// <param name="vector">A vector whose frames hold references.</param>
    /// <param name="makeDirty">Marks each folio dirty first (unpin_user_pages_dirty_lock).</param>
    public static void All(KernelState kernel, FrameVector vector, bool makeDirty)
    {
        kernel.Memory.Gate.EnterPin();
        try
        {
            ObjectDisposedException.ThrowIf(kernel.IsDisposed, kernel);
            AllInGate(kernel, vector, makeDirty);
        }
        finally
        {
            kernel.Memory.Gate.LeavePin();
        }
    }

    /// <summary>The same for a caller that is inside the gate.</summary>
    public static void AllInGate(KernelState kernel, FrameVector vector, bool makeDirty)
    {
        ReadOnlySpan<ulong> slots = vector.Slots[..vector.RunCount];
        if (makeDirty) MarkDirty(kernel.Memory, slots);
        var uncounted = Drop(kernel.Memory, slots, vector.IsPinned);
        if (vector.IsPinned) kernel.Memory.Statistics.Release(vector.Count - uncounted);
        vector.LetGo();
        vector.Epoch = kernel.CommandNumber;
    }

    /// <summary>Drops the references; returns how many slots held none (the zero page, pinned).</summary>
    private static long Drop(PhysicalMemory memory, ReadOnlySpan<ulong> slots, bool isPinned)
    {
        var counts = memory.Frames.Counts;
        var delta = isPinned ? FrameTable.PinBias : 1L;
        // A PIN of the shared zero page was not counted; GET of it was.
        var uncounted = isPinned ? memory.ZeroPage.Value : ulong.MaxValue;
        var passedOver = 0L;
        for (var i = 0; i < slots.Length; i++)
        {
            i += DropScattered(memory, slots[i..], uncounted, delta);
            if (i == slots.Length) break;
            var packed = slots[i];
            if ((packed & FrameRun.LargeBit) != 0)
            {
                DropLarge(memory, FrameRun.FromPacked(packed), isPinned);
                continue;
            }

            var pfn = packed >> FrameRun.CountBits;
            var last = pfn + (packed & FrameRun.CountMask);
            if (uncounted < pfn || uncounted > last)
                pfn += DropConsecutive(counts, pfn, last - pfn + 1, delta);
            for (; pfn <= last; pfn++)
            {
                if (pfn == uncounted)
                {
                    passedOver++;
                    continue;
                }

                var left = (int)(counts[pfn] -= delta);
                if (left <= 0) DroppedLast(memory, pfn, left);
            }
        }

        return passedOver;
    }

    /// <summary>
    /// Drops a reference of each of <paramref name="count"/> frames in a row, eight at a time. The caller is alone
    /// inside the gate. Stops at the first group with a frame that would lose its last one; returns the frames done.
    /// </summary>
    private static ulong DropConsecutive(NativeArray<long> counts, ulong first, ulong count, long delta)
    {
        const int lanes = 8;
        var done = 0UL;
        for (; done + lanes <= count; done += lanes)
        {
            var words = counts.Slice(first + done, lanes);
            var left = Vector512.Create(words) - Vector512.Create(delta);
            if (Vector512.LessThanOrEqualAny(Vector512.ShiftLeft(left, 32), Vector512<long>.Zero)) break;
            left.CopyTo(words);
        }

        return done;
    }

    /// <summary>
    /// Drops runs of one small, counted frame each: finds how many there are, eight to a test, then counts them in a
    /// loop of its own. Returns the runs done.
    /// </summary>
    private static int DropScattered(
        PhysicalMemory memory, ReadOnlySpan<ulong> slots, ulong uncounted, long delta)
    {
        const int lanes = 8;
        if (slots.Length < lanes) return 0;
        var skipped = Vector512.Create(uncounted << FrameRun.CountBits);
        var end = 0;
        for (; end + lanes <= slots.Length; end += lanes)
        {
            var packed = Vector512.Create(slots.Slice(end, lanes));
            if ((packed & Vector512.Create(FrameRun.LargeBit | FrameRun.CountMask)) != Vector512<ulong>.Zero) break;
            if (Vector512.EqualsAny(packed, skipped)) break;
        }

        var counts = memory.Frames.Counts;
        var single = slots[..end];
        // A word whose refcount is used up turns the sign of the sum: one branch for all.
        var low = 0;
        for (var i = 0; i + 4 <= single.Length; i += 4)
        {
            var group = single.Slice(i, 4);
            var a = (int)(counts[group[0] >> FrameRun.CountBits] -= delta) - 1;
            var b = (int)(counts[group[1] >> FrameRun.CountBits] -= delta) - 1;
            var c = (int)(counts[group[2] >> FrameRun.CountBits] -= delta) - 1;
            var d = (int)(counts[group[3] >> FrameRun.CountBits] -= delta) - 1;
            low |= a | b | c | d;
        }

        if (low < 0) FindDroppedLast(memory, single);
        return end;
    }

    private static void FindDroppedLast(PhysicalMemory memory, ReadOnlySpan<ulong> single)
    {
        foreach (var packed in single)
        {
            var pfn = new Pfn(packed >> FrameRun.CountBits);
            var left = memory.Frames.RefCount(pfn);
            if (left <= 0) DroppedLast(memory, pfn.Value, left);
        }
    }

    private static void DropLarge(PhysicalMemory memory, FrameRun run, bool isPinned)
    {
        var pfn = run.First;
        var rest = run.Count;
        while (rest > 0)
        {
            var head = memory.Frames.HeadOf(pfn);
            var order = memory.Frames.OrderOf(head);
            var inFolio = Math.Min(rest, head.Value + (1UL << order) - pfn.Value);
            var delta = isPinned ? FrameTable.PinDelta(order, (long)inFolio) : (long)inFolio;
            var left = (int)(memory.Frames.Counts[head.Value] -= delta);
            if (left <= 0) DroppedLast(memory, head.Value, left);
            pfn += inFolio;
            rest -= inFolio;
        }
    }

    private static void DroppedLast(PhysicalMemory memory, ulong pfn, int left)
    {
        // A count below zero means that a reference was dropped twice. To go on would free a frame in use.
        if (left < 0)
            throw new InvalidOperationException(
                $"refcount of pfn 0x{pfn:x} fell to {left}: a reference was dropped twice");
        // A frame that two slots name is met twice: the first time queues it.
        memory.QueueFree(new Pfn(pfn));
    }

    private static void MarkDirty(PhysicalMemory memory, ReadOnlySpan<ulong> slots)
    {
        foreach (var packed in slots)
        {
            var run = FrameRun.FromPacked(packed);
            if (!run.IsLarge)
            {
                if (run.Count == 1) MarkDirty(ref memory.Frames.States[run.First.Value].Flags);
                else MarkDirty(memory.Frames.States.Slice(run.First.Value, (int)run.Count));
                continue;
            }

            // Once for a folio.
            var end = run.First.Value + run.Count;
            for (var pfn = run.First; pfn.Value < end;)
            {
                var head = memory.Frames.HeadOf(pfn);
                MarkDirty(ref memory.Frames[head].Flags);
                pfn = head + (1UL << memory.Frames.OrderOf(head));
            }
        }
    }

    /// <summary>Small frames in a row, eight to a test: those of a stream's buffers are dirty already.</summary>
    private static void MarkDirty(Span<FrameState> states)
    {
        const int lanes = 8;
        var words = MemoryMarshal.Cast<FrameState, ulong>(states);
        var asked = Vector512.Create((ulong)(FrameFlags.Dirty | FrameFlags.Reclaim));
        var dirty = Vector512.Create((ulong)FrameFlags.Dirty);
        var i = 0;
        for (; i + lanes <= states.Length; i += lanes)
        {
            if (Vector512.EqualsAll(Vector512.Create(words.Slice(i, lanes)) & asked, dirty)) continue;
            foreach (ref var state in states.Slice(i, lanes)) MarkDirty(ref state.Flags);
        }

        foreach (ref var state in states[i..]) MarkDirty(ref state.Flags);
    }

    /// <summary>Stores nothing to a folio that is dirty already.</summary>
    private static void MarkDirty(ref FrameFlags flags)
    {
        if ((flags & (FrameFlags.Dirty | FrameFlags.Reclaim)) == FrameFlags.Dirty) return;
        Interlocked.Or(ref Unsafe.As<FrameFlags, uint>(ref flags), (uint)FrameFlags.Dirty);
        Interlocked.And(ref Unsafe.As<FrameFlags, uint>(ref flags), ~(uint)FrameFlags.Reclaim);
    }
}
