using System.Runtime.CompilerServices;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Native;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Pinning;

/// <summary>Chooses between plain and interlocked count changes at compile time, so that the loop has no branch for it.</summary>
internal interface ICountAccess
{
    static abstract bool TryAdd(ref long word, long delta);

    /// <summary>Subtracts and returns what is left.</summary>
    static abstract long Subtract(ref long word, long delta);
}

/// <summary>The caller is alone inside the gate.</summary>
internal readonly struct PlainCounts : ICountAccess
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool TryAdd(ref long word, long delta)
    {
        var value = word;
        if ((int)value <= 0) return false;
        word = value + delta;
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static long Subtract(ref long word, long delta) => word -= delta;
}

/// <summary>Other pins are inside the gate too.</summary>
internal readonly struct InterlockedCounts : ICountAccess
{
    public static bool TryAdd(ref long word, long delta)
    {
        // A mapped frame's count cannot fall to zero meanwhile: its mapping holds a reference and turns are kept out.
        if ((int)Volatile.Read(ref word) <= 0) return false;
        Interlocked.Add(ref word, delta);
        return true;
    }

    public static long Subtract(ref long word, long delta) => Interlocked.Add(ref word, -delta);
}

/// <summary>
/// The fast path (mm/gup.c: gup_fast; kernel-semantics 3.9): walks present entries without looking at a VMA, takes a reference on
/// each, and stops at the first that it may not take.
/// </summary>
/// <remarks>
/// Runs inside the <see cref="CountGate"/> and takes no turn. Cost: a table look-up for each 2 MiB, then a mask test, a count and, on
/// scattered frames, a store for each page; one addition for a whole huge leaf. Allocates nothing.
/// </remarks>
internal static class GupFast
{
    /// <summary>The bits of an entry that decide whether it may be taken; entries alike in them are decided once.</summary>
    private const ulong DecidingBits = Pte.Present | Pte.Write | Pte.Huge | Pte.Special | Pte.Exclusive | Pte.Anon | Pte.Compound
        | Pte.DirtyTracked | Pte.NoMapping | Pte.Secret | Pte.ProtNone | Pte.Marker;

    /// <summary>What the fast path may do with an entry.</summary>
    private enum Verdict
    {
        Take,
        /// <summary>Refused before a reference was taken.</summary>
        Stop,
        /// <summary>Refused by a check on the page after its reference was taken: shows as one pin taken and dropped.</summary>
        TakeAndDrop,
    }

    /// <summary>
    /// Takes up to <paramref name="count"/> pages from <paramref name="start"/> (page-aligned) and appends them to
    /// <paramref name="vector"/>.
    /// </summary>
    /// <returns>Pages taken; fewer than asked means that the slow path has to go on.</returns>
    public static long Take(MmContext mm, AddressSpace space, ulong start, long count, GupFlags flags, FrameVector vector)
    {
        var gate = mm.Memory.Gate;
        var mode = gate.EnterPin();
        if ((flags & GupFlags.Pin) != 0) space.HasPinned = true;
        var taken = mode == CountMode.Exclusive
            ? Walk<PlainCounts>(mm, space, start, count, flags, vector, mode)
            : Walk<InterlockedCounts>(mm, space, start, count, flags, vector, mode);
        // Inside the gate, so that an audit never sees references without the vector that holds them.
        if (taken > 0) vector.Hold();
        gate.LeavePin(mode);
        return taken;
    }

    private static long Walk<TCounts>(
        MmContext mm, AddressSpace space, ulong start, long count, GupFlags flags, FrameVector vector, CountMode mode)
        where TCounts : struct, ICountAccess
    {
        var writer = new RunWriter(vector);
        var before = writer.Frames;
        var address = start;
        var end = start + ((ulong)count << PageGeometry.PageShift);
        var verdict = Verdict.Take;
        while (address < end && verdict == Verdict.Take)
        {
            var slot = space.PageTable.Find(address);
            if (!slot.Exists) break;
            verdict = slot.Order == 0
                ? WalkTable<TCounts>(mm, ref address, end, slot, flags, ref writer)
                : TakeHuge<TCounts>(mm, ref address, end, space.PageTable[slot], slot.Order, flags, ref writer);
        }

        writer.Finish();
        var taken = writer.Frames - before;
        if ((flags & GupFlags.Pin) != 0)
        {
            var dropped = verdict == Verdict.TakeAndDrop ? 1 : 0;
            mm.Memory.Statistics.Acquire(taken + dropped, mode);
            if (dropped != 0) mm.Memory.Statistics.Release(dropped, mode);
        }

        return taken;
    }

    /// <summary>The small entries of one table, from the slot to its end or the range's.</summary>
    private static Verdict WalkTable<TCounts>(
        MmContext mm, ref ulong address, ulong end, LeafSlot slot, GupFlags flags, ref RunWriter writer)
        where TCounts : struct, ICountAccess
    {
        var frames = mm.Memory.Frames;
        var counts = frames.Counts;
        var left = (end - address) >> PageGeometry.PageShift;
        var entries = mm.Tables.Table(slot.Table)[slot.Index..];
        if (left < (ulong)entries.Length) entries = entries[..(int)left];
        var limit = (flags & GupFlags.LongTerm) != 0 ? mm.Memory.MovableStart : frames.Count;
        var delta = (flags & GupFlags.Pin) != 0 ? FrameTable.PinBias : 1L;
        var decided = ulong.MaxValue;
        var i = 0;
        var verdict = Verdict.Take;
        for (; i < entries.Length; i++)
        {
            var entry = entries[i];
            if ((entry & DecidingBits) != decided)
            {
                verdict = Decide(mm.Profile, entry, flags);
                if (verdict != Verdict.Take) break;
                decided = entry & DecidingBits;
            }

            var pfn = (entry & Pte.PfnMask) >> Pte.PfnShift;
            if (pfn >= limit)
            {
                verdict = Verdict.Stop;
                break;
            }

            var isLarge = (entry & Pte.Compound) != 0;
            if (isLarge ? !TakeOfLarge<TCounts>(frames, pfn, flags) : !TCounts.TryAdd(ref counts[pfn], delta))
            {
                verdict = Verdict.Stop;
                break;
            }

            writer.Append(pfn, 1, isLarge);
        }

        address += (ulong)i << PageGeometry.PageShift;
        return verdict;
    }

    private static Verdict TakeHuge<TCounts>(
        MmContext mm, ref ulong address, ulong end, ulong entry, int order, GupFlags flags, ref RunWriter writer)
        where TCounts : struct, ICountAccess
    {
        var verdict = Decide(mm.Profile, entry, flags);
        if (verdict != Verdict.Take) return verdict;
        var head = Pte.PfnOf(entry).Value;
        if ((flags & GupFlags.LongTerm) != 0 && head >= mm.Memory.MovableStart) return Verdict.Stop;
        var offset = (address >> PageGeometry.PageShift) & ((1UL << order) - 1);
        var pages = Math.Min((1UL << order) - offset, (end - address) >> PageGeometry.PageShift);
        var delta = (flags & GupFlags.Pin) != 0 ? FrameTable.PinDelta(order, (long)pages) : (long)pages;
        if (!TCounts.TryAdd(ref mm.Memory.Frames.Counts[head], delta)) return Verdict.Stop;
        writer.Append(head + offset, pages, isLarge: true);
        address += pages << PageGeometry.PageShift;
        return Verdict.Take;
    }

    private static bool TakeOfLarge<TCounts>(FrameTable frames, ulong pfn, GupFlags flags)
        where TCounts : struct, ICountAccess
    {
        var head = frames.HeadOf(new Pfn(pfn));
        var delta = (flags & GupFlags.Pin) != 0 ? FrameTable.PinDelta(1, 1) : 1;
        return TCounts.TryAdd(ref frames.Counts[head.Value], delta);
    }

    /// <summary>Whether an entry may be taken, in the order of gup_fast_pte_range.</summary>
    private static Verdict Decide(KernelProfile profile, ulong entry, GupFlags flags)
    {
        if ((entry & Pte.Present) == 0) return Verdict.Stop;
        var isWrite = (flags & GupFlags.Write) != 0;
        if (isWrite && (entry & Pte.Write) == 0) return Verdict.Stop;
        if ((entry & Pte.Special) != 0) return Verdict.Stop;

        // What follows the kernel finds out on the page, with its reference taken.
        if ((entry & Pte.Secret) != 0) return Verdict.TakeAndDrop;
        var isPin = (flags & GupFlags.Pin) != 0;
        if (!isPin) return Verdict.Take;
        var isLongTerm = (flags & GupFlags.LongTerm) != 0;
        if ((entry & Pte.NoMapping) != 0 && profile.MappinglessPinIsSlow) return Verdict.TakeAndDrop;
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
