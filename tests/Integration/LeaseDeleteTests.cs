using FramePin.Client;
using FramePin.Server;
using FramePin.Server.Configuration;
using FramePin.V1;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.Time.Testing;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>
/// A lease that ends while its machine is deleted (fault V1): what hangs on it is given back once, whichever comes
/// first, and no exception reaches the timer.
/// </summary>
public sealed class LeaseDeleteTests : IAsyncLifetime
{
    private const ulong At = 0x10_0000;
    private static readonly TimeSpan Ttl = TimeSpan.FromSeconds(3);
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    private readonly string _socket = Path.Combine(Path.GetTempPath(), $"framepin-{Guid.NewGuid():N}.sock");
    private readonly FakeTimeProvider _time = new();
    private WebApplication? _app;
    private FramePinClient _client = null!;

    public async ValueTask InitializeAsync()
    {
        _app = Daemon.Build(new DaemonOptions { SocketPath = _socket, DefaultMachine = null }, _time);
        await _app.StartAsync();
        _client = FramePinClient.Connect($"unix:{_socket}");
    }

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        await _app!.StopAsync();
        await _app.DisposeAsync();
    }

    [Fact]
    public async Task V1_a_lease_that_expires_while_its_machine_is_deleted_ends_once()
    {
        for (var round = 0; round < 150; round++)
        {
            var (machine, pins) = await ParkAsync($"m{round}", pins: 4);
            using var both = new Barrier(2);
            // An exception of the timer's callback comes out of Advance here, where it would end the daemon otherwise.
            var expiring = Task.Run(() =>
            {
                both.SignalAndWait();
                _time.Advance(Ttl);
            });
            both.SignalAndWait();
            await _client.Machines.DeleteMachineAsync(new DeleteMachineRequest { Name = machine, Force = true });
            await expiring.WaitAsync(Patience);
            foreach (var pin in pins) await Assert.ThrowsAsync<RpcException>(() => pin.WaitAsync(Patience));
        }

        Assert.Empty((await _client.Machines.ListMachinesAsync(new ListMachinesRequest())).Machines);
    }

    /// <summary>
    /// A machine with a lease, a device, a space and pins in the lease's name, which wait at a fault.
    /// </summary>
    private async Task<(string Machine, Task<PinResponse>[] Pins)> ParkAsync(string id, int pins)
    {
        var create = new CreateMachineRequest { MachineId = id };
        var machine = (await _client.Machines.CreateMachineAsync(create)).Name;
        var lease = (await _client.Leases.OpenLeaseAsync(
            new OpenLeaseRequest { Parent = machine, Owner = "test", Ttl = Duration.FromTimeSpan(Ttl) })).Name;
        var space = (await _client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest { Parent = machine, Lease = lease })).Name;
        await _client.Devices.CreateDeviceAsync(
            new CreateDeviceRequest { Parent = machine, Mapping = DeviceMapping.Pfnmap, Pages = 1, Lease = lease });
        var map = new MmapCall { Address = At, Length = (ulong)pins * 8192, Prot = 3, Flags = 0x32 };
        await _client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = space, Call = new MemoryCall { Mmap = map } });
        // The first page of each pin is resident, so that each holds a page while it waits for the second.
        var rules = new AddFaultRulesRequest { Machine = machine };
        for (var pin = 0UL; pin < (ulong)pins; pin++)
        {
            var touch = new TouchCall { Address = At + (pin * 8192), Pages = 1, Write = true };
            await _client.AddressSpaces.CallAsync(
                new CallRequest { AddressSpace = space, Call = new MemoryCall { Touch = touch } });
        }

        rules.Rules.Add(new FaultRule { Point = ChoicePoint.Fault, Action = FaultAction.Park, Times = 100 });
        await _client.Machines.AddFaultRulesAsync(rules);
        var calls = Enumerable.Range(0, pins).Select(pin => _client.Pinning.PinAsync(new PinRequest
        {
            AddressSpace = space,
            Start = At + ((ulong)pin * 8192),
            Pages = 2,
            Write = true,
            Lease = lease,
        }).ResponseAsync).ToArray();
        using var patience = new CancellationTokenSource(Patience);
        while ((await _client.Machines.GetMachineAsync(
            new GetMachineRequest { Name = machine }, cancellationToken: patience.Token)).Statistics.ParkedPins < pins)
            await Task.Yield();
        return (machine, calls);
    }
}
