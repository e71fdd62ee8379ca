using System.Collections.Concurrent;
using System.Diagnostics;
using System.Diagnostics.Metrics;
using FramePin.Client;
using FramePin.Core.Abi;
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

public abstract partial class PinTransactionTests(string profile) : IAsyncLifetime
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

    public async ValueTask InitializeAsync()
    {
        var socket = Path.Combine(_folder, "grpc.sock");
        _app = Daemon.Build(
            new DaemonOptions
            {
                SocketPath = socket,
                AttachSocketPath = Path.Combine(_folder, "attach.sock"),
                DefaultMachine = new MachineOptions { Profile = KernelProfile.Find(profile)! },
            },
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
        GC.SuppressFinalize(this);
    }

    /// <summary>Pages that the daemon has counted as pinned and as released.</summary>
    private (ulong Pinned, ulong Released) Counted =>
        ((ulong)_counts.GetValueOrDefault(TelemetryNames.PagesPinned),
            (ulong)_counts.GetValueOrDefault(TelemetryNames.PagesReleased));

    private async Task<PinBatchResult> SendAsync(
        AsyncDuplexStreamingCall<PinBatch, PinBatchResult> stream, string session, ulong sequence)
    {
        var pin = new PinOperation { Pin = new PinRange { Start = At, Pages = Pages, Write = true } };
        await stream.RequestStream.WriteAsync(new PinBatch
        {
            Session = session,
            Sequence = sequence,
            AddressSpace = _space,
            Operations = { pin },
        });
        Assert.True(await stream.ResponseStream.MoveNext(default));
        return stream.ResponseStream.Current;
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

        public Action<PinPhase>? BeforePhase { get; set; }

        public IPinSteps Begin(Activity? span) => this;

        public void Entered(PinPhase phase) => BeforePhase?.Invoke(phase);

        public void Entered(PinStep step)
        {
            Seen.Add(step);
            if (Before is { } before && before.Step == step) before.Run();
            if (FailAt == step) throw new RpcException(new Status(StatusCode.DataLoss, $"failed at {step}"));
        }
    }
}
