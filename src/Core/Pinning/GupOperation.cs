using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Pinning;

/// <summary>
/// A pin on the slow path as a value that can be put down and taken up again: __get_user_pages_locked with its retry
/// loop (Semantics 3.5) around the walk, and the long-term migration around both (Semantics 3.8).
/// </summary>
/// <remarks>
/// Each call of <see cref="Run"/> happens in a turn of its own. Between two calls the operation holds nothing but the
/// references it has taken: no lock, no VMA, no entry. The event that a parked operation waits for enters as a command
/// of its own.
/// </remarks>
internal sealed class GupOperation
{
    private enum Stage
    {
        TakeLock,
        LockTaken,
        Walk,
        RetakeLock,
        RetryOne,
        Done,
    }

    private readonly AddressSpace _space;
    private readonly GupFlags _flags;
    private readonly FrameVector _vector;
    private readonly long _wanted;
    private readonly ulong _start;
    private readonly long _before;
    private readonly bool _locksItself;

    private Stage _stage;
    private ulong _address;
    private long _left;
    private long _done;
    private Errno _error;
    private bool _hasWaited;

    /// <summary>Prepares a walk of <paramref name="count"/> pages from <paramref name="start"/>.</summary>
    /// <param name="space">Whose pages.</param>
    /// <param name="start">First address, in bytes.</param>
    /// <param name="count">Pages.</param>
    /// <param name="flags">Flags, internal ones included.</param>
    /// <param name="vector">Receives the frames behind what it already holds.</param>
    /// <param name="locksItself">The call takes mmap_lock itself (_unlocked, _fast); else the caller holds it.</param>
    public GupOperation(
        AddressSpace space, ulong start, long count, GupFlags flags, FrameVector vector, bool locksItself)
    {
        _space = space;
        _flags = flags;
        _vector = vector;
        _wanted = count;
        _start = start;
        _before = vector.Count;
        _locksItself = locksItself;
        Begin();
    }

    /// <summary>Set when <see cref="Run"/> returned true.</summary>
    public GupResult Result { get; private set; }

    public StopReason Reason { get; private set; }

    /// <summary>How often a fault dropped the lock.</summary>
    public int Retries { get; private set; }

    /// <summary>Address at which a parked operation waits, in bytes: its next page.</summary>
    public ulong ParkedAt => _address;

    /// <summary>A fatal signal for this pin alone: its caller is gone. It ends at its next choice point.</summary>
    public bool IsKilled { get; set; }

    /// <summary>
    /// Its caller's signal, for which the walk looks between batches of pages; null: it looks for none.
    /// </summary>
    public PinSignal? Signal { get; set; }

    /// <summary>Goes on until the end (true) or until a fault has to wait (false).</summary>
    public bool Run(KernelState kernel)
    {
        while (true)
        {
            if (!RunLocked(kernel)) return false;
            if ((_flags & GupFlags.LongTerm) == 0 || _done == 0) break;
            if (WaitsBeforeCheck(kernel)) return false;
            var moved = LongTermMigration.Run(kernel, _space, _start, _vector, _before);
            if (moved == MigrationOutcome.AllPinnable) break;
            if (moved == MigrationOutcome.Failed)
            {
                _done = 0;
                _error = Errno.ENOMEM;
                Reason = StopReason.MigrationFailed;
                break;
            }

            Begin();
        }

        Result = _done > 0 ? GupResult.Of(_done) : _error;
        return true;
    }

    private void Begin()
    {
        _stage = _locksItself ? Stage.TakeLock : Stage.Walk;
        _address = _start;
        _left = _wanted;
        _done = 0;
        _error = Errno.None;
        _hasWaited = false;
    }

    /// <summary>
    /// __gup_longterm_locked: a call that let the lock go holds nothing but pins between the walk and the look at its
    /// folios.
    /// </summary>
    private bool WaitsBeforeCheck(KernelState kernel)
    {
        if (_hasWaited || (!_locksItself && Retries == 0)) return false;
        _hasWaited = true;
        return kernel.Plan.Decide(ChoicePoint.LongTermCheck, _space.Name, _start) == FaultAction.Park;
    }

    private bool RunLocked(KernelState kernel)
    {
        while (_stage != Stage.Done)
        {
            switch (_stage)
            {
                case Stage.TakeLock:
                    _stage = Stage.LockTaken;
                    if (WaitsForLock(kernel)) return false;
                    break;
                case Stage.LockTaken:
                    // mmap_read_lock_killable: a fatal signal ends the wait for the lock only (row 39); the walk sees
                    // the other signals.
                    if (IsKilled) Finish(Errno.EAGAIN, StopReason.Signal);
                    else _stage = Stage.Walk;
                    break;
                case Stage.Walk:
                    if (!WalkRest(kernel)) return false;
                    break;
                case Stage.RetakeLock:
                    _stage = Stage.RetryOne;
                    if (WaitsForLock(kernel)) return false;
                    break;
                case Stage.RetryOne:
                    if (!RetryOnePage(kernel)) return false;
                    break;
            }
        }

        return true;
    }

    private bool WalkRest(KernelState kernel)
    {
        var count = Signal is null ? _left : Math.Min(_left, PinSignal.Batch);
        var walked = GupWalk.Walk(kernel, _space, _address, count, _flags, _vector, out var reason);
        Advance(walked.Pages);
        Reason = reason;
        if (walked.Pages == count && _left > 0)
        {
            // The lock is held on, as between two pages of Linux's walk.
            if (Signal!.IsPending()) Finish(Errno.EINTR, StopReason.Signal);
            return true;
        }

        if (_left == 0 || !walked.IsLockDropped)
        {
            // Done, failed, or NOWAIT: the lock is still held.
            Finish(walked.Error, reason, allowsZero: true);
            return true;
        }

        Retries++;
        _stage = Stage.RetakeLock;
        return !walked.Parks;
    }

    /// <summary>
    /// A fault plan decides at the moment when the lock is asked for. True: another task has the lock.
    /// </summary>
    private bool WaitsForLock(KernelState kernel)
    {
        switch (kernel.Plan.Decide(ChoicePoint.LockTake, _space.Name, _address))
        {
            case FaultAction.Kill:
                IsKilled = true;
                Deliver(PendingSignal.Fatal);
                return false;
            case FaultAction.Signal:
                Deliver(PendingSignal.NonFatal);
                return false;
            case FaultAction.Park:
                return true;
            default:
                return false;
        }
    }

    /// <summary>After the lock was dropped: one page with TRIED, then the rest.</summary>
    private bool RetryOnePage(KernelState kernel)
    {
        var pending = _space.Task.Pending;
        var isInterrupted = IsKilled || pending == PendingSignal.Fatal
            || (pending == PendingSignal.NonFatal && (_flags & GupFlags.Interruptible) != 0);
        if (isInterrupted)
        {
            Finish(Errno.EINTR, StopReason.Signal);
            return true;
        }

        var walked = GupWalk.Walk(kernel, _space, _address, 1, _flags | GupFlags.Tried, _vector, out var reason);
        Reason = reason;
        if (walked.IsLockDropped)
        {
            Retries++;
            _stage = Stage.RetakeLock;
            return !walked.Parks;
        }

        Advance(walked.Pages);
        if (walked.Pages != 1) Finish(walked.Error, reason);
        else if (_left == 0) Finish(Errno.None, StopReason.None);
        else _stage = Stage.Walk;
        return true;
    }

    private void Advance(long pages)
    {
        _address = (_address & PageGeometry.PageMask) + ((ulong)pages << PageGeometry.PageShift);
        _left -= pages;
        _done += pages;
    }

    private void Finish(Errno error, StopReason reason, bool allowsZero = false)
    {
        _stage = Stage.Done;
        Reason = _left == 0 ? StopReason.None : reason;
        _error = _done > 0 ? Errno.None : error;
        var isNoWait = (_flags & GupFlags.NoWait) != 0;
        // No page without NOWAIT is a warning and -EFAULT.
        if (_done == 0 && error == Errno.None && !(isNoWait && allowsZero)) _error = Errno.EFAULT;
    }

    private void Deliver(PendingSignal signal) => _space.Task = _space.Task with { Pending = signal };
}
