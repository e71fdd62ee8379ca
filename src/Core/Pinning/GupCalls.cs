using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;

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

/// <summary>The arguments of a pin come to this: an answer at once, or a walk.</summary>
/// <param name="Answer">The answer, when there is no walk.</param>
/// <param name="Reason">Why it is refused.</param>
/// <param name="Walks">The range is walked; the fields behind hold.</param>
/// <param name="Path">Which paths the call takes.</param>
/// <param name="Start">First address, in bytes.</param>
/// <param name="Count">Pages.</param>
/// <param name="Flags">Flags, the internal ones of the call included.</param>
internal readonly record struct GupPlan(
    GupResult Answer, StopReason Reason, bool Walks, GupPath Path, ulong Start, long Count, GupFlags Flags)
{
    public static GupPlan Done(GupResult answer, StopReason reason = StopReason.BadArguments) =>
        new(answer, reason, false, default, 0, 0, default);
}

/// <summary>The paths of mm/gup.c that a call takes.</summary>
internal enum GupPath
{
    /// <summary>The slow walk; the caller holds mmap_lock.</summary>
    Locked,

    /// <summary>The slow walk, which takes mmap_lock itself.</summary>
    Unlocked,

    /// <summary>The fast walk, then the slow one for the rest.</summary>
    Fast,

    /// <summary>The fast walk alone.</summary>
    FastOnly,
}

/// <summary>Argument checks and flags of the families, in front of the two paths (Semantics 3.1).</summary>
internal static class GupCalls
{
    /// <summary>Checks a call. Pure: it looks at no memory.</summary>
    public static GupPlan Plan(
        KernelState kernel, GupCall call, ulong start, long count, GupFlags flags, LockedArgument locked)
    {
        var profile = kernel.Profile;
        if (!IsValid(call, flags, locked)) return GupPlan.Done(Rejection(call));
        // __get_user_pages_remote of 6.1 refuses by itself: the arguments were fine.
        if (call == GupCall.PinUserPagesRemote && (flags & GupFlags.LongTerm) != 0 && !profile.RemoteLongTerm)
            return GupPlan.Done(Errno.EINVAL);
        var full = flags | (IsPin(call) ? GupFlags.Pin : GupFlags.Get);
        return call switch
        {
            GupCall.GetUserPages => Slow(GupPath.Locked, start, count, full | GupFlags.Touch),
            GupCall.PinUserPages => Slow(GupPath.Locked, start, count, full),
            GupCall.GetUserPagesRemote or GupCall.PinUserPagesRemote => Slow(
                GupPath.Locked, start, count,
                full | GupFlags.Touch | GupFlags.Remote | (locked == LockedArgument.Held ? GupFlags.Unlockable : 0)),
            GupCall.GetUserPagesUnlocked or GupCall.PinUserPagesUnlocked =>
                Slow(GupPath.Unlocked, start, count, full | GupFlags.Touch | GupFlags.Unlockable),
            _ => Fast(kernel, start, count, full, isOnly: call == GupCall.GetUserPagesFastOnly),
        };
    }

    /// <summary>gup_fast_fallback: the checks of a range at its entry.</summary>
    public static GupPlan Fast(KernelState kernel, ulong start, long count, GupFlags flags, bool isOnly)
    {
        start &= PageGeometry.PageMask;
        if (count <= 0) return GupPlan.Done(GupResult.Of(0), StopReason.None);
        var length = (ulong)count << PageGeometry.PageShift;
        if (start + length < start)
        {
            var wrapped = kernel.Profile.FastWrapIsOverflow ? Errno.EOVERFLOW : GupResult.Of(0);
            return GupPlan.Done(wrapped, StopReason.AddressLimit);
        }

        if (start + length > kernel.TaskSize)
        {
            var isRefused = !isOnly || kernel.Profile.FastOnlyMayFail;
            return GupPlan.Done(isRefused ? Errno.EFAULT : GupResult.Of(0), StopReason.AddressLimit);
        }

        return new GupPlan(
            default, StopReason.None, true, isOnly ? GupPath.FastOnly : GupPath.Fast, start, count, flags);
    }

    /// <summary>The FOLL_PIN family.</summary>
    public static bool IsPin(GupCall call) =>
        call is GupCall.PinUserPages or GupCall.PinUserPagesRemote or GupCall.PinUserPagesUnlocked
            or GupCall.PinUserPagesFast;

    private static GupPlan Slow(GupPath path, ulong start, long count, GupFlags flags) => count <= 0
        ? GupPlan.Done(GupResult.Of(0), StopReason.None)
        : new GupPlan(default, StopReason.None, true, path, start, count, flags);

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
