using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.Native;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Pinning;

/// <summary>
/// The fast path (mm/gup.c: gup_fast; Semantics 3.9): walks present entries without looking at a VMA, takes a
/// reference on each, and stops at the first that it may not take.
/// </summary>
/// <remarks>
/// Runs inside the <see cref="CountGate"/> and takes no turn. Cost: a table look-up for each 2 MiB, then a mask test, a
/// count and, on scattered frames, a store for each page; one addition for a whole huge leaf. Allocates nothing.
/// </remarks>
internal static class GupFast
{
    /// <summary>
    /// The bits of an entry that decide whether it may be taken; entries alike in them are decided once.
    /// </summary>
    private const ulong DecidingBits = Pte.Present | Pte.Write | Pte.Huge | Pte.Special | Pte.Exclusive | Pte.Anon
        | Pte.Compound
        | Pte.DirtyTracked | Pte.NoMapping | Pte.Secret | Pte.ProtNone | Pte.Marker;

    /// <summary>Entries that are looked at together.</summary>
    private const int Lanes = 8;

    /// <summary>What the fast path may do with an entry.</summary>
    private enum Verdict
    {
        Take,
        /// <summary>Refused before a reference was taken.</summary>
        Stop,
        /// <summary>
        /// Refused by a check on the page after its reference was taken: shows as one pin taken and dropped.
        /// </summary>
        TakeAndDrop,
    }

    /// <summary>
    /// Empties <paramref name="vector"/> and takes up to <paramref name="count"/> pages from <paramref name="start"/>
    /// (page-aligned) into it.
    /// </summary>
    /// <param name="kernel">The machine's kernel.</param>
    /// <param name="space">The address space.</param>
    /// <param name="start">First address, page-aligned.</param>
    /// <param name="count">Pages.</param>
    /// <param name="flags">Flags, the internal ones included.</param>
    /// <param name="vector">Receives the frames.</param>
    /// <param name="metFork">Whether a fork meets the walk; null to ask the fault plan.</param>
    public static FastWalk Take(
        KernelState kernel, AddressSpace space, ulong start, long count, GupFlags flags, FrameVector vector,
        bool? metFork)
    {
        kernel.Memory.Gate.EnterPin();
        try
        {
            ObjectDisposedException.ThrowIf(kernel.IsDisposed, kernel);
            var isPin = (flags & GupFlags.Pin) != 0;
            vector.IsPinned = isPin;
            if (isPin) space.HasPinned = true;
            var taken = Walk(kernel, space, start, count, flags, vector);
            // No command runs while the gate is held: the number is exact.
            vector.Epoch = kernel.CommandNumber;
            // Inside the gate, so that an audit never sees references without the vector that holds them.
            if (taken > 0) vector.Hold();
            if (!isPin || !(metFork ?? kernel.Plan.ForkMeetsFastWalk(space.Name, start)))
                return new FastWalk(taken, false);
            return DropAfterFork(kernel, vector);
        }
        finally
        {
            kernel.Memory.Gate.LeavePin();
        }
    }

    /// <summary>Whether the fast path takes the page of <paramref name="entry"/>. Under the turn.</summary>
    public static bool Takes(KernelState kernel, ulong entry, GupFlags flags) =>
        Decide(kernel.Profile, entry, flags) == Verdict.Take
        && ((flags & GupFlags.LongTerm) == 0 || Pte.PfnOf(entry).Value < kernel.Memory.MovableStart);

    /// <summary>
    /// gup_fast: a fork may have shared the pages meanwhile; the slow path waits until it is done (row 67).
    /// </summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static FastWalk DropAfterFork(KernelState kernel, FrameVector vector)
    {
        if (vector.Count > 0) Unpin.AllInGate(kernel, vector, makeDirty: false);
        return new FastWalk(0, true);
    }

    /// <summary>Takes the pages, inside the gate. Returns how many.</summary>
    /// <remarks>
    /// The method is out of line, so that its stack frame is cleared inside the gate: the gate's atomic instruction
    /// waits for every store before it.
    /// </remarks>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static long Walk(
        KernelState kernel, AddressSpace space, ulong start, long count, GupFlags flags, FrameVector vector)
    {
        var writer = RunWriter.FromStart(vector);
        var address = start;
        var end = start + ((ulong)count << PageGeometry.PageShift);
        var verdict = Verdict.Take;
        var order = 0;
        while (address < end && verdict == Verdict.Take)
        {
            var slot = space.PageTable.FindNear(address);
            if (!slot.Exists) break;
            order = slot.Order;
            verdict = order == 0
                ? WalkTable(kernel, ref address, end, slot, flags, ref writer)
                : TakeHuge(kernel, ref address, end, space.PageTable[slot], slot.Order, flags, ref writer);
        }

        writer.Finish();
        var taken = writer.Frames;
        if ((flags & GupFlags.Pin) != 0)
        {
            // A huge leaf is taken, and dropped, for all the pages wanted of it at once.
            var dropped = verdict == Verdict.TakeAndDrop ? PagesOfLeaf(address, end, order) : 0;
            kernel.Memory.Statistics.Acquire(taken + dropped);
            if (dropped != 0) kernel.Memory.Statistics.Release(dropped);
        }

        return taken;
    }

    /// <summary>The small entries of one table, from the slot to its end or the range's.</summary>
    private static Verdict WalkTable(
        KernelState kernel, ref ulong address, ulong end, LeafSlot slot, GupFlags flags, ref RunWriter writer)
    {
        var frames = kernel.Memory.Frames;
        var counts = frames.Counts;
        var left = (end - address) >> PageGeometry.PageShift;
        ReadOnlySpan<ulong> entries = kernel.Tables.Table(slot.Table)[slot.Index..];
        if (left < (ulong)entries.Length) entries = entries[..(int)left];
        var limit = (flags & GupFlags.LongTerm) != 0 ? kernel.Memory.MovableStart : frames.Count;
        var delta = (flags & GupFlags.Pin) != 0 ? FrameTable.PinBias : 1L;
        var decided = ulong.MaxValue;
        var i = 0;
        var verdict = Verdict.Take;
        while (i < entries.Length)
        {
            var entry = entries[i];
            if ((entry & DecidingBits) != decided)
            {
                verdict = Decide(kernel.Profile, entry, flags);
                if (verdict != Verdict.Take) break;
                decided = entry & DecidingBits;
            }
            else if (i + Lanes <= entries.Length && (decided & Pte.Compound) == 0)
            {
                var taken = TakeConsecutive(entries, i, decided, limit, delta, counts, ref writer);
                if (taken == 0) taken = TakeScattered(entries, i, decided, limit, delta, counts, ref writer);
                if (taken != 0)
                {
                    i += taken;
                    continue;
                }
            }

            var pfn = (entry & Pte.PfnMask) >> Pte.PfnShift;
            if (pfn >= limit)
            {
                verdict = Verdict.Stop;
                break;
            }

            var isLarge = (entry & Pte.Compound) != 0;
            if (isLarge ? !TakeOfLarge(frames, pfn, flags) : !TryTake(ref counts[pfn], delta))
            {
                verdict = Verdict.Stop;
                break;
            }

            writer.Append(pfn, 1, isLarge);
            i++;
        }

        address += (ulong)i << PageGeometry.PageShift;
        return verdict;
    }

    /// <summary>
    /// Takes small pages whose frames follow each other, eight at a time: their counts lie side by side too. Stops,
    /// possibly at once, at the first group that is not so; the caller goes on page by page there.
    /// <paramref name="from"/> is above 0.
    /// </summary>
    /// <returns>Entries taken, a multiple of eight.</returns>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static int TakeConsecutive(
        ReadOnlySpan<ulong> entries, int from, ulong decided, ulong limit, long delta, NativeArray<long> counts,
        ref RunWriter writer)
    {
        var pattern = Vector512.Create(decided);
        var top = Vector512.Create(limit << Pte.PfnShift);
        var first = (entries[from] & Pte.PfnMask) >> Pte.PfnShift;
        var i = from;
        for (; i + Lanes <= entries.Length; i += Lanes)
        {
            var entry = Vector512.Create(entries.Slice(i, Lanes));
            if (!Vector512.EqualsAll(entry & Vector512.Create(DecidingBits), pattern)) break;
            var field = entry & Vector512.Create(Pte.PfnMask);
            if (Vector512.GreaterThanOrEqualAny(field, top)) break;
            var before = Vector512.Create(entries.Slice(i - 1, Lanes)) & Vector512.Create(Pte.PfnMask);
            if (!Vector512.EqualsAll(field - before, Vector512.Create(PageGeometry.PageSize))) break;
            var words = counts.Slice(first + (ulong)(i - from), Lanes);
            // A word whose refcount, its lower half, is not above zero is left to the caller.
            if (Vector512.LessThanOrEqualAny(Vector512.ShiftLeft(Vector512.Create(words), 32), Vector512<long>.Zero))
                break;
            (Vector512.Create(words) + Vector512.Create(delta)).CopyTo(words);
        }

        if (i > from) writer.Append(first, (ulong)(i - from), isLarge: false);
        return i - from;
    }

    /// <summary>
    /// Takes small pages on scattered frames, eight to a test: first finds how many are alike, in range and scattered,
    /// and writes their runs; then counts them in a loop of its own with nothing else in it.
    /// </summary>
    /// <remarks>
    /// Stops, possibly at once, at the first group that is not; the caller goes on page by page there.
    /// <paramref name="from"/> is above 0: the entry before a group tells whether it continues a run.
    /// </remarks>
    /// <returns>Entries taken, a multiple of eight.</returns>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static int TakeScattered(
        ReadOnlySpan<ulong> entries, int from, ulong decided, ulong limit, long delta, NativeArray<long> counts,
        ref RunWriter writer)
    {
        const int toRun = FrameRun.CountBits - Pte.PfnShift;
        var pattern = Vector512.Create(decided);
        var top = Vector512.Create(limit << Pte.PfnShift);
        var i = from;
        for (; i + Lanes <= entries.Length; i += Lanes)
        {
            var entry = Vector512.Create(entries.Slice(i, Lanes));
            if (!Vector512.EqualsAll(entry & Vector512.Create(DecidingBits), pattern)) break;
            var field = entry & Vector512.Create(Pte.PfnMask);
            if (Vector512.GreaterThanOrEqualAny(field, top)) break;
            var before = Vector512.Create(entries.Slice(i - 1, Lanes)) & Vector512.Create(Pte.PfnMask);
            if (Vector512.EqualsAny(field - before, Vector512.Create(PageGeometry.PageSize))) break;
            writer.AppendScattered(Vector512.ShiftLeft(field, toRun));
        }

        var taken = entries[from..i];
        // A word whose refcount was not above zero turns the sign of the sum.
        var low = 0L;
        foreach (var entry in taken)
            low |= (int)(counts[(entry & Pte.PfnMask) >> Pte.PfnShift] += delta) - delta - 1;
        if (low >= 0) return taken.Length;

        // Undo them all and let the caller meet the bad one alone.
        foreach (var entry in taken) counts[(entry & Pte.PfnMask) >> Pte.PfnShift] -= delta;
        writer.RemoveScattered(taken.Length);
        return 0;
    }

    /// <summary>Adds to a count word whose refcount is above zero; false, and nothing done, otherwise.</summary>
    private static bool TryTake(ref long word, long delta)
    {
        // A mapped frame's count cannot fall to zero meanwhile: its mapping holds a reference and turns are kept out.
        if ((int)word <= 0) return false;
        word += delta;
        return true;
    }

    private static Verdict TakeHuge(
        KernelState kernel, ref ulong address, ulong end, ulong entry, int order, GupFlags flags, ref RunWriter writer)
    {
        var verdict = Decide(kernel.Profile, entry, flags);
        if (verdict != Verdict.Take) return verdict;
        var head = Pte.PfnOf(entry).Value;
        if ((flags & GupFlags.LongTerm) != 0 && head >= kernel.Memory.MovableStart) return Verdict.Stop;
        var offset = (address >> PageGeometry.PageShift) & ((1UL << order) - 1);
        var pages = (ulong)PagesOfLeaf(address, end, order);
        var delta = (flags & GupFlags.Pin) != 0 ? FrameTable.PinDelta(order, (long)pages) : (long)pages;
        if (!TryTake(ref kernel.Memory.Frames.Counts[head], delta)) return Verdict.Stop;
        writer.Append(head + offset, pages, isLarge: true);
        address += pages << PageGeometry.PageShift;
        return Verdict.Take;
    }

    /// <summary>Pages from <paramref name="address"/> to the end of its leaf or of the range.</summary>
    private static long PagesOfLeaf(ulong address, ulong end, int order)
    {
        var offset = (address >> PageGeometry.PageShift) & ((1UL << order) - 1);
        return (long)Math.Min((1UL << order) - offset, (end - address) >> PageGeometry.PageShift);
    }

    private static bool TakeOfLarge(FrameTable frames, ulong pfn, GupFlags flags)
    {
        var head = frames.HeadOf(new Pfn(pfn));
        var delta = (flags & GupFlags.Pin) != 0 ? FrameTable.PinDelta(1, 1) : 1;
        return TryTake(ref frames.Counts[head.Value], delta);
    }

    /// <summary>Whether an entry may be taken, in the order of gup_fast_pte_range.</summary>
    private static Verdict Decide(KernelProfile profile, ulong entry, GupFlags flags)
    {
        if ((entry & Pte.Present) == 0) return Verdict.Stop;
        var isWrite = (flags & GupFlags.Write) != 0;
        if (isWrite && (entry & Pte.Write) == 0) return Verdict.Stop;
        if ((entry & Pte.Special) != 0) return Verdict.Stop;

        // The kernel reads the rest from the page, after it has taken a reference.
        if ((entry & Pte.Secret) != 0) return Verdict.TakeAndDrop;
        var isPin = (flags & GupFlags.Pin) != 0;
        if ((entry & Pte.NoMapping) != 0 && profile.MappinglessIsSlow) return Verdict.TakeAndDrop;
        if (!isPin) return Verdict.Take;
        var isLongTerm = (flags & GupFlags.LongTerm) != 0;
        if (isWrite)
            return isLongTerm && (entry & Pte.DirtyTracked) != 0 && profile.RefusesDirtyTrackedLongTerm
                ? Verdict.TakeAndDrop
                : Verdict.Take;
        if ((entry & Pte.Write) != 0) return Verdict.Take;
        var mustUnshare = (entry & Pte.Anon) != 0
            ? (entry & Pte.Exclusive) == 0
            : isLongTerm && profile.LongTermUnsharesFilePages;
        return mustUnshare ? Verdict.TakeAndDrop : Verdict.Take;
    }
}
