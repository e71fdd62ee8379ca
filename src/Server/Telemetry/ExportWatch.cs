using System.Diagnostics.Tracing;
using System.Globalization;

namespace FramePin.Server.Telemetry;

/// <summary>Logs the first export of spans or metrics that fails. OpenTelemetry itself is silent.</summary>
/// <remarks>Hears the exporters of the whole process.</remarks>
internal sealed class ExportWatch(ILogger<ExportWatch> log) : EventListener, IHostedService
{
    private const string Source = "OpenTelemetry-Exporter-OpenTelemetryProtocol";

    private int _failures;

    public Task StartAsync(CancellationToken cancellationToken)
    {
        foreach (var source in EventSource.GetSources()) Hear(source);
        return Task.CompletedTask;
    }

    public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    protected override void OnEventSourceCreated(EventSource eventSource) => Hear(eventSource);

    protected override void OnEventWritten(EventWrittenEventArgs eventData)
    {
        if (Interlocked.Increment(ref _failures) > 1) return;
        var said = string.Format(CultureInfo.InvariantCulture, eventData.Message ?? "", [.. eventData.Payload ?? []]);
        log.ExportFailed(said.ReplaceLineEndings(" "));
    }

    private void Hear(EventSource source)
    {
        if (source.Name == Source) EnableEvents(source, EventLevel.Warning);
    }
}
