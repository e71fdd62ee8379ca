using FramePin.Client;
using FramePin.V1;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>A machine with a served device that is mapped, and its handler's stream.</summary>
internal sealed class FaultRig : IAsyncDisposable
{
    public const ulong At = 0x10_0000;
    public const ulong PageSize = 4096;
    public const int DevicePages = 16;
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    private readonly FramePinClient _client;
    private AsyncDuplexStreamingCall<FaultReply, FaultEvent>? _stream;

    private FaultRig(FramePinClient client, string machine, string space) =>
        (_client, Machine, Space) = (client, machine, space);

    public string Machine { get; }

    public string Space { get; }

    public string Device { get; private set; } = "";

    public ulong FirstPfn { get; private set; }

    public static async Task<FaultRig> CreateAsync(
        DaemonFixture daemon, DeviceMapping mapping = DeviceMapping.Unspecified, bool isPrivate = false)
    {
        var (machine, space) = await daemon.CreateAsync();
        var rig = new FaultRig(daemon.Client, machine, space);
        if (mapping == DeviceMapping.Unspecified) return rig;
        var device = await daemon.Client.Devices.CreateDeviceAsync(
            new CreateDeviceRequest { Parent = machine, Mapping = mapping, Pages = DevicePages, Ram = true });
        (rig.Device, rig.FirstPfn) = (device.Name, device.FirstPfn);
        await rig.CallAsync(new MemoryCall
        {
            Mmap = new MmapCall
            {
                Address = At,
                Length = DevicePages * PageSize,
                Prot = 3,
                Flags = isPrivate
                ? 0x12U
                : 0x11U,
                Target = device.Name
            },
        });
        await rig.ServeAsync();
        return rig;
    }

    public async Task ServeAsync(RegisterFaultHandler? registration = null)
    {
        _stream = _client.Faults.ServeFaults();
        await _stream.RequestStream.WriteAsync(
            new FaultReply { Register = registration ?? new RegisterFaultHandler { Device = Device } });
        Assert.Equal(0UL, (await NextAsync()).Fault);
    }

    /// <summary>The handler's process dies.</summary>
    public Task EndHandlerAsync()
    {
        _stream!.Dispose();
        return Task.CompletedTask;
    }

    public async Task<FaultEvent> NextAsync()
    {
        Assert.True(await _stream!.ResponseStream.MoveNext(default).WaitAsync(Patience));
        return _stream.ResponseStream.Current;
    }

    public Task AnswerAsync(FaultEvent fault, FaultAnswerKind kind, ulong page = 0) =>
        _stream!.RequestStream.WriteAsync(
            new FaultReply { Answer = new FaultAnswer { Fault = fault.Fault, Kind = kind, Page = page } });

    public Task<PinResponse> PinAsync(ulong start, ulong pages) =>
        _client.Pinning.PinAsync(
            new PinRequest { AddressSpace = Space, Start = start, Pages = pages, Write = true }).ResponseAsync;

    /// <summary>Waits for a pin, and gives it back.</summary>
    public async Task UnpinAsync(Task<PinResponse> pin)
    {
        var pinned = await pin.WaitAsync(Patience);
        await _client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pinned.FrameVector });
    }

    public Task<CallResponse> TouchAsync(ulong address, ulong pages) =>
        CallAsync(new MemoryCall { Touch = new TouchCall { Address = address, Pages = (uint)pages, Write = true } });

    public Task<CallResponse> CallAsync(MemoryCall call) =>
        _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = Space, Call = call }).ResponseAsync;

    public async ValueTask DisposeAsync()
    {
        _stream?.Dispose();
        await _client.Machines.DeleteMachineAsync(new DeleteMachineRequest { Name = Machine });
    }
}
