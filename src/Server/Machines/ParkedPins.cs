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
        await using var registration = cancelled.Register(() => Kill(parked)).ConfigureAwait(false);
        if (IsStopping) Kill(parked);
        var outcome = await Waiting(parked).Task.ConfigureAwait(false);
        _waiting.TryRemove(parked, out _);
        return outcome.Parked is { } again ? await WaitAsync(again, cancelled).ConfigureAwait(false) : outcome;
    }

    /// <summary>
    /// The fault of a parked pin may be tried anew. False: another thread has taken the pin up, or the machine is gone.
    /// </summary>
    public async Task<bool> ResumeAsync(ParkedPin parked)
    {
        try
        {
            var resume = new ResumePinCall(parked.Id, IsKilled: false);
            return End(
                parked, await commands.RunAsync<ResumePinCall, PinOutcome?>(resume).ConfigureAwait(false));
        }
        catch (ObjectDisposedException)
        {
            return false;
        }
    }

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
        foreach (var parked in Parked()) Kill(parked);
    }

    private IReadOnlyList<ParkedPin> Parked() =>
        machine.Query<ParkedPinsQuery, IReadOnlyList<ParkedPin>>(default);

    /// <summary>
    /// The place where the pin that waits and the thread that resumes it meet. The first of the two makes it.
    /// </summary>
    private TaskCompletionSource<PinOutcome> Waiting(ParkedPin parked) =>
        _waiting.GetOrAdd(parked,
            static _ => new TaskCompletionSource<PinOutcome>(TaskCreationOptions.RunContinuationsAsynchronously));

    /// <summary>A killed pin faults no more, and so takes nothing away.</summary>
    private void Kill(ParkedPin parked) =>
        End(parked, machine.Execute<ResumePinCall, PinOutcome?>(new(parked.Id, IsKilled: true)));

    private bool End(ParkedPin parked, PinOutcome? outcome)
    {
        if (outcome is not { } known) return false;
        Waiting(parked).SetResult(known);
        return true;
    }
}
