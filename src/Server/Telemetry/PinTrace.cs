using System.Diagnostics;
using FramePin.Core.Machines;

namespace FramePin.Server.Telemetry;

/// <summary>Turns the phases of one pin into child spans of the call's span.</summary>
internal sealed class PinTrace(ActivitySource activities, Activity parent) : IPinSteps
{
    private string _phase = TelemetryNames.PhaseLookup;
    private DateTime _since = DateTime.UtcNow;

    public void Entered(PinPhase phase) => Switch(phase switch
    {
        PinPhase.Walk => TelemetryNames.PhaseWalk,
        PinPhase.TurnWait => TelemetryNames.PhaseTurnWait,
        PinPhase.Fault => TelemetryNames.PhaseFault,
        _ => TelemetryNames.PhaseReply,
    });

    /// <summary>The last phase ends with the pin. The other steps are parts of the phases.</summary>
    public void Entered(PinStep step)
    {
        if (step == PinStep.Done) Switch("");
    }

    private void Switch(string next)
    {
        var now = DateTime.UtcNow;
        using (var span = activities.StartActivity(
            _phase, ActivityKind.Internal, parent.Context, tags: null, links: null, startTime: _since))
            span?.SetEndTime(now);
        _phase = next;
        _since = now;
    }
}
