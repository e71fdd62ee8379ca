using System.Diagnostics;
using System.Diagnostics.Metrics;

namespace FramePin.Server.Telemetry;

/// <summary>The spans and metrics of one daemon. Two daemons in one process keep their figures apart.</summary>
/// <remarks>Any thread. The meter belongs to the factory, the source of spans to this object.</remarks>
internal sealed class ServerTelemetry : IDisposable
{
    private readonly Counter<long> _pinnedPages;
    private readonly Counter<long> _releasedPages;
    private readonly Counter<long> _refusedPins;
    private readonly Counter<long> _expiredLeases;

    public ServerTelemetry(IMeterFactory meters)
    {
        var meter = meters.Create(TelemetryNames.Source);
        _pinnedPages = meter.CreateCounter<long>(TelemetryNames.PagesPinned, "{page}", "Pages taken by pins.");
        _releasedPages = meter.CreateCounter<long>(
            TelemetryNames.PagesReleased, "{page}", "Pages given back by unpins and by leases that ended.");
        _refusedPins = meter.CreateCounter<long>(
            TelemetryNames.PinsRefused, "{pin}", "Pins that got no page, by errno.");
        _expiredLeases = meter.CreateCounter<long>(
            TelemetryNames.LeasesExpired, "{lease}",
            "Leases that ended because nothing was heard of their clients.");
        CallDuration = meter.CreateHistogram<double>(TelemetryNames.CallDuration, "s", "Duration of calls.");
    }

    /// <summary>Starts the daemon's spans.</summary>
    public ActivitySource Activities { get; } = new(TelemetryNames.Source);

    /// <summary>Duration of calls in seconds, by method.</summary>
    public Histogram<double> CallDuration { get; }

    /// <summary>A pin has taken pages, and its caller can give them back.</summary>
    public void CountPinned(long pages) => _pinnedPages.Add(pages);

    /// <summary>Pages of a pin were given back.</summary>
    public void CountReleased(long pages) => _releasedPages.Add(pages);

    /// <summary>A pin got no page.</summary>
    public void CountRefused(Core.Abi.Errno error)
    {
        if (_refusedPins.Enabled)
            _refusedPins.Add(1, new KeyValuePair<string, object?>(TelemetryNames.Errno, error.ToString()));
    }

    /// <summary>A lease ended since nothing was heard of its client.</summary>
    public void CountExpired() => _expiredLeases.Add(1);

    /// <summary>
    /// Turns the phases of one pin into child spans of <paramref name="span"/>, which begin with the look-up. Null when
    /// the span is not recorded, so that a pin that nobody traces pays nothing.
    /// </summary>
    public IPinSteps? TracePin(Activity? span) =>
        span is { IsAllDataRequested: true } ? new PinTrace(Activities, span) : null;

    public void Dispose() => Activities.Dispose();
}
