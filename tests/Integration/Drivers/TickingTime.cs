using System.Threading.Channels;
using Microsoft.Extensions.Time.Testing;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// The clock of a vivid of 30 frames a second, which tells when the timer of its frames runs: a step of the clock
/// before that is lost.
/// </summary>
internal sealed class TickingTime : FakeTimeProvider
{
    private static readonly TimeSpan Frame = TimeSpan.FromSeconds(1 / 30.0);
    private readonly Channel<ITimer> _timers = Channel.CreateUnbounded<ITimer>();

    /// <summary>Timers that were made so far are those of earlier streams.</summary>
    public void ForgetTimers()
    {
        while (_timers.Reader.TryRead(out _)) continue;
    }

    /// <summary>Completes when a timer has been made that no caller was told of.</summary>
    public Task TimerAsync() => _timers.Reader.ReadAsync().AsTask();

    /// <summary>The time of one frame, which the stream takes once it is at its timer.</summary>
    public void Tick() => Advance(Frame);

    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
    {
        var timer = base.CreateTimer(callback, state, dueTime, period);
        _timers.Writer.TryWrite(timer);
        return timer;
    }
}
