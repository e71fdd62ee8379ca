using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Pinning;

/// <summary>The public calls of mm/gup.c.</summary>
public enum GupCall
{
    GetUserPages,
    PinUserPages,
    GetUserPagesRemote,
    PinUserPagesRemote,
    GetUserPagesUnlocked,
    PinUserPagesUnlocked,
    GetUserPagesFast,
    PinUserPagesFast,
    GetUserPagesFastOnly,
}

/// <summary>State of the caller's <c>locked</c> argument to the remote calls.</summary>
public enum LockedArgument
{
    /// <summary>NULL: the lock may not be dropped.</summary>
    Null,
    /// <summary>Points to 1: the call may drop the lock and says so.</summary>
    Held,
    /// <summary>Points to 0: illegal.</summary>
    NotHeld,
}

/// <summary>Argument checks and flags of the families, in front of the two paths (Semantics 3.1).</summary>
internal static class GupCalls
{
    /// <summary>Outcome of <see cref="Prepare"/>: an answer already, or an operation to run.</summary>
    internal readonly record struct Prepared(GupResult Result, GupOperation? Operation, StopReason Reason)
    {
        public static Prepared Done(GupResult result, StopReason reason = StopReason.BadArguments) =>
            new(result, null, reason);
    }

    /// <summary>
    /// Checks a call, runs its fast path (in the gate, without a turn) and returns the slow operation when one is
    /// needed.
    /// </summary>
    public static Prepared Prepare(
        KernelState kernel, AddressSpace space, GupCall call, ulong start, long count, GupFlags flags,
        LockedArgument locked,
        FrameVector vector)
    {
        if (!IsValid(call, flags, locked)) return Prepared.Done(Rejection(call));
        // __get_user_pages_remote of 6.1 refuses by itself: the arguments were fine.
        if (call == GupCall.PinUserPagesRemote && (flags & GupFlags.LongTerm) != 0 && !kernel.Profile.RemoteLongTerm)
            return Prepared.Done(Errno.EINVAL);
        var isPin = IsPin(call);
        vector.IsPinned = isPin;
        var full = flags | (isPin ? GupFlags.Pin : GupFlags.Get);
        switch (call)
        {
            case GupCall.GetUserPages:
                return Slow(space, start, count, full | GupFlags.Touch, vector, locksItself: false);
            case GupCall.PinUserPages:
                return Slow(space, start, count, full, vector, locksItself: false);
            case GupCall.GetUserPagesRemote or GupCall.PinUserPagesRemote:
                full |= GupFlags.Touch | GupFlags.Remote | (locked == LockedArgument.Held ? GupFlags.Unlockable : 0);
                return Slow(space, start, count, full, vector, locksItself: false);
            case GupCall.GetUserPagesUnlocked or GupCall.PinUserPagesUnlocked:
                return Slow(
                    space, start, count, full | GupFlags.Touch | GupFlags.Unlockable, vector, locksItself: true);
            default:
                return Fast(kernel, space, call, start, count, full, vector);
        }
    }

    /// <summary>gup_fast_fallback: entry checks, the fast walk, and the slow one for the rest.</summary>
    public static Prepared Fast(
        KernelState kernel, AddressSpace space, GupCall call, ulong start, long count, GupFlags flags,
        FrameVector vector)
    {
        var isFastOnly = call == GupCall.GetUserPagesFastOnly;
        start &= PageGeometry.PageMask;
        if (count <= 0) return Prepared.Done(GupResult.Of(0), StopReason.None);
        var length = (ulong)count << PageGeometry.PageShift;
        if (start + length < start)
            return Prepared.Done(
                kernel.Profile.FastWrapIsOverflow ? Errno.EOVERFLOW : GupResult.Of(0), StopReason.AddressLimit);
        if (start + length > PageGeometry.TaskSize)
        {
            // The kernels measured ran on processors with five-level tables: up to 2^56 there is just nothing mapped
            // (row 37).
            var isRefused = !isFastOnly
                || (kernel.Profile.FastOnlyMayFail && start + length > PageGeometry.FiveLevelTaskSize);
            return Prepared.Done(isRefused ? Errno.EFAULT : GupResult.Of(0), StopReason.AddressLimit);
        }

        var taken = GupFast.Take(kernel, space, start, count, flags, vector);
        if ((flags & GupFlags.Pin) != 0 && kernel.Plan.ForkMeetsFastWalk(space.Name, start))
        {
            // gup_fast: a fork may have shared the pages meanwhile; the slow path waits until it is done (row 67).
            if (taken > 0) FrameVectors.Put(kernel, vector, makeDirty: false);
            vector.IsPinned = true;
            taken = 0;
        }

        if (taken == count) return Prepared.Done(GupResult.Of(taken), StopReason.None);
        if (isFastOnly) return Prepared.Done(GupResult.Of(taken), StopReason.NotPresent);
        var rest = start + ((ulong)taken << PageGeometry.PageShift);
        return Slow(
            space, rest, count - taken, flags | GupFlags.Touch | GupFlags.Unlockable, vector, locksItself: true);
    }

    /// <summary>Joins what the fast path took with what the slow path came to.</summary>
    public static GupResult Combine(GupResult slow, long takenBefore) =>
        slow.Error == Errno.None ? GupResult.Of(slow.Pages + takenBefore)
        : takenBefore > 0 ? GupResult.Of(takenBefore) : slow;

    private static Prepared Slow(
        AddressSpace space, ulong start, long count, GupFlags flags, FrameVector vector, bool locksItself)
    {
        if (count <= 0) return Prepared.Done(GupResult.Of(0), StopReason.None);
        var operation = new GupOperation(space, start, count, flags, vector, locksItself);
        return new Prepared(default, operation, StopReason.None);
    }

    private static bool IsPin(GupCall call) =>
        call is GupCall.PinUserPages or GupCall.PinUserPagesRemote or GupCall.PinUserPagesUnlocked
            or GupCall.PinUserPagesFast;

    private static bool IsFast(GupCall call) =>
        call is GupCall.GetUserPagesFast or GupCall.PinUserPagesFast or GupCall.GetUserPagesFastOnly;

    /// <summary>is_valid_gup_args, and what the fast family allows beyond it.</summary>
    private static bool IsValid(GupCall call, GupFlags flags, LockedArgument locked)
    {
        var isPin = IsPin(call);
        if ((flags & GupFlags.InternalMask) != 0 || locked == LockedArgument.NotHeld) return false;
        if (isPin && (flags & GupFlags.Get) != 0) return false;
        if (!isPin && (flags & GupFlags.LongTerm) != 0) return false;
        if ((flags & (GupFlags.LongTerm | GupFlags.PciP2PDma)) == (GupFlags.LongTerm | GupFlags.PciP2PDma))
            return false;
        if (!IsFast(call)) return true;
        var allowed = GupFlags.FastAllowed | (isPin ? 0 : GupFlags.Get);
        return (flags & ~allowed) == 0;
    }

    /// <summary>The pin calls that hold the lock answer 0 to bad arguments, the others -EINVAL.</summary>
    private static GupResult Rejection(GupCall call) =>
        call is GupCall.PinUserPages or GupCall.PinUserPagesRemote or GupCall.PinUserPagesUnlocked
            ? GupResult.Of(0)
            : Errno.EINVAL;
}
