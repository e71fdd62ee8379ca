using System.Collections;
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
    private const string Prefix = "OTEL_";
    private const string Exporter = "OTEL_EXPORTER_OTLP_";

    /// <summary>The variables that OpenTelemetry reads, for a configuration that has no others.</summary>
    public static IEnumerable<KeyValuePair<string, string?>> Variables() =>
        from DictionaryEntry entry in Environment.GetEnvironmentVariables()
        where ((string)entry.Key).StartsWith(Prefix, StringComparison.Ordinal)
        select new KeyValuePair<string, string?>((string)entry.Key, (string?)entry.Value);

    /// <summary>
    /// Adds the exporters. Throws <see cref="StartException"/> for a variable that cannot be meant so.
    /// </summary>
    public static void Add(IServiceCollection services)
    {
        if (string.Equals(Variable("OTEL_SDK_DISABLED"), "true", StringComparison.OrdinalIgnoreCase)) return;
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

    private static bool IsExported(string signal)
    {
        var exporter = Variable($"OTEL_{signal}_EXPORTER") ?? "otlp";
        if (exporter == "none") return false;
        if (exporter != "otlp")
            throw new StartException($"OTEL_{signal}_EXPORTER: '{exporter}' is not there: otlp or none");
        // Both are looked at, so that a wrong one is told.
        var (all, own) = (EndpointOf($"{Exporter}ENDPOINT"), EndpointOf($"{Exporter}{signal}_ENDPOINT"));
        return (all ?? own) is not null;
    }

    /// <summary>The variables of one signal, which the exporter does not read by itself.</summary>
    private static void Configure(OtlpExporterOptions exporter, string signal)
    {
        if (Variable($"{Exporter}{signal}_PROTOCOL") is { } protocol)
            exporter.Protocol = protocol switch
            {
                "grpc" => OtlpExportProtocol.Grpc,
                "http/protobuf" => OtlpExportProtocol.HttpProtobuf,
                _ => throw new StartException($"{Exporter}{signal}_PROTOCOL: '{protocol}': grpc or http/protobuf"),
            };
        if (EndpointOf($"{Exporter}{signal}_ENDPOINT") is { } endpoint) exporter.Endpoint = endpoint;
        if (Variable($"{Exporter}{signal}_HEADERS") is { } headers) exporter.Headers = headers;
        if (Variable($"{Exporter}{signal}_TIMEOUT") is { } timeout)
            exporter.TimeoutMilliseconds = int.TryParse(
                timeout, NumberStyles.None, CultureInfo.InvariantCulture, out var milliseconds)
                ? milliseconds
                : throw new StartException($"{Exporter}{signal}_TIMEOUT: '{timeout}' is no number of milliseconds");
    }

    private static Uri? EndpointOf(string name)
    {
        if (Variable(name) is not { } value) return null;
        return Uri.TryCreate(value, UriKind.Absolute, out var endpoint) && endpoint.Scheme is "http" or "https"
            ? endpoint
            : throw new StartException($"{name}: '{value}' is no URL with http or https");
    }

    /// <summary>A variable that is set and not empty; null otherwise.</summary>
    private static string? Variable(string name) =>
        Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;
}
