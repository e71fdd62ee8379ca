using System.Collections.Concurrent;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;

namespace FramePin.Server.Machines;

/// <summary>The calls of a machine that wait for a parked pin: the pin's fault needs an answer from outside.</summary>
/// <remarks>Any thread. A pin that waits keeps no thread.</remarks>
internal sealed class ParkedPins(Machine machine)
{
    private readonly ConcurrentDictionary<ParkedPin, TaskCompletionSource<PinOutcome>> _waiting = new();

    /// <summary>The daemon is ending: pins that wait are told so.</summary>
    public bool IsStopping { get; private set; }

    /// <summary>
    /// Waits until a parked pin has come to its end. To the pin a cancelled call is a fatal signal, which ends it with
    /// the pages that it has, or with EINTR.
    /// </summary>
    public async Task<PinOutcome> WaitAsync(ParkedPin parked, CancellationToken cancelled)
    {
        await using var registration = cancelled.Register(() => TakeUp(parked, isKilled: true)).ConfigureAwait(false);
        if (IsStopping) TakeUp(parked, isKilled: true);
        var outcome = await Waiting(parked).Task.ConfigureAwait(false);
        _waiting.TryRemove(parked, out _);
        return outcome.Parked is { } again ? await WaitAsync(again, cancelled).ConfigureAwait(false) : outcome;
    }

    /// <summary>The fault of a parked pin may be tried anew. False: another thread has taken the pin up.</summary>
    public bool Resume(ParkedPin parked) => TakeUp(parked, isKilled: false);

    /// <summary>Lets every parked pin go on; returns how many there were.</summary>
    public int ResumeAll() => machine.ParkedPins().Count(Resume);

    /// <summary>Ends every wait, since no more answers come.</summary>
    public void StopWaiting()
    {
        IsStopping = true;
        foreach (var parked in machine.ParkedPins()) TakeUp(parked, isKilled: true);
    }

    /// <summary>
    /// The place where the pin that waits and the thread that resumes it meet. The first of the two makes it.
    /// </summary>
    private TaskCompletionSource<PinOutcome> Waiting(ParkedPin parked) =>
        _waiting.GetOrAdd(parked,
            static _ => new TaskCompletionSource<PinOutcome>(TaskCreationOptions.RunContinuationsAsynchronously));

    private bool TakeUp(ParkedPin parked, bool isKilled)
    {
        if (!machine.TryResume(parked, isKilled, out var outcome)) return false;
        Waiting(parked).SetResult(outcome);
        return true;
    }
}
