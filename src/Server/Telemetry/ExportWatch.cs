using System.Diagnostics.Tracing;
using System.Globalization;

namespace FramePin.Server.Telemetry;

/// <summary>
/// Logs the first export of spans or metrics that fails, and what the exporters say about their configuration.
/// OpenTelemetry itself is silent.
/// </summary>
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
        // A word about the configuration is said once by itself, and takes the place of no failure.
        var isFailure = !IsOfConfiguration(eventData.EventName);
        if (isFailure && Interlocked.Increment(ref _failures) > 1) return;
        var said = string.Format(CultureInfo.InvariantCulture, eventData.Message ?? "", [.. eventData.Payload ?? []]);
        if (isFailure) log.ExportFailed(said.ReplaceLineEndings(" "));
        else log.ExportConfigured(said.ReplaceLineEndings(" "));
    }

    private static bool IsOfConfiguration(string? name) =>
        name is not null && (name.Contains("Invalid", StringComparison.Ordinal)
            || name.Contains("Configuration", StringComparison.Ordinal)
            || name.Contains("EnvironmentVariable", StringComparison.Ordinal));

    private void Hear(EventSource source)
    {
        if (source.Name == Source) EnableEvents(source, EventLevel.Warning);
    }
}
