using System.Collections.Concurrent;
using FramePin.Core.Inspection;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;

namespace FramePin.Server.Machines;

/// <summary>The calls of a machine that wait for a parked pin: the pin's fault needs an answer from outside.</summary>
/// <remarks>Any thread. A pin that waits keeps no thread.</remarks>
internal sealed class ParkedPins(Machine machine, MachineCommands commands)
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
        await using var registration = cancelled.Register(() => _ = TakeUpAsync(parked, isKilled: true))
            .ConfigureAwait(false);
        if (IsStopping) _ = TakeUpAsync(parked, isKilled: true);
        var outcome = await Waiting(parked).Task.ConfigureAwait(false);
        _waiting.TryRemove(parked, out _);
        return outcome.Parked is { } again ? await WaitAsync(again, cancelled).ConfigureAwait(false) : outcome;
    }

    /// <summary>
    /// The fault of a parked pin may be tried anew. False: another thread has taken the pin up, or the machine is gone.
    /// </summary>
    public Task<bool> ResumeAsync(ParkedPin parked) => TakeUpAsync(parked, isKilled: false);

    /// <summary>Lets every parked pin go on; returns how many there were.</summary>
    public async Task<int> ResumeAllAsync()
    {
        var resumed = await Task.WhenAll(Parked().Select(ResumeAsync)).ConfigureAwait(false);
        return resumed.Count(isResumed => isResumed);
    }

    /// <summary>Ends every wait, since no more answers come.</summary>
    public void StopWaiting()
    {
        IsStopping = true;
        foreach (var parked in Parked()) _ = TakeUpAsync(parked, isKilled: true);
    }

    private IReadOnlyList<ParkedPin> Parked() =>
        machine.Query<ParkedPinsQuery, IReadOnlyList<ParkedPin>>(default);

    /// <summary>
    /// The place where the pin that waits and the thread that resumes it meet. The first of the two makes it.
    /// </summary>
    private TaskCompletionSource<PinOutcome> Waiting(ParkedPin parked) =>
        _waiting.GetOrAdd(parked,
            static _ => new TaskCompletionSource<PinOutcome>(TaskCreationOptions.RunContinuationsAsynchronously));

    /// <summary>
    /// Takes a pin up, when the watches of the memory that it takes away have agreed: a killed pin moves the pages that
    /// it has out of ZONE_MOVABLE. A failure reaches the call that waits.
    /// </summary>
    private async Task<bool> TakeUpAsync(ParkedPin parked, bool isKilled)
    {
        try
        {
            var resume = new ResumePinCall(parked.Id, isKilled);
            var outcome = await commands.RunAsync<ResumePinCall, PinOutcome?>(resume).ConfigureAwait(false);
            if (outcome is not { } known) return false;
            Waiting(parked).SetResult(known);
            return true;
        }
#pragma warning disable CA1031 // The call that waits throws it.
        catch (Exception failure)
#pragma warning restore CA1031
        {
            Waiting(parked).TrySetException(failure);
            return false;
        }
    }
}
