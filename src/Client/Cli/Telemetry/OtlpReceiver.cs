using System.Globalization;
using System.Net;
using System.Net.Sockets;
using FramePin.Cli.Telemetry.Otlp;

namespace FramePin.Cli.Telemetry;

/// <summary>A span as it was received. Ids in hex, times in nanoseconds since 1970.</summary>
public sealed record ReceivedSpan(
    string Service, string TraceId, string SpanId, string ParentId, string Name, int Kind, ulong Start, ulong End,
    IReadOnlyDictionary<string, string> Attributes, IReadOnlyList<(string TraceId, string SpanId)> Links);

/// <summary>
/// Receives traces over OTLP/HTTP on loopback, for tests and the demo: set OTEL_EXPORTER_OTLP_ENDPOINT to
/// <see cref="Endpoint"/> and OTEL_EXPORTER_OTLP_PROTOCOL to "http/protobuf".
/// </summary>
public sealed class OtlpReceiver : IDisposable
{
    private readonly HttpListener _listener = new();
    private readonly Lock _lock = new();
    private readonly List<ReceivedSpan> _spans = [];
    private TaskCompletionSource _arrived = new(TaskCreationOptions.RunContinuationsAsynchronously);

    public OtlpReceiver()
    {
        using (var probe = new TcpListener(IPAddress.Loopback, 0))
        {
            probe.Start();
            Endpoint = string.Create(
                CultureInfo.InvariantCulture, $"http://127.0.0.1:{((IPEndPoint)probe.LocalEndpoint).Port}");
        }

        _listener.Prefixes.Add(Endpoint + "/");
        _listener.Start();
        _ = ServeAsync();
    }

    public string Endpoint { get; }

    /// <summary>Waits until the spans received satisfy <paramref name="isEnough"/>.</summary>
    public async Task<IReadOnlyList<ReceivedSpan>> WaitAsync(
        Func<IReadOnlyList<ReceivedSpan>, bool> isEnough, CancellationToken cancelled)
    {
        while (true)
        {
            Task next;
            lock (_lock)
            {
                if (isEnough(_spans)) return [.. _spans];
                next = _arrived.Task;
            }

            await next.WaitAsync(cancelled).ConfigureAwait(false);
        }
    }

    public void Dispose() => _listener.Close();

    private async Task ServeAsync()
    {
        while (_listener.IsListening)
        {
            HttpListenerContext context;
            try
            {
                context = await _listener.GetContextAsync().ConfigureAwait(false);
            }
            catch (Exception exception) when (exception is HttpListenerException or ObjectDisposedException
                or InvalidOperationException)
            {
                return;
            }

            using var body = new MemoryStream();
            await context.Request.InputStream.CopyToAsync(body).ConfigureAwait(false);
            if (context.Request.Url?.AbsolutePath == "/v1/traces")
                Add(ExportTraceServiceRequest.Parser.ParseFrom(body.ToArray()));
            context.Response.ContentType = "application/x-protobuf";
            context.Response.Close();
        }
    }

    private void Add(ExportTraceServiceRequest request)
    {
        lock (_lock)
        {
            foreach (var resource in request.ResourceSpans)
            {
                var service = resource.Resource?.Attributes.FirstOrDefault(
                    pair => pair.Key == "service.name")?.Value.StringValue ?? "";
                foreach (var span in resource.ScopeSpans.SelectMany(scope => scope.Spans))
                    _spans.Add(ToRecord(service, span));
            }

            _arrived.TrySetResult();
            _arrived = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        }
    }

    private static ReceivedSpan ToRecord(string service, Span span) => new(
        service, Hex(span.TraceId), Hex(span.SpanId), Hex(
            span.ParentSpanId), span.Name, span.Kind, span.StartTimeUnixNano,
        span.EndTimeUnixNano, span.Attributes.ToDictionary(pair => pair.Key, pair => Text(pair.Value)),
        [.. span.Links.Select(link => (Hex(link.TraceId), Hex(link.SpanId)))]);

    private static string Hex(Google.Protobuf.ByteString bytes) => Convert.ToHexStringLower(bytes.Span);

    private static string Text(AnyValue value) => value.ValueCase switch
    {
        AnyValue.ValueOneofCase.StringValue => value.StringValue,
        AnyValue.ValueOneofCase.IntValue => value.IntValue.ToString(CultureInfo.InvariantCulture),
        AnyValue.ValueOneofCase.BoolValue => value.BoolValue ? "true" : "false",
        _ => value.DoubleValue.ToString(CultureInfo.InvariantCulture),
    };
}
