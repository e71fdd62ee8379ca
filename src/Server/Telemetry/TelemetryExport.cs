using System.Globalization;
using FramePin.Server.Native;
using OpenTelemetry.Exporter;
using OpenTelemetry.Metrics;
using OpenTelemetry.Resources;
using OpenTelemetry.Trace;

namespace FramePin.Server.Telemetry;

/// <summary>Sends spans and metrics where the standard variables of OpenTelemetry say.</summary>
/// <remarks>
/// A signal is exported when an endpoint is named for it or for all signals. Nobody named is nobody sent to: the
/// exporter would retry for ever against its default.
/// </remarks>
internal static class TelemetryExport
{
    private const string Exporter = "OTEL_EXPORTER_OTLP_";

    /// <summary>
    /// Adds the exporters. Throws <see cref="StartException"/> for a variable that cannot be meant so.
    /// </summary>
    public static void Add(IServiceCollection services)
    {
        TelemetryVariables.Check();
        if (string.Equals(
            TelemetryVariables.Of("OTEL_SDK_DISABLED"), "true", StringComparison.OrdinalIgnoreCase)) return;
        var (traces, metrics) = (IsExported("TRACES"), IsExported("METRICS"));
        if (!traces && !metrics) return;
        services.AddHostedService<ExportWatch>();
        // The environment comes last, so that OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES prevail.
        var telemetry = services.AddOpenTelemetry().ConfigureResource(
            resource => resource.Clear().AddTelemetrySdk().AddService("framepind").AddEnvironmentVariableDetector());
        if (traces)
            telemetry.WithTracing(tracing => tracing.AddSource(TelemetryNames.Source).AddOtlpExporter(
                exporter => Configure(exporter, "TRACES")));
        if (metrics)
            telemetry.WithMetrics(meters => meters.AddMeter(TelemetryNames.Source).AddOtlpExporter(
                exporter => Configure(exporter, "METRICS")));
    }

    /// <summary>
    /// Makes what sends, which the host would make later. Throws <see cref="StartException"/> for what the packages
    /// refuse beside the variables that are known here.
    /// </summary>
    public static void Start(IServiceProvider services)
    {
        try
        {
            _ = services.GetService<TracerProvider>();
            _ = services.GetService<MeterProvider>();
        }
        catch (Exception exception) when (exception is not (StartException or OutOfMemoryException))
        {
            var name = TelemetryVariables.NamedIn(exception.Message) ?? "the variables of OpenTelemetry (OTEL_...)";
            throw new StartException($"{name}: {exception.Message}", exception);
        }
    }

    private static bool IsExported(string signal)
    {
        var exporter = TelemetryVariables.Of($"OTEL_{signal}_EXPORTER");
        if (string.Equals(exporter, "none", StringComparison.OrdinalIgnoreCase)) return false;
        return (TelemetryVariables.EndpointOf($"{Exporter}ENDPOINT")
            ?? TelemetryVariables.EndpointOf($"{Exporter}{signal}_ENDPOINT")) is not null;
    }

    /// <summary>The variables of one signal, which the exporter does not read by itself.</summary>
    private static void Configure(OtlpExporterOptions exporter, string signal)
    {
        if (TelemetryVariables.Of($"{Exporter}{signal}_PROTOCOL") is { } protocol)
            exporter.Protocol = protocol.Equals("grpc", StringComparison.OrdinalIgnoreCase)
                ? OtlpExportProtocol.Grpc
                : OtlpExportProtocol.HttpProtobuf;
        if (TelemetryVariables.EndpointOf($"{Exporter}{signal}_ENDPOINT") is { } endpoint)
            exporter.Endpoint = endpoint;
        if (TelemetryVariables.Of($"{Exporter}{signal}_HEADERS") is { } headers) exporter.Headers = headers;
        if (TelemetryVariables.Of($"{Exporter}{signal}_TIMEOUT") is { } timeout)
            exporter.TimeoutMilliseconds = int.Parse(timeout, NumberStyles.None, CultureInfo.InvariantCulture);
    }
}
