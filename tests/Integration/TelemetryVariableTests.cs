using System.Globalization;
using System.Net;
using System.Net.Sockets;
using FramePin.Cli.Telemetry;
using FramePin.Client;
using FramePin.V1;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>The standard variables of OpenTelemetry (fault S15).</summary>
public sealed class TelemetryVariableTests : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly string _folder = Directory.CreateTempSubdirectory("framepin-otel-").FullName;

    private string Socket => Path.Combine(_folder, "s");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("OTEL_SERVICE_NAME", "pins", "pins")]
    [InlineData("OTEL_RESOURCE_ATTRIBUTES", "service.name=labelled", "labelled")]
    [InlineData("OTEL_METRICS_EXPORTER", "none", "framepind")]
    public async Task S15_the_endpoint_of_one_signal_and_the_name_of_the_service_are_heeded(
        string name, string value, string service)
    {
        using var receiver = new OtlpReceiver();
        using var run = DaemonRun.Start(
            null,
            [
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", receiver.Endpoint + "/v1/traces"),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"), ("OTEL_BSP_SCHEDULE_DELAY", "100"),
                (name, value),
            ],
            "--socket", Socket);
        await run.ReadyAsync();
        await CallAsync();
        using var patience = new CancellationTokenSource(Patience);
        var spans = await receiver.WaitAsync(all => all.Count > 0, patience.Token);
        Assert.All(spans, span => Assert.Equal(service, span.Service));
    }

    // S14, S15: an endpoint is set, so that each variable is read.
    [Theory]
    [InlineData("OTEL_EXPORTER_OTLP_HEADERS", "junk")]
    [InlineData("OTEL_EXPORTER_OTLP_HEADERS", "a b=c")]
    [InlineData("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "junk")]
    [InlineData("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "=x")]
    [InlineData("OTEL_EXPORTER_OTLP_PROTOCOL", "foo")]
    [InlineData("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "foo")]
    [InlineData("OTEL_EXPORTER_OTLP_COMPRESSION", "foo")]
    [InlineData("OTEL_EXPORTER_OTLP_TIMEOUT", "0")]
    [InlineData("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "-1")]
    [InlineData("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0")]
    [InlineData("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nonexistent")]
    [InlineData("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "junk")]
    [InlineData("OTEL_METRIC_EXPORT_INTERVAL", "0")]
    [InlineData("OTEL_METRIC_EXPORT_TIMEOUT", "99999999999")]
    [InlineData("OTEL_BSP_SCHEDULE_DELAY", "0")]
    [InlineData("OTEL_BSP_MAX_QUEUE_SIZE", "2147483647")]
    [InlineData("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096")]
    [InlineData("OTEL_TRACES_SAMPLER", "junk")]
    [InlineData("OTEL_TRACES_SAMPLER_ARG", "2")]
    [InlineData("OTEL_RESOURCE_ATTRIBUTES", "junk")]
    [InlineData("OTEL_SPAN_EVENT_COUNT_LIMIT", "-1")]
    [InlineData("OTEL_DOTNET_EXPERIMENTAL_OTLP_RETRY", "junk")]
    public async Task S14_a_variable_with_a_wrong_value_is_named_and_the_daemon_does_not_start(
        string name, string value)
    {
        using var run = DaemonRun.Start(
            null, [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), (name, value)], "--no-default-machine",
            "--socket", Socket);
        await run.RefusedAsync($"framepind: {name}: '{value}'");
        Assert.Empty(Directory.GetFileSystemEntries(_folder));
    }

    [Theory]
    [InlineData("OTEL_EXPORTER_OTLP_CERTIFICATE")]
    [InlineData("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE")]
    public async Task S14_a_variable_whose_file_is_no_certificate_is_named(string name)
    {
        using var run = DaemonRun.Start(
            null, [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), (name, "/etc/passwd")],
            "--no-default-machine", "--socket", Socket);
        await run.RefusedAsync($"framepind: {name}: ");
    }

    [Fact]
    public async Task S15_a_receiver_that_nobody_answers_for_is_told_once()
    {
        const string warning = "spans or metrics do not reach their receiver";
        using var free = new TcpListener(IPAddress.Loopback, 0);
        free.Start();
        var port = ((IPEndPoint)free.LocalEndpoint).Port.ToString(CultureInfo.InvariantCulture);
        free.Stop();
        using var run = DaemonRun.Start(
            null,
            [("OTEL_EXPORTER_OTLP_ENDPOINT", $"http://127.0.0.1:{port}"), ("OTEL_BSP_SCHEDULE_DELAY", "100")],
            "--socket", Socket);
        await run.ReadyAsync();
        await CallAsync();
        while (await run.LineAsync() is { } line)
            if (line.Contains(warning, StringComparison.Ordinal)) break;
        // Its end exports what is left, which fails again.
        await CallAsync();
        await run.SignalAsync("TERM");
        var (code, output, _) = await run.EndAsync();
        Assert.Equal(0, code);
        Assert.DoesNotContain(warning, output, StringComparison.Ordinal);
    }

    private async Task CallAsync()
    {
        using var client = FramePinClient.Connect($"unix:{Socket}");
        await client.Machines.GetMachineAsync(new GetMachineRequest());
    }
}
