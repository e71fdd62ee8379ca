using System.Collections;
using System.Globalization;
using System.Text.RegularExpressions;
using FramePin.Server.Native;

namespace FramePin.Server.Telemetry;

/// <summary>
/// The variables of OpenTelemetry that the packages read, and what each may say. The packages themselves pass over some
/// wrong values in silence and end the process by others.
/// </summary>
internal static partial class TelemetryVariables
{
    private const string Prefix = "OTEL_";
    private const string Exporter = "OTEL_EXPORTER_OTLP_";
    private const string QueueSize = "OTEL_BSP_MAX_QUEUE_SIZE";
    private const string BatchSize = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE";

    /// <summary>Spans: the queue's memory is taken at the start.</summary>
    private const int MostQueued = 1 << 20;

    /// <summary>Spans in the queue and in a batch, where no variable says another number.</summary>
    private const int UsualQueue = 2048;
    private const int UsualBatch = 512;

    private static readonly string[] Protocols = ["grpc", "http/protobuf"];
    private static readonly string[] Compressions = ["gzip", "none"];

    /// <summary>Words that a variable may hold.</summary>
    private static readonly Dictionary<string, string[]> Words = new(StringComparer.Ordinal)
    {
        ["OTEL_SDK_DISABLED"] = ["true", "false"],
        ["OTEL_TRACES_EXPORTER"] = ["otlp", "none"],
        ["OTEL_METRICS_EXPORTER"] = ["otlp", "none"],
        ["OTEL_TRACES_SAMPLER"] =
        [
            "always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off",
            "parentbased_traceidratio",
        ],
        ["OTEL_METRICS_EXEMPLAR_FILTER"] = ["always_on", "always_off", "trace_based"],
        [$"{Exporter}PROTOCOL"] = Protocols,
        [$"{Exporter}TRACES_PROTOCOL"] = Protocols,
        [$"{Exporter}METRICS_PROTOCOL"] = Protocols,
        [$"{Exporter}COMPRESSION"] = Compressions,
        [$"{Exporter}TRACES_COMPRESSION"] = Compressions,
        [$"{Exporter}METRICS_COMPRESSION"] = Compressions,
        [$"{Exporter}METRICS_TEMPORALITY_PREFERENCE"] = ["cumulative", "delta", "lowmemory"],
        [$"{Exporter}METRICS_DEFAULT_HISTOGRAM_AGGREGATION"] =
            ["explicit_bucket_histogram", "base2_exponential_bucket_histogram"],
        ["OTEL_DOTNET_EXPERIMENTAL_OTLP_RETRY"] = ["in_memory", "disk"],
    };

    /// <summary>Whole numbers, the least and the largest of each. Times are milliseconds.</summary>
    private static readonly Dictionary<string, (int Least, int Most)> WholeNumbers = new(StringComparer.Ordinal)
    {
        [$"{Exporter}TIMEOUT"] = (1, int.MaxValue),
        [$"{Exporter}TRACES_TIMEOUT"] = (1, int.MaxValue),
        [$"{Exporter}METRICS_TIMEOUT"] = (1, int.MaxValue),
        ["OTEL_METRIC_EXPORT_INTERVAL"] = (1, int.MaxValue),
        ["OTEL_METRIC_EXPORT_TIMEOUT"] = (1, int.MaxValue),
        ["OTEL_BSP_SCHEDULE_DELAY"] = (1, int.MaxValue),
        ["OTEL_BSP_EXPORT_TIMEOUT"] = (1, int.MaxValue),
        [QueueSize] = (1, MostQueued),
        [BatchSize] = (1, MostQueued),
        ["OTEL_ATTRIBUTE_COUNT_LIMIT"] = (0, int.MaxValue),
        ["OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"] = (0, int.MaxValue),
        ["OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT"] = (0, int.MaxValue),
        ["OTEL_LINK_ATTRIBUTE_COUNT_LIMIT"] = (0, int.MaxValue),
        ["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"] = (0, int.MaxValue),
        ["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT"] = (0, int.MaxValue),
        ["OTEL_SPAN_EVENT_COUNT_LIMIT"] = (0, int.MaxValue),
        ["OTEL_SPAN_LINK_COUNT_LIMIT"] = (0, int.MaxValue),
    };

    private static readonly string[] Endpoints =
        [$"{Exporter}ENDPOINT", $"{Exporter}TRACES_ENDPOINT", $"{Exporter}METRICS_ENDPOINT"];

    private static readonly string[] Headers =
        [$"{Exporter}HEADERS", $"{Exporter}TRACES_HEADERS", $"{Exporter}METRICS_HEADERS"];

    private static readonly string[] Files =
        [$"{Exporter}CERTIFICATE", $"{Exporter}CLIENT_CERTIFICATE", $"{Exporter}CLIENT_KEY"];

    /// <summary>Those that are set, for a configuration that has no others. An empty one is not set.</summary>
    public static IEnumerable<KeyValuePair<string, string?>> All() =>
        from DictionaryEntry entry in Environment.GetEnvironmentVariables()
        where ((string)entry.Key).StartsWith(Prefix, StringComparison.Ordinal) && entry.Value is string { Length: > 0 }
        select new KeyValuePair<string, string?>((string)entry.Key, (string?)entry.Value);

    /// <summary>A variable that is set and not empty; null otherwise.</summary>
    public static string? Of(string name) =>
        Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;

    /// <summary>The address that a variable names; null when it is not set.</summary>
    public static Uri? EndpointOf(string name)
    {
        if (Of(name) is not { } value) return null;
        return Uri.TryCreate(value, UriKind.Absolute, out var endpoint) && endpoint.Scheme is "http" or "https"
            ? endpoint
            : throw Wrong(name, value, "a URL with http or https");
    }

    /// <summary>Throws <see cref="StartException"/> for a variable that cannot be meant so.</summary>
    public static void Check()
    {
        foreach (var name in Endpoints) _ = EndpointOf(name);
        foreach (var (name, words) in Words)
            if (Of(name) is { } word && !words.Contains(word, StringComparer.OrdinalIgnoreCase))
                throw Wrong(name, word, string.Join(", ", words));
        foreach (var (name, (least, most)) in WholeNumbers) _ = NumberOf(name, least, most);
        if (Of("OTEL_TRACES_SAMPLER_ARG") is { } ratio
            && !(double.TryParse(ratio, NumberStyles.Float, CultureInfo.InvariantCulture, out var part)
                && part is >= 0 and <= 1))
            throw Wrong("OTEL_TRACES_SAMPLER_ARG", ratio, "a number from 0 to 1");
        foreach (var name in Headers) CheckPairs(name, HeaderName());
        CheckPairs("OTEL_RESOURCE_ATTRIBUTES", AnyName());
        foreach (var name in Files)
            if (Of(name) is { } file && !File.Exists(file)) throw Wrong(name, file, "a file");
        if (Of("OTEL_DOTNET_EXPERIMENTAL_OTLP_RETRY") == "disk"
            && Of("OTEL_DOTNET_EXPERIMENTAL_OTLP_DISK_RETRY_DIRECTORY_PATH") is null)
            throw new StartException(
                "OTEL_DOTNET_EXPERIMENTAL_OTLP_RETRY: 'disk' needs "
                + "OTEL_DOTNET_EXPERIMENTAL_OTLP_DISK_RETRY_DIRECTORY_PATH");
        var (queue, batch) = (NumberOf(QueueSize, 1, MostQueued) ?? UsualQueue,
            NumberOf(BatchSize, 1, MostQueued) ?? UsualBatch);
        if (batch > queue)
            throw new StartException(
                $"{BatchSize}: '{batch}' spans are more than the queue holds ({QueueSize}: {queue})");
    }

    /// <summary>The variable whose value, a file, a message of the packages quotes; null for none.</summary>
    public static string? NamedIn(string message) => Files.FirstOrDefault(
        name => Of(name) is { } file && message.Contains(file, StringComparison.Ordinal));

    /// <summary>A whole number of a variable; null when it is not set.</summary>
    private static int? NumberOf(string name, int least, int most)
    {
        if (Of(name) is not { } text) return null;
        return int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number)
            && number >= least && number <= most
                ? number
                : throw Wrong(name, text, $"a whole number from {least} to {most}");
    }

    /// <summary>"name=value,name=value" with escapes of URLs.</summary>
    private static void CheckPairs(string name, Regex pair)
    {
        if (Of(name) is not { } text) return;
        foreach (var part in text.Split(','))
            if (!pair.IsMatch(Uri.UnescapeDataString(part)))
                throw Wrong(name, text, "pairs as in name=value,name=value");
    }

    private static StartException Wrong(string name, string value, string right) =>
        new($"{name}: '{value}' is not what it may be: {right}");

    /// <summary>A header field of HTTP (RFC 9110, 5.1 and 5.5).</summary>
    [GeneratedRegex(@"\A\s*[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*=[\t\x20-\x7e]*\z")]
    private static partial Regex HeaderName();

    [GeneratedRegex(@"\A\s*[^=\s][^=]*=.*\z", RegexOptions.Singleline)]
    private static partial Regex AnyName();
}
