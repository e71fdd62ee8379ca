using System.Collections.Concurrent;
using System.Diagnostics;
using System.Diagnostics.Metrics;
using FramePin.Client;
using FramePin.Core.Machines;
using FramePin.Server;
using FramePin.Server.Configuration;
using FramePin.Server.Telemetry;
using FramePin.V1;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.DependencyInjection;
using Xunit;
using PinRange = FramePin.V1.PinRange;

namespace FramePin.Tests.Integration;

/// <summary>
/// The five ways to pin are one transaction: they count and tag alike, and a step that fails leaves nothing behind,
/// whichever way and whichever step it was.
/// </summary>
public sealed class PinTransactionTests : IAsyncLifetime
{
    private const ulong At = 0x10_0000;
    private const ulong Pages = 4;
    private const string Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    private readonly string _folder = Directory.CreateTempSubdirectory("framepin-pins-").FullName;
    private readonly PinStepScript _script = new();
    private readonly ConcurrentQueue<Activity> _spans = new();
    private readonly ConcurrentDictionary<string, long> _counts = new();
    private readonly MeterListener _meters = new();
    private ActivityListener? _activities;
    private WebApplication? _app;
    private FramePinClient _client = null!;
    private LocalMachine _local = null!;
    private string _space = "";
    private string _device = "";

    /// <summary>Hold of the last pin; 0: it has none.</summary>
    private ulong _hold;

    public static TheoryData<string> Ways => ["Pin", "Gup", "GetVaddrFrames", "PinStream", "ExportDevice"];

    /// <summary>The ways that the kernel can refuse. A device's pages it never does.</summary>
    public static TheoryData<string> RefusableWays => ["Pin", "Gup", "GetVaddrFrames", "PinStream"];

    public async ValueTask InitializeAsync()
    {
        var socket = Path.Combine(_folder, "grpc.sock");
        _app = Daemon.Build(
            new DaemonOptions { SocketPath = socket, AttachSocketPath = Path.Combine(_folder, "attach.sock") },
            replace: services => services.AddSingleton<PinTracing>(_ => _script.Begin));
        Listen(_app.Services);
        await _app.StartAsync();
        _client = FramePinClient.Connect($"unix:{socket}");
        _space = (await _client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        var map = new MmapCall { Address = At, Length = Pages * 4096, Prot = 3, Flags = 0x32 };
        await Call(new MemoryCall { Mmap = map });
        var device = new CreateDeviceRequest { Mapping = DeviceMapping.MixedPages, Pages = Pages, Ram = true };
        _device = (await _client.Devices.CreateDeviceAsync(device)).Name;
        _local = await LocalMachine.AttachAsync(_client, "machines/default");
    }

    public async ValueTask DisposeAsync()
    {
        _local.Dispose();
        _client.Dispose();
        await _app!.StopAsync();
        await _app.DisposeAsync();
        _meters.Dispose();
        _activities?.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public async Task Every_way_to_pin_counts_its_pages_and_tags_its_span(string way)
    {
        var vector = await PinAsync(way, At);
        Assert.Equal(Pages, (ulong)_counts.GetValueOrDefault(TelemetryNames.PagesPinned));
        var span = Assert.Single(
            _spans, span => Equals(span.GetTagItem(TelemetryNames.FrameVector), NumberOf(vector)));
        string[] names =
        [
            TelemetryNames.Machine, TelemetryNames.Profile, TelemetryNames.PagesRequested, TelemetryNames.PagesPinned,
            TelemetryNames.Runs, TelemetryNames.FrameKind, TelemetryNames.StopReason, TelemetryNames.Errno,
            TelemetryNames.Retries, TelemetryNames.Epoch,
        ];
        Assert.All(names, name => Assert.NotNull(span.GetTagItem(name)));
        Assert.Equal(("default", (long)Pages, (long)Pages, "None"),
            (span.GetTagItem(TelemetryNames.Machine), span.GetTagItem(TelemetryNames.PagesRequested),
                span.GetTagItem(TelemetryNames.PagesPinned), span.GetTagItem(TelemetryNames.Errno)));
        // A device's pages belong to no address space.
        Assert.Equal(way == "ExportDevice", span.GetTagItem(TelemetryNames.AddressSpace) is null);
        Assert.Equal(way == "PinStream" ? Traceparent.Split('-')[1] : span.TraceId.ToHexString(),
            (await GetAsync(vector)).TraceId);
        await _client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = vector });
        Assert.Equal(Pages, (ulong)_counts.GetValueOrDefault(TelemetryNames.PagesReleased));
    }

    [Theory]
    [MemberData(nameof(RefusableWays))]
    public async Task Every_way_to_pin_counts_a_refusal_by_the_kernel(string way)
    {
        await Assert.ThrowsAsync<RpcException>(() => PinAsync(way, 0x7000_0000));
        Assert.Equal(1, _counts.GetValueOrDefault(TelemetryNames.PinsRefused));
        Assert.Equal(0, _counts.GetValueOrDefault(TelemetryNames.PagesPinned));
        await AssertNothingIsLeftAsync(way);
    }

    [Fact]
    public async Task A_batch_that_is_refused_as_a_whole_keeps_no_pin_and_counts_all_that_it_gave_back()
    {
        var pin = new PinOperation { Pin = new PinRange { Start = At, Pages = Pages, Write = true } };
        using var stream = _client.Pinning.PinStream();
        await stream.RequestStream.WriteAsync(
            new PinBatch
            {
                Sequence = 1,
                AddressSpace = _space,
                Operations = { pin, new PinOperation { Unpin = 1 }, pin, new PinOperation() },
            });
        await Assert.ThrowsAsync<RpcException>(() => stream.ResponseStream.MoveNext(default));
        var statistics = (await _client.Machines.GetMachineAsync(new GetMachineRequest())).Statistics;
        Assert.Equal(0U, statistics.FrameVectors);
        Assert.Equal(
            (2 * Pages, 2 * Pages),
            ((ulong)_counts.GetValueOrDefault(TelemetryNames.PagesPinned),
                (ulong)_counts.GetValueOrDefault(TelemetryNames.PagesReleased)));
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public async Task Every_way_to_pin_gives_everything_back_when_a_step_fails(string way)
    {
        await PinAndUnpinAsync(way);
        PinStep[] steps = way is "Pin" or "PinStream"
            ? [PinStep.Create, PinStep.Fill, PinStep.Answer, PinStep.Hold, PinStep.Publish, PinStep.Done]
            : [PinStep.Create, PinStep.Fill, PinStep.Answer, PinStep.Publish, PinStep.Done];
        Assert.Equal(steps, _script.Seen);
        foreach (var step in steps)
        {
            var before = _counts.GetValueOrDefault(TelemetryNames.PagesPinned);
            _script.FailAt = step;
            var refusal = await Assert.ThrowsAsync<RpcException>(() => PinAsync(way, At));
            _script.FailAt = null;
            Assert.Equal(StatusCode.DataLoss, refusal.StatusCode);
            Assert.Equal(before, _counts.GetValueOrDefault(TelemetryNames.PagesPinned));
            await AssertNothingIsLeftAsync(way);
            // And the same pin succeeds afterwards.
            await PinAndUnpinAsync(way);
        }

        // A hold that was left behind would keep the frames of the range from the allocator.
        await Call(new MemoryCall { Munmap = new MunmapCall { Address = At, Length = Pages * 4096 } });
        await AssertNothingIsLeftAsync(way);
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public async Task Every_way_to_pin_gives_everything_back_when_its_lease_ends_meanwhile(string way)
    {
        var lease = await _client.Leases.OpenLeaseAsync(new OpenLeaseRequest { Owner = "test" });
        var close = new CloseLeaseRequest { Name = lease.Name };
        _script.Before = (PinStep.Publish, () => _client.Leases.CloseLease(close));
        var refusal = await Assert.ThrowsAsync<RpcException>(() => PinAsync(way, At, lease.Name));
        Assert.Equal(StatusCode.NotFound, refusal.StatusCode);
        Assert.Equal(0, _counts.GetValueOrDefault(TelemetryNames.PagesPinned));
        await AssertNothingIsLeftAsync(way);
    }

    private async Task PinAndUnpinAsync(string way)
    {
        _script.Seen.Clear();
        var vector = await PinAsync(way, At);
        await _client.Pinning.UnpinAsync(
            new UnpinRequest { FrameVector = vector, Attachment = _local.Name, Hold = _hold });
    }

    /// <summary>Pins the range in one of the five ways; the vector's name.</summary>
    private async Task<string> PinAsync(string way, ulong start, string lease = "")
    {
        _hold = 0;
        switch (way)
        {
            case "Pin":
                var pinned = await _client.Pinning.PinAsync(new PinRequest
                {
                    AddressSpace = _space,
                    Start = start,
                    Pages = Pages,
                    Write = true,
                    Lease = lease,
                    Attachment = _local.Name,
                });
                _hold = pinned.Hold;
                return pinned.FrameVector;
            case "Gup":
                return (await _client.Pinning.GupAsync(new GupRequest
                {
                    AddressSpace = _space,
                    Start = start,
                    Pages = Pages,
                    Function = GupFunction.PinUserPages,
                    Flags = 1,
                    Lease = lease,
                })).FrameVector;
            case "GetVaddrFrames":
                return await CreateAndGetAsync(start, lease);
            case "PinStream":
                return await PinInStreamAsync(start, lease);
            default:
                var export = new ExportDeviceRequest { Name = _device, Lease = lease };
                return (await _client.Devices.ExportDeviceAsync(export)).FrameVector;
        }
    }

    private async Task<string> CreateAndGetAsync(ulong start, string lease)
    {
        var vector = await _client.Pinning.CreateFrameVectorAsync(
            new CreateFrameVectorRequest { Frames = Pages, Lease = lease });
        try
        {
            await _client.Pinning.GetVaddrFramesAsync(new GetVaddrFramesRequest
            {
                FrameVector = vector.Name,
                AddressSpace = _space,
                Start = start,
                Pages = Pages,
                Write = true,
            });
            return vector.Name;
        }
        catch (RpcException) when (lease.Length == 0)
        {
            // The vector is there as before, empty, and can be filled or destroyed.
            Assert.Equal(0UL, (await GetAsync(vector.Name)).Frames);
            await _client.Pinning.DestroyFrameVectorAsync(new DestroyFrameVectorRequest { FrameVector = vector.Name });
            throw;
        }
    }

    private async Task<string> PinInStreamAsync(ulong start, string lease)
    {
        using var stream = _client.Pinning.PinStream();
        var pin = new PinRange
        {
            Start = start,
            Pages = Pages,
            Write = true,
            WithFrames = true,
            Traceparent = Traceparent,
        };
        await stream.RequestStream.WriteAsync(new PinBatch
        {
            Sequence = 1,
            AddressSpace = _space,
            Lease = lease,
            Attachment = _local.Name,
            Operations = { new PinOperation { Pin = pin } },
        });
        Assert.True(await stream.ResponseStream.MoveNext(default));
        var answer = Assert.Single(stream.ResponseStream.Current.Results);
        await stream.RequestStream.CompleteAsync();
        Assert.False(await stream.ResponseStream.MoveNext(default));
        if (answer.Refusal is { } refusal)
        {
            Assert.Equal((0UL, 0UL, 0UL), (answer.FrameVector, answer.Frames, answer.Hold));
            Assert.Null(answer.Runs);
            throw refusal.ToRpcException();
        }

        _hold = answer.Hold;
        return $"machines/default/frameVectors/{answer.FrameVector}";
    }

    private async Task AssertNothingIsLeftAsync(string way)
    {
        var machine = await _client.Machines.GetMachineAsync(new GetMachineRequest { Name = "machines/default" });
        var statistics = machine.Statistics;
        Assert.True(statistics.PinsAcquired == statistics.PinsReleased, $"{way}: pages are still pinned");
        Assert.Equal((0U, 0UL), (statistics.FrameVectors, statistics.QuarantinedFrames));
        var audit = await _client.Machines.AuditMachineAsync(new AuditMachineRequest { Name = "machines/default" });
        Assert.Empty(audit.Findings);
        var listed = await _client.Pinning.ListFrameVectorsAsync(new ListFrameVectorsRequest());
        Assert.Empty(listed.FrameVectors);
    }

    private async Task<FrameVector> GetAsync(string vector) =>
        await _client.Pinning.GetFrameVectorAsync(new GetFrameVectorRequest { Name = vector });

    private async Task Call(MemoryCall call) =>
        await _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = _space, Call = call });

    private static long NumberOf(string vector) => long.Parse(vector.Split('/')[^1], null);

    /// <summary>Hears the figures and spans of this daemon, and of no other in the process.</summary>
    private void Listen(IServiceProvider services)
    {
        var factory = services.GetRequiredService<IMeterFactory>();
        _meters.InstrumentPublished = (instrument, listener) =>
        {
            if (ReferenceEquals(instrument.Meter.Scope, factory)) listener.EnableMeasurementEvents(instrument);
        };
        _meters.SetMeasurementEventCallback<long>(
            (instrument, value, _, _) => _counts.AddOrUpdate(instrument.Name, value, (_, sum) => sum + value));
        _meters.Start();
        var source = services.GetRequiredService<ServerTelemetry>().Activities;
        _activities = new ActivityListener
        {
            ShouldListenTo = heard => ReferenceEquals(heard, source),
            Sample = (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllDataAndRecorded,
            ActivityStopped = _spans.Enqueue,
        };
        ActivitySource.AddActivityListener(_activities);
    }

    /// <summary>Notes the steps of each pin, and fails one of them or runs something before it.</summary>
    private sealed class PinStepScript : IPinSteps
    {
        public List<PinStep> Seen { get; } = [];

        public PinStep? FailAt { get; set; }

        public (PinStep Step, Action Run)? Before { get; set; }

        public IPinSteps Begin(Activity? span) => this;

        public void Entered(PinPhase phase)
        {
        }

        public void Entered(PinStep step)
        {
            Seen.Add(step);
            if (Before is { } before && before.Step == step) before.Run();
            if (FailAt == step) throw new RpcException(new Status(StatusCode.DataLoss, $"failed at {step}"));
        }
    }
}
