using System.Diagnostics;
using FramePin.Core.Machines;

namespace FramePin.Server.Telemetry;

/// <summary>
/// Turns the phases of one pin into child spans of the call's span. Made only when the span is recorded, so that a pin
/// that nobody traces pays nothing.
/// </summary>
internal sealed class PinTrace : IPinObserver
{
    private readonly Activity _parent;
    private string _phase;
    private DateTime _since;

    private PinTrace(Activity parent)
    {
        _parent = parent;
        _phase = TelemetryNames.PhaseLookup;
        _since = DateTime.UtcNow;
    }

    /// <summary>Begins with the look-up; null when the span is not recorded.</summary>
    public static PinTrace? Begin(Activity? span) => span is { IsAllDataRequested: true } ? new PinTrace(span) : null;

    public void Entered(PinPhase phase) => Switch(phase switch
    {
        PinPhase.Walk => TelemetryNames.PhaseWalk,
        PinPhase.TurnWait => TelemetryNames.PhaseTurnWait,
        PinPhase.Fault => TelemetryNames.PhaseFault,
        _ => TelemetryNames.PhaseReply,
    });

    /// <summary>The answer is built: the last phase ends.</summary>
    public void End() => Switch("");

    private void Switch(string next)
    {
        var now = DateTime.UtcNow;
        using (var span = TelemetryNames.Activities.StartActivity(
            _phase, ActivityKind.Internal, _parent.Context, tags: null, links: null, startTime: _since))
            span?.SetEndTime(now);
        _phase = next;
        _since = now;
    }
}
