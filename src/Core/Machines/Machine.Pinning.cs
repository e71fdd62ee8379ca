using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;

namespace FramePin.Core.Machines;

/// <summary>Steps of a pin, as an observer sees them begin.</summary>
public enum PinPhase
{
    /// <summary>The fast path, inside the gate.</summary>
    Walk,
    /// <summary>Waiting for the machine's turn.</summary>
    TurnWait,
    /// <summary>The slow path: VMA look-up, faults, retries, migration.</summary>
    Fault,
    /// <summary>The answer is known.</summary>
    Done,
}

/// <summary>
/// Told when a pin enters a phase. Called on the pinning thread, outside the gate; must not call the machine.
/// </summary>
public interface IPinObserver
{
    void Entered(PinPhase phase);
}

/// <summary>What a pin came to.</summary>
public readonly record struct PinOutcome
{
    public required GupResult Result { get; init; }

    /// <summary>Why it stopped short, or failed; <see cref="StopReason.None"/> when every page was taken.</summary>
    public required StopReason Reason { get; init; }

    /// <summary>Number of the last command before the pin.</summary>
    public long Epoch { get; init; }

    /// <summary>Times a fault dropped the lock.</summary>
    public int Retries { get; init; }

    /// <summary>The slow path ran.</summary>
    public bool IsSlow { get; init; }

    /// <summary>Set when a fault waits for somebody: the answer comes from <see cref="Machine.Resume"/>.</summary>
    public ParkedPin? Parked { get; init; }
}

/// <summary>A pin that waits at a fault. Holds no lock; its frame vector holds what was taken so far.</summary>
public sealed class ParkedPin
{
    internal ParkedPin(GupOperation operation, Func<GupResult, StopReason, (GupResult, StopReason)> complete)
    {
        Operation = operation;
        Complete = complete;
    }

    public AddressSpace Space => Operation.Space;

    /// <summary>Address of the fault, in bytes.</summary>
    public ulong Address => Operation.ParkedAt;

    internal GupOperation Operation { get; }

    internal Func<GupResult, StopReason, (GupResult Result, StopReason Reason)> Complete { get; }
}

/// <summary>Frame vectors and the GUP calls.</summary>
public sealed partial class Machine
{
    /// <summary>frame_vector_create: null for 0 slots and above 134,217,727. The caller destroys it.</summary>
    public FrameVector? CreateVector(long slots)
    {
        if (FrameVectors.Create(slots) is not { } vector) return null;
        lock (_registry) _vectors.Add(vector);
        return vector;
    }

    /// <summary>frame_vector_destroy. False when frames are still held: put first (row 9).</summary>
    public bool DestroyVector(FrameVector vector)
    {
        if (vector.Count > 0) return false;
        lock (_registry)
        {
            if (!_vectors.Remove(vector)) return false;
        }

        return FrameVectors.Destroy(vector);
    }

    /// <summary>
    /// get_vaddr_frames by the machine's era: fills <paramref name="vector"/> with up to <paramref name="count"/>
    /// frames from <paramref name="start"/> on.
    /// </summary>
    /// <param name="space">Whose memory.</param>
    /// <param name="start">Address in bytes; need not be aligned.</param>
    /// <param name="count">Pages; above the vector's slots it is clamped.</param>
    /// <param name="flags">WRITE, and FORCE for era A; the eras that ignore one ignore it.</param>
    /// <param name="vector">An empty vector, used by nobody else meanwhile.</param>
    /// <param name="observer">Told about the phases; may be null.</param>
    /// <returns>Frames filled (fewer is a legal partial result), or the errno of the first.</returns>
    /// <remarks>
    /// Source: mm/frame_vector.c; Semantics 2.3 to 2.6. Takes no turn while every page is resident and eras B to
    /// D; allocates nothing then.
    /// </remarks>
    public PinOutcome GetVaddrFrames(
        AddressSpace space, ulong start, long count, GupFlags flags, FrameVector vector, IPinObserver? observer = null)
    {
        if (VaddrFrames.NeedsTurn(Profile)) return GetLocked(space, start, count, flags, vector, observer);
        observer?.Entered(PinPhase.Walk);
        var epoch = CommandNumber;
        var started = VaddrFrames.StartFast(_kernel, space, start, count, flags, vector);
        if (started.Operation is null && (started.Result.Pages > 0 || Profile.Era != HelperEra.B || count <= 0))
        {
            var reason = started.Reason;
            var result = VaddrFrames.Complete(_kernel, space, start, count, vector, started.Result, ref reason);
            observer?.Entered(PinPhase.Done);
            return new PinOutcome { Result = result, Reason = reason, Epoch = epoch };
        }

        observer?.Entered(PinPhase.TurnWait);
        using var turn = EnterTurn();
        observer?.Entered(PinPhase.Fault);
        var outcome = RunInTurn(space, start, count, vector, started);
        observer?.Entered(PinPhase.Done);
        return outcome;
    }

    /// <summary>
    /// How many pages a long-term pin would be allowed to take, before anything is faulted in: by the areas, the ends
    /// of their files and guard markers. Eras C and D; the older ones answer <paramref name="count"/>. Faults may still
    /// fail.
    /// </summary>
    public long CountPinnable(AddressSpace space, ulong start, long count, GupFlags flags, out StopReason reason)
    {
        reason = StopReason.None;
        if (Profile.Era < HelperEra.C) return count;
        using var turn = EnterQuery();
        var full = flags | GupFlags.Pin | GupFlags.LongTerm;
        if (Profile.Era == HelperEra.C) full |= GupFlags.Write | GupFlags.Force;
        var address = start & PageGeometry.PageMask;
        for (var page = 0L; page < count; page++, address += PageGeometry.PageSize)
        {
            reason = StopReason.Hole;
            if (space.Exited || address >= PageGeometry.TaskSize || space.Vmas.Find(address) is not { } vma)
                return page;
            if (VmaCheck.Check(_kernel, vma, full, out reason) != Errno.None) return page;
            reason = StopReason.FaultFailed;
            var entry = space.PageTable.Read(address);
            if ((entry & PageTables.Pte.Marker) != 0) return page;
            var isBehindEnd = vma.File is { } file && vma.IndexOf(address) >= PageGeometry.PagesOf(file.Size);
            if (isBehindEnd && !PageTables.Pte.IsMapped(entry)) return page;
        }

        reason = StopReason.None;
        return count;
    }

    /// <summary>A raw call of mm/gup.c. The frames go into <paramref name="vector"/>, which must be empty.</summary>
    /// <param name="space">Whose memory.</param>
    /// <param name="call">Which call.</param>
    /// <param name="start">Address in bytes.</param>
    /// <param name="count">Pages, at most the vector's slots.</param>
    /// <param name="flags">FOLL_* flags from outside.</param>
    /// <param name="locked">The caller's <c>locked</c> argument; only the remote calls look at it.</param>
    /// <param name="vector">Receives the pages.</param>
    public PinOutcome Gup(
        AddressSpace space, GupCall call, ulong start, long count, GupFlags flags, LockedArgument locked,
        FrameVector vector)
    {
        vector.Reset();
        var wanted = Math.Min(count, vector.Allocated);
        var epoch = CommandNumber;
        var prepared = GupCalls.Prepare(_kernel, space, call, start, wanted, flags, locked, vector);
        if (prepared.Operation is not { } operation)
            return new PinOutcome { Result = prepared.Result, Reason = prepared.Reason, Epoch = epoch };
        var before = vector.Count;
        using var turn = EnterTurn();
        return RunOrPark(operation, (result, reason) => (GupCalls.Combine(result, before), reason));
    }

    /// <summary>Takes a parked pin up again: the fault that it waits for may be tried anew. May park again.</summary>
    public PinOutcome Resume(ParkedPin parked) =>
        TryResume(parked, isKilled: false, out var outcome)
            ? outcome
            : throw new InvalidOperationException("this pin is not parked");

    /// <summary>
    /// Takes a parked pin up again; with <paramref name="isKilled"/> a fatal signal ends it with what it has, or
    /// -EINTR. False: somebody else has taken it up.
    /// </summary>
    public bool TryResume(ParkedPin parked, bool isKilled, out PinOutcome outcome)
    {
        using var turn = EnterTurn();
        outcome = default;
        if (!_parked.Remove(parked)) return false;
        if (isKilled) parked.Operation.IsKilled = true;
        outcome = RunOrPark(parked.Operation, parked.Complete);
        return true;
    }

    /// <summary>
    /// A pin inside a call that answers at once: where it would have to wait it ends, with what it has.
    /// </summary>
    private GupResult GupAtOnce(AddressSpace space, GupCall call, ulong start, long count, GupFlags flags,
        LockedArgument locked, FrameVector vector)
    {
        var outcome = Gup(space, call, start, count, flags, locked, vector);
        while (outcome.Parked is { } parked && TryResume(parked, isKilled: true, out var ended)) outcome = ended;
        return outcome.Result;
    }

    /// <summary>Pins of any address space that wait.</summary>
    public IReadOnlyList<ParkedPin> ParkedPins()
    {
        using var turn = EnterQuery();
        return [.. _parked];
    }

    /// <summary>put_vaddr_frames: drops one reference a frame if it holds any. Idempotent; takes no turn.</summary>
    public void PutVaddrFrames(FrameVector vector) => Put(vector, makeDirty: false);

    /// <summary>
    /// What a driver does before put when the device wrote: every page dirty, then unpinned
    /// (unpin_user_pages_dirty_lock).
    /// </summary>
    public void PutVaddrFramesDirty(FrameVector vector) => Put(vector, makeDirty: true);

    private void Put(FrameVector vector, bool makeDirty)
    {
        HandToHolds(vector);
        FrameVectors.Put(_kernel, vector, makeDirty);
    }

    /// <summary>frame_vector_to_pages: -EINVAL if any PFN has no struct page, and then nothing changes.</summary>
    public Errno ToPages(FrameVector vector) => vector.ToPages(_kernel.Memory.Frames);

    /// <summary>frame_vector_to_pfns: never fails.</summary>
    public static void ToPfns(FrameVector vector) => vector.ToPfns();

    /// <summary>
    /// vb2_create_framevec: a vector for the pages of [start, start + length) bytes, all of them or none
    /// (Semantics 2.9).
    /// </summary>
    public FrameVector? CreateFramevec(AddressSpace space, ulong start, ulong length, bool isWrite, out Errno error)
    {
        var first = start >> PageGeometry.PageShift;
        var last = unchecked(start + length - 1) >> PageGeometry.PageShift;
        var pages = unchecked(last - first + 1);
        // create and get take 32-bit counts: the kernel truncates, and compares with the whole value afterwards.
        var truncated = (long)(uint)pages;
        error = Errno.ENOMEM;
        if (CreateVector(truncated) is not { } vector) return null;
        var flags = (isWrite ? GupFlags.Write : 0) | (Profile.Era <= HelperEra.C ? GupFlags.Force : 0);
        var outcome = GetVaddrFrames(space, start & PageGeometry.PageMask, truncated, flags, vector);
        error = outcome.Result.Error;
        if (error == Errno.None && (ulong)outcome.Result.Pages == pages) return vector;
        if (error == Errno.None) error = Errno.EFAULT;
        PutVaddrFrames(vector);
        DestroyVector(vector);
        return null;
    }

    private PinOutcome GetLocked(
        AddressSpace space, ulong start, long count, GupFlags flags, FrameVector vector, IPinObserver? observer)
    {
        observer?.Entered(PinPhase.TurnWait);
        using var turn = EnterTurn();
        observer?.Entered(PinPhase.Walk);
        var started = space.Exited
            ? new VaddrFrames.Started(Errno.EFAULT, null, 0, StopReason.Hole)
            : VaddrFrames.StartLocked(_kernel, space, start, count, flags, vector);
        var outcome = RunInTurn(space, start, count, vector, started);
        observer?.Entered(PinPhase.Done);
        return outcome;
    }

    private PinOutcome RunInTurn(
        AddressSpace space, ulong start, long count, FrameVector vector, VaddrFrames.Started started)
    {
        (GupResult, StopReason) Complete(GupResult slow, StopReason reason)
        {
            var combined = GupCalls.Combine(slow, started.TakenFast);
            var answer = VaddrFrames.Complete(_kernel, space, start, count, vector, combined, ref reason);
            return (answer, reason);
        }

        if (started.Operation is { } operation) return RunOrPark(operation, Complete);
        var (result, stop) = Complete(started.Result, started.Reason);
        return new PinOutcome { Result = result, Reason = stop, Epoch = _commands, IsSlow = true };
    }

    private PinOutcome RunOrPark(GupOperation operation, Func<GupResult, StopReason, (GupResult, StopReason)> complete)
    {
        var isDone = operation.Run(_kernel);
        while (!isDone && _parked.Count(parked => parked.Space == operation.Space) >= MaxParkedPerSpace)
        {
            // No room to wait: the fault is tried again at once, as if whoever it waits for had answered; a handler
            // outside has not.
            operation.IsKilled |= _kernel.Served.Open(operation.Space, operation.ParkedAt) is not null;
            isDone = operation.Run(_kernel);
        }

        if (isDone)
        {
            var (result, reason) = complete(operation.Result, operation.Reason);
            return new PinOutcome
            {
                Result = result,
                Reason = reason,
                Epoch = _commands,
                Retries = operation.Retries,
                IsSlow = true,
            };
        }

        var pin = new ParkedPin(operation, complete);
        _parked.Add(pin);
        return new PinOutcome
        {
            Result = default,
            Reason = StopReason.None,
            Epoch = _commands,
            Retries = operation.Retries,
            IsSlow = true,
            Parked = pin,
        };
    }
}
