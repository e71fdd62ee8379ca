using System.Runtime.CompilerServices;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.Pinning;

namespace FramePin.Core.Machines;

/// <summary>Frame vectors and pins: the calls that take the turn only where they must.</summary>
public sealed partial class Machine
{
    /// <summary>frame_vector_create: null for 0 slots and above 134,217,727. The caller destroys it.</summary>
    public FrameVector? CreateVector(long slots) => _pins.CreateVector(slots);

    /// <summary>frame_vector_destroy. False when frames are still held: put first (row 9).</summary>
    public bool DestroyVector(FrameVector vector)
    {
        // The slots go back to a pool: they are read before.
        var slots = vector.Allocated;
        if (!_pins.DestroyVector(vector)) return false;
        if (_observer is not null) Tell(CountKind.Destroy, vector, slots);
        return true;
    }

    /// <inheritdoc/>
    public PinOutcome Pin(in PinRequest request, FrameVector vector) => Pin(request, vector, null);

    /// <summary>
    /// Pins: get_vaddr_frames by the machine's era, or a raw call of mm/gup.c. Takes no turn and allocates nothing
    /// while every page is resident and the era is B to D.
    /// </summary>
    /// <param name="request">The arguments.</param>
    /// <param name="vector">An empty vector, used by nothing else meanwhile.</param>
    /// <param name="phases">Told about the phases; may be null.</param>
    /// <returns>
    /// Frames filled (fewer is a legal partial result), or the errno of the first page. A pin that has to wait at a
    /// fault is parked in the outcome; <see cref="ResumePinCall"/> takes it up again.
    /// </returns>
    /// <remarks>Source: mm/gup.c, mm/frame_vector.c; Semantics 2.3 to 2.6, 3.</remarks>
    public PinOutcome Pin(in PinRequest request, FrameVector vector, IPinObserver? phases)
    {
        var begun = Begin(request, vector, phases);
        if (!begun.IsDone) return Finish(request, vector, begun.Walk.Taken, phases);
        phases?.Entered(PinPhase.Done);
        return Outcome(begun, vector);
    }

    /// <summary>
    /// Pins as <see cref="Pin(in PinRequest, FrameVector, IPinObserver?)"/> does, if that takes away no more than was
    /// announced (see <see cref="TryExecute"/>). A pin takes pages away when it makes shared pages the space's own, and
    /// when it moves pages out of ZONE_MOVABLE.
    /// </summary>
    /// <param name="request">The arguments.</param>
    /// <param name="vector">An empty vector, used by nothing else meanwhile.</param>
    /// <param name="announced">Ranges whose watchers have agreed; null for none.</param>
    /// <param name="phases">Told about the phases; may be null.</param>
    /// <param name="outcome">The answer, if it ran.</param>
    /// <param name="missing">Ranges that have to be announced first.</param>
    /// <param name="cancelled">
    /// A fatal signal for this pin alone: it stops with the pages that it has after 1024 pages more at most.
    /// </param>
    /// <returns>False: nothing is held, and the vector is empty.</returns>
    public bool TryPin(
        in PinRequest request, FrameVector vector, AnnouncedRanges? announced, IPinObserver? phases,
        out PinOutcome outcome, out IReadOnlyList<TakenRange> missing, CancellationToken cancelled)
    {
        missing = [];
        var begun = Begin(request, vector, phases);
        if (begun.IsDone)
        {
            outcome = Outcome(begun, vector);
        }
        else
        {
            phases?.Entered(PinPhase.TurnWait);
            var rest = Rest(request, vector, begun.Walk.Taken);
            if (cancelled.CanBeCanceled && request.Count - begun.Walk.Taken > PinSignal.Batch)
                rest = rest with { Signal = new PinSignal(cancelled) };
            if (!TryExecute(rest, announced, phases, TurnPhase(request), out outcome, out missing))
            {
                Put(vector, isDirty: false);
                return false;
            }
        }

        phases?.Entered(PinPhase.Done);
        return true;
    }

    /// <summary>The part of a pin beside the turn.</summary>
    private BegunPin Begin(in PinRequest request, FrameVector vector, IPinObserver? phases) =>
        phases is null && _observer is null
            ? PinOperation.Begin(_kernel, request, vector, null)
            : BeginTold(request, vector, phases);

    [MethodImpl(MethodImplOptions.NoInlining)]
    private BegunPin BeginTold(in PinRequest request, FrameVector vector, IPinObserver? phases)
    {
        if (!WalksInTurn(request)) phases?.Entered(PinPhase.Walk);
        var begun = PinOperation.Begin(_kernel, request, vector, null);
        if (_observer is not null && !WalksInTurn(request))
            Tell(CountKind.Pin, vector, vector.Allocated, begun.Walk.Taken, begun.Walk.MetFork, request);
        return begun;
    }

    /// <summary>The part of a pin under the turn.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private PinOutcome Finish(in PinRequest request, FrameVector vector, long taken, IPinObserver? phases)
    {
        phases?.Entered(PinPhase.TurnWait);
        var outcome = Execute<PinCall, PinOutcome>(Rest(request, vector, taken), phases, TurnPhase(request));
        phases?.Entered(PinPhase.Done);
        return outcome;
    }

    private static PinOutcome Outcome(BegunPin begun, FrameVector vector) =>
        new() { Result = begun.Result, Reason = begun.Reason, Epoch = vector.Epoch };

    /// <summary>The command that goes on after the part beside the turn.</summary>
    private static PinCall Rest(in PinRequest request, FrameVector vector, long taken) =>
        new(request, vector.Id, vector.Allocated, taken) { InHand = vector };

    private bool WalksInTurn(in PinRequest request) => request.IsHelper && VaddrFrames.NeedsTurn(Profile);

    /// <summary>The phase of a pin that begins when the turn is held.</summary>
    private PinPhase TurnPhase(in PinRequest request) => WalksInTurn(request) ? PinPhase.Walk : PinPhase.Fault;

    /// <summary>
    /// put_vaddr_frames: drops one reference a frame if the vector holds any. With <paramref name="isDirty"/> every
    /// page is marked dirty first, as a driver does whose device wrote (unpin_user_pages_dirty_lock). Idempotent. Takes
    /// the turn only where a process on the host still has the frames mapped.
    /// </summary>
    public void Put(FrameVector vector, bool isDirty)
    {
        if (vector.FirstHold is not null && _pins.Holds.Detach(vector) is { } detached)
            Execute<QuarantineVectorCall, SyscallResult>(detached);
        FrameVectors.Put(_kernel, vector, isDirty);
        if (_observer is not null) Tell(isDirty ? CountKind.PutDirty : CountKind.Put, vector, vector.Allocated);
    }

    /// <summary>frame_vector_to_pages: -EINVAL if any PFN has no struct page, and then nothing changes.</summary>
    public Errno ToPages(FrameVector vector)
    {
        var error = vector.ToPages(_kernel.Memory.Frames);
        if (_observer is not null) Tell(CountKind.ToPages, vector, vector.Allocated);
        return error;
    }

    /// <summary>frame_vector_to_pfns: never fails.</summary>
    public void ToPfns(FrameVector vector)
    {
        vector.ToPfns();
        if (_observer is not null) Tell(CountKind.ToPfns, vector, vector.Allocated);
    }

    /// <summary>
    /// A process on the host is about to map a vector's frames: those that become free from now on are kept from the
    /// allocator until <see cref="ReleaseHold"/>. Changes no count that the emulated kernel knows. Takes the turn only
    /// for bare PFNs.
    /// </summary>
    public FrameHold HoldFrames(FrameVector vector) =>
        _pins.Holds.TryHold(vector) ?? Execute<HoldFramesCall, FrameHold>(new(vector.Id, vector.Allocated));

    /// <summary>
    /// The process has unmapped the frames, or is dead. The second call for a hold does nothing. Takes the turn only
    /// when the vector was put before.
    /// </summary>
    public void ReleaseHold(FrameHold hold)
    {
        if (!_pins.Holds.TryRelease(hold)) Execute<ReleaseHoldCall, SyscallResult>(new(hold.Id));
    }

    /// <summary>
    /// Copies bytes of a vector's frames as a device does by DMA, from byte <paramref name="offset"/> of the first
    /// frame on. Needs no turn: the caller's references keep the frames. -ENXIO for MMIO without memory behind it.
    /// </summary>
    public int CopyFrames(FrameVector vector, ulong offset, Span<byte> buffer, bool isWrite, out Errno error)
    {
        ObjectDisposedException.ThrowIf(!_kernel.TryUse(), this);
        try
        {
            var done = FrameCopy.Run(_kernel, vector, offset, buffer, isWrite, out error);
            if (isWrite) _observer?.Written(CommandNumber, vector.Id, offset, buffer[..done]);
            return done;
        }
        finally
        {
            _kernel.LeaveUse();
        }
    }

    /// <summary>A replay's vector under the number that the log gives it.</summary>
    internal FrameVector VectorOf(VectorId id, long slots) => _pins.Vector(id) ?? _pins.CreateVector(id, slots);

    /// <summary>A replay's pin: the part beside the turn. The rest is a command of the log.</summary>
    /// <returns>Pages taken.</returns>
    internal long PinWithoutTurn(in PinRequest request, FrameVector vector, bool metFork) =>
        PinOperation.Begin(_kernel, request, vector, metFork).Walk.Taken;

    [MethodImpl(MethodImplOptions.NoInlining)]
    private void Tell(
        CountKind kind, FrameVector vector, long slots, long pages = 0, bool metFork = false,
        in PinRequest request = default) =>
        _observer!.Counted(new CountEvent(
            kind, kind <= CountKind.PutDirty
                ? vector.Epoch
                : CommandNumber, vector.Id, slots, pages, metFork, request));
}
