using System.Runtime.CompilerServices;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Pinning;

/// <summary>The pages that a fast walk took.</summary>
/// <param name="Taken">Pages taken.</param>
/// <param name="MetFork">The fault plan had a fork meet the walk, which dropped its pages again.</param>
internal readonly record struct FastWalk(long Taken, bool MetFork);

/// <summary>
/// The part of a pin that has run beside the turn. It holds no object: a copy needs no write barrier.
/// </summary>
/// <param name="IsDone">The answer is complete. Otherwise the rest needs the turn.</param>
/// <param name="Result">The answer, when it is complete.</param>
/// <param name="Reason">Why it stopped short, when it is complete.</param>
/// <param name="Walk">The pages in the vector.</param>
internal readonly record struct BegunPin(bool IsDone, GupResult Result, StopReason Reason, FastWalk Walk)
{
    public static BegunPin NeedsTurn(FastWalk walk = default) => new(false, default, default, walk);
}

/// <summary>
/// One pin from its arguments to its answer, whichever call made it: the fast walk inside the gate, then, where pages
/// are left, the slow walk under the turn, the era's completion, and the wait at a fault.
/// </summary>
/// <remarks>
/// <see cref="Begin"/> runs first and allocates nothing. An operation is made only for the slow path, under
/// the turn, and is deterministic from the request and the number of pages that the fast walk took. Between two calls
/// of <see cref="Run"/> it holds nothing but the references in its vector. Source: mm/gup.c: gup_fast_fallback,
/// __gup_longterm_locked; drivers/media/common/videobuf2/frame_vector.c: get_vaddr_frames.
/// </remarks>
internal sealed class PinOperation
{
    private readonly PinRequest _request;
    private readonly FrameVector _vector;
    private readonly long _taken;
    private readonly GupOperation? _walk;

    /// <summary>The plan's answer, when there is no walk.</summary>
    private readonly GupPlan _plan;

    /// <summary>Prepares the slow path. Under the turn.</summary>
    /// <param name="kernel">The machine's kernel.</param>
    /// <param name="request">The arguments.</param>
    /// <param name="vector">Receives the frames behind those that the fast walk put there.</param>
    /// <param name="taken">Pages that the fast walk took.</param>
    /// <param name="signal">The signal of its caller; null for none.</param>
    public PinOperation(
        KernelState kernel, in PinRequest request, FrameVector vector, long taken, PinSignal? signal = null)
    {
        _request = request;
        _vector = vector;
        _taken = taken;
        Space = kernel.Space(request.Space);
        _plan = Plan(kernel, request, vector);
        if (!_plan.Walks) return;
        var start = _plan.Start + ((ulong)taken << PageGeometry.PageShift);
        var locksItself = _plan.Path != GupPath.Locked;
        var flags = _plan.Flags | (_plan.Path == GupPath.Fast ? GupFlags.Touch | GupFlags.Unlockable : 0);
        _walk = new GupOperation(Space, start, _plan.Count - taken, flags, vector, locksItself)
        {
            Signal = signal,
        };
    }

    public AddressSpace Space { get; }

    /// <summary>Address at which a parked operation waits, in bytes: its next page.</summary>
    public ulong ParkedAt => _walk?.ParkedAt ?? _request.Start;

    /// <summary>A fatal signal for this pin alone: its caller is gone. It ends at its next choice point.</summary>
    public bool IsKilled
    {
        get => _walk is { IsKilled: true };
        set
        {
            if (_walk is not null) _walk.IsKilled = value;
        }
    }

    /// <summary>
    /// The pin waits at a fault. Its caller's signal reaches it as <see cref="ResumePinCall"/> from now on.
    /// </summary>
    public void Park()
    {
        if (_walk is not null) _walk.Signal = null;
    }

    /// <summary>Times a fault dropped the lock.</summary>
    public int Retries => _walk?.Retries ?? 0;

    /// <summary>The part of a pin that needs no turn.</summary>
    /// <param name="kernel">The machine's kernel.</param>
    /// <param name="request">The arguments.</param>
    /// <param name="vector">Receives the frames.</param>
    /// <param name="metFork">A replay's knowledge of whether a fork met the fast walk; null to ask the fault
    /// plan.</param>
    public static BegunPin Begin(KernelState kernel, in PinRequest request, FrameVector vector, bool? metFork)
    {
        if (request.IsHelper && VaddrFrames.NeedsTurn(kernel.Profile)) return BegunPin.NeedsTurn();
        var plan = PlanByArguments(kernel, request, vector.Allocated);
        if (!plan.Walks || plan.Path is GupPath.Locked or GupPath.Unlocked)
            return BeginWithoutWalk(kernel, request, vector);
        var space = kernel.Space(request.Space);
        var walk = GupFast.Take(kernel, space, plan.Start, plan.Count, plan.Flags, vector, metFork);
        if (walk.Taken == plan.Count) return new BegunPin(true, GupResult.Of(walk.Taken), StopReason.None, walk);
        return plan.Path == GupPath.Fast
            ? BegunPin.NeedsTurn(walk)
            : new BegunPin(true, GupResult.Of(walk.Taken), StopReason.NotPresent, walk);
    }

    /// <summary>
    /// A call that is answered by its arguments, or that has no fast walk. The plan is made again, which costs less
    /// than a plan on the stack of every pin.
    /// </summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static BegunPin BeginWithoutWalk(KernelState kernel, in PinRequest request, FrameVector vector)
    {
        var plan = PlanByArguments(kernel, request, vector.Allocated);
        var isPinOfHelper = request.IsHelper && request.Count > 0;
        if (!request.IsHelper || isPinOfHelper) vector.Reset();
        if (plan.Walks || isPinOfHelper) vector.IsPinned = request.IsHelper || GupCalls.IsPin(request.RawCall);
        if (plan.Walks) return BegunPin.NeedsTurn();
        vector.Epoch = kernel.CommandNumber;
        if (!isPinOfHelper) return new BegunPin(true, plan.Answer, plan.Reason, default);
        // Era B looks at the areas when the pin took nothing.
        if (kernel.Profile.Era == HelperEra.B) return BegunPin.NeedsTurn();
        var reason = plan.Reason;
        var result = VaddrFrames.Complete(kernel, request, vector, plan.Answer, ref reason);
        return new BegunPin(true, result, reason, default);
    }

    /// <summary>The command that began it.</summary>
    public PinCall AsCall() => new(_request, _vector.Id, _vector.Allocated, _taken);

    /// <summary>Goes on until the end (true) or until a fault has to wait (false). Under the turn.</summary>
    public bool Run(KernelState kernel) => _walk is null || _walk.Run(kernel);

    /// <summary>The answer, when <see cref="Run"/> has returned true. Under the turn.</summary>
    public PinOutcome Finish(KernelState kernel)
    {
        var (result, reason) = _walk is null ? (_plan.Answer, _plan.Reason) : (Combine(_walk.Result), _walk.Reason);
        if (_request.IsHelper) result = VaddrFrames.Complete(kernel, _request, _vector, result, ref reason);
        return new PinOutcome
        {
            Result = result,
            Reason = reason,
            Epoch = kernel.CommandNumber,
            Retries = Retries,
            IsSlow = true,
        };
    }

    /// <summary>Joins the pages of the fast walk with the result of the slow one.</summary>
    private GupResult Combine(GupResult slow)
    {
        if (slow.Error == Errno.None) return GupResult.Of(slow.Pages + _taken);
        return _taken > 0 ? GupResult.Of(_taken) : slow;
    }

    /// <summary>
    /// The plan as far as the arguments alone decide it. In era A the helper's flags are those of any range of pages.
    /// </summary>
    internal static GupPlan PlanByArguments(KernelState kernel, in PinRequest request, long slots)
    {
        if (!request.IsHelper)
        {
            var wanted = Math.Min(request.Count, slots);
            return GupCalls.Plan(kernel, request.RawCall, request.Start, wanted, request.Flags, request.Locked);
        }

        if (request.Count <= 0) return GupPlan.Done(GupResult.Of(0), StopReason.None);
        return VaddrFrames.Plan(kernel, request.Start, Math.Min(request.Count, slots), request.Flags);
    }

    private GupPlan Plan(KernelState kernel, in PinRequest request, FrameVector vector)
    {
        if (!request.IsHelper || request.Count <= 0 || !VaddrFrames.NeedsTurn(kernel.Profile))
            return PlanByArguments(kernel, request, vector.Allocated);
        if (Space.Exited) return GupPlan.Done(Errno.EFAULT, StopReason.Hole);
        vector.Reset();
        var count = Math.Min(request.Count, vector.Allocated);
        return VaddrFrames.PlanByArea(kernel, Space, request.Start, count, request.Flags, vector);
    }
}
