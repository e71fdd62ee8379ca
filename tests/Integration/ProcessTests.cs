using System.Diagnostics;
using FramePin.Cli.Telemetry;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;
using OpenTelemetry;
using OpenTelemetry.Exporter;
using OpenTelemetry.Resources;
using OpenTelemetry.Trace;
using Xunit;
using File = System.IO.File;
using StatusCode = Grpc.Core.StatusCode;

namespace FramePin.Tests.Integration;

/// <summary>
/// Tests that need a daemon of their own: traces over OTLP, shutdown under load, clients in another language.
/// </summary>
public sealed class ProcessTests
{
    private const ulong At = 0x10_0000;

    private static async Task<string> SpaceAsync(FramePinClient client, uint pages, bool touched)
    {
        var space = (await client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        var batch = new CallBatchRequest { AddressSpace = space };
        batch.Calls.Add(
            new MemoryCall { Mmap = new MmapCall { Address = At, Length = pages * 4096UL, Prot = 3, Flags = 0x32 } });
        if (touched)
            batch.Calls.Add(new MemoryCall { Touch = new TouchCall { Address = At, Pages = pages, Write = true } });
        await client.AddressSpaces.CallBatchAsync(batch);
        return space;
    }

    [Fact]
    public async Task One_trace_leads_from_the_client_through_the_phases_and_the_unpin_links_to_the_pin()
    {
        var cancelled = TestContext.Current.CancellationToken;
        using var receiver = new OtlpReceiver();
        await using var daemon = await DaemonProcess.StartAsync(
            ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.Endpoint), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_BSP_SCHEDULE_DELAY", "200"));
        using var source = new ActivitySource("framepin-test");
        using var tracing = Sdk.CreateTracerProviderBuilder()
            .AddSource(source.Name)
            .ConfigureResource(resource => resource.AddService("test-client"))
            .AddSource(FramePinClient.ActivitySourceName)
            .AddOtlpExporter(otlp =>
            {
                otlp.Endpoint = new Uri(receiver.Endpoint + "/v1/traces");
                otlp.Protocol = OtlpExportProtocol.HttpProtobuf;
            })
            .Build();
        using var client = FramePinClient.Connect(daemon.Endpoint);
        var space = await SpaceAsync(client, 4, touched: false);
        PinResponse pin;
        string traceId;
        using (var root = source.StartActivity("test"))
        {
            // Other tests make spans at the same time: ours have this trace.
            traceId = root!.TraceId.ToHexString();
            pin = await client.Pinning.PinAsync(
                new PinRequest { AddressSpace = space, Start = At, Pages = 8, Write = true },
                cancellationToken: cancelled);
            await client.Pinning.UnpinAsync(
                new UnpinRequest { FrameVector = pin.FrameVector }, cancellationToken: cancelled);
        }

        tracing.ForceFlush();
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancelled);
        patience.CancelAfter(TimeSpan.FromSeconds(30));
        var received = await receiver.WaitAsync(
            all =>
                all.Count(
                    span => span.TraceId == traceId && span.Name.EndsWith("/Unpin", StringComparison.Ordinal)) >= 2
                && all.Count(
                    span => span.TraceId == traceId && span.Name.EndsWith("/Pin", StringComparison.Ordinal)) >= 2,
            patience.Token);
        var spans = received.Where(span => span.TraceId == traceId).ToList();

        var ours = spans.Single(
            span => span.Service == "test-client" && span.Name.EndsWith("/Pin", StringComparison.Ordinal));
        var server = spans.Single(
            span => span.Service == "framepind" && span.Name.EndsWith("/Pin", StringComparison.Ordinal));
        Assert.Equal(ours.TraceId, server.TraceId);
        Assert.Equal(ours.SpanId, server.ParentId);
        Assert.Equal("4", server.Attributes["framepin.pages.pinned"]);
        Assert.Equal("8", server.Attributes["framepin.pages.requested"]);
        Assert.Equal("Hole", server.Attributes["framepin.stop_reason"]);
        Assert.Equal(pin.Frames.ToString(System.Globalization.CultureInfo.InvariantCulture),
            server.Attributes["framepin.pages.pinned"]);
        var phases = spans.Where(span => span.ParentId == server.SpanId).ToList();
        Assert.All(phases, phase => Assert.Equal(server.TraceId, phase.TraceId));
        Assert.Equal(
            ["framepin.fault", "framepin.lookup", "framepin.reply", "framepin.turn_wait", "framepin.walk"],
            phases.Select(phase => phase.Name).Order(StringComparer.Ordinal));
        var unpin = spans.Single(
            span => span.Service == "framepind" && span.Name.EndsWith("/Unpin", StringComparison.Ordinal));
        Assert.Contains((server.TraceId, server.SpanId), unpin.Links);
        Assert.Equal("4", unpin.Attributes["framepin.pages.released"]);
    }

    [Fact]
    public async Task SIGTERM_answers_a_thousand_calls_in_flight_and_ends_with_0()
    {
        var cancelled = TestContext.Current.CancellationToken;
        await using var daemon = await DaemonProcess.StartAsync();
        using var client = FramePinClient.Connect(daemon.Endpoint);
        // 15 address spaces with 64 pins each that a fault rule parks, and 40 pins that run: all in flight for certain.
        const int parkedPins = 15 * 64;
        var calls = new List<Task<PinResponse>>();
        var rules = new AddFaultRulesRequest();
        rules.Rules.Add(
            new FaultRule
            {
                Point = ChoicePoint.Fault,
                Action = FaultAction.Park,
                Start = At,
                End = At + 0x100_0000,
                Times = 1_000_000
            });
        await client.Machines.AddFaultRulesAsync(rules, cancellationToken: cancelled);
        for (var i = 0; i < 15; i++)
        {
            var space = await SpaceAsync(client, 64, touched: false);
            for (var page = 0UL; page < 64; page++)
            {
                var request = new PinRequest
                {
                    AddressSpace = space,
                    Start = At + (page * 4096),
                    Pages = 1,
                    Write = true
                };
                calls.Add(client.Pinning.PinAsync(request, cancellationToken: cancelled).ResponseAsync);
            }
        }

        while ((await client.Machines.GetMachineAsync(
            new GetMachineRequest(), cancellationToken: cancelled)).Statistics.ParkedPins < parkedPins)
            await Task.Yield();
        var running = (await client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest(), cancellationToken: cancelled)).Name;
        var map = new MemoryCall
        {
            Mmap = new MmapCall
            {
                Address = 0x4000_0000,
                Length = 256 * 4096,
                Prot = 3,
                Flags = 0x32
            }
        };
        await client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = running, Call = map }, cancellationToken: cancelled);
        for (var i = 0; i < 1000 - parkedPins; i++)
        {
            var request = new PinRequest { AddressSpace = running, Start = 0x4000_0000, Pages = 256, Write = true };
            calls.Add(client.Pinning.PinAsync(request, cancellationToken: cancelled).ResponseAsync);
        }

        Assert.True(calls.Count(call => !call.IsCompleted) >= parkedPins);
        daemon.Terminate();
        var answered = 0;
        var unavailable = 0;
        foreach (var call in calls)
        {
            try
            {
                Assert.True((await call).Frames is 1 or 256);
                answered++;
            }
            catch (RpcException exception)
            {
                Assert.Equal(StatusCode.Unavailable, exception.StatusCode);
                unavailable++;
            }
        }

        TestContext.Current.TestOutputHelper?.WriteLine($"{answered} answered, {unavailable} unavailable");
        // 0 also says that the audit of every machine at the end was clean: a finding ends the process with 3.
        Assert.Equal(0, await daemon.ExitCodeAsync(cancelled));
        Assert.Equal(1000, answered + unavailable);
        Assert.True(unavailable >= parkedPins);
    }

    [Fact]
    public async Task A_python_client_made_from_the_protos_pins_and_unpins()
    {
        var cancelled = TestContext.Current.CancellationToken;
        await using var daemon = await DaemonProcess.StartAsync();
        using var stubs = await PythonStubs.MakeAsync(cancelled);
        using var process = stubs.Start(
            Path.Combine(AppContext.BaseDirectory, "Data", "pin_client.py"), $"unix:{daemon.Socket}");
        var printed = process.StandardOutput.ReadToEndAsync(cancelled);
        var errors = process.StandardError.ReadToEndAsync(cancelled);
        await process.WaitForExitAsync(cancelled);
        Assert.True(process.ExitCode == 0, $"python ended with {process.ExitCode}: {await errors}");
        Assert.Contains("pinned 3 of 4, then released 3; refused with ENOENT-like NOT_FOUND: ADDRESS_SPACE_NOT_FOUND",
            await printed, StringComparison.Ordinal);
    }
}
