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
/// Leases over the wire: what hangs on one is released once, when it ends. The daemon's clock is the test's.
/// </summary>
public sealed class LeaseTests : IAsyncLifetime
{
    private const ulong At = 0x10_0000;
    private const double Ttl = 3000;

    private readonly string _socket = Path.Combine(Path.GetTempPath(), $"framepin-{Guid.NewGuid():N}.sock");
    private readonly FakeTimeProvider _time = new();
    private WebApplication? _app;
    private FramePinClient _client = null!;
    private string _space = "";

    public async ValueTask InitializeAsync()
    {
        _app = Daemon.Build(new DaemonOptions { SocketPath = _socket }, _time);
        await _app.StartAsync();
        _client = FramePinClient.Connect($"unix:{_socket}");
        _space = (await _client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        var map = new MemoryCall { Mmap = new MmapCall { Address = At, Length = 64 * 4096, Prot = 3, Flags = 0x32 } };
        await _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = _space, Call = map });
    }

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        await _app!.StopAsync();
        await _app.DisposeAsync();
    }

    [Fact]
    public async Task Nothing_is_heard_for_a_time_to_live_and_the_pins_are_gone()
    {
        var lease = await Open();
        var pin = await Pin(lease, 8);
        Assert.Equal(8UL, (await _client.Leases.GetLeaseAsync(new GetLeaseRequest { Name = lease })).PinnedPages);
        using (var stream = _client.Leases.KeepAlive())
        {
            for (var beat = 0; beat < 5; beat++)
            {
                _time.Advance(TimeSpan.FromMilliseconds(Ttl - 1));
                await stream.RequestStream.WriteAsync(new KeepAliveRequest { Lease = lease });
                Assert.True(await stream.ResponseStream.MoveNext(default));
                Assert.Equal(Ttl, stream.ResponseStream.Current.Left.ToTimeSpan().TotalMilliseconds);
            }
        }

        // The broken stream ended nothing.
        Assert.Equal(lease, (await Vector(pin.FrameVector)).Lease);
        _time.Advance(TimeSpan.FromMilliseconds(Ttl));
        Assert.Equal("FRAME_VECTOR_NOT_FOUND",
            await Refused(_client.Pinning.GetFrameVectorAsync(new GetFrameVectorRequest { Name = pin.FrameVector })));
        Assert.Equal(
            "LEASE_NOT_FOUND", await Refused(_client.Leases.GetLeaseAsync(new GetLeaseRequest { Name = lease })));
        await BooksBalance();
    }

    [Fact]
    public async Task Closing_releases_what_is_left_and_says_so_again_when_asked_again()
    {
        var lease = await Open();
        var first = await Pin(lease, 4);
        await Pin(lease, 2);
        await Pin("", 1);
        await _client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = first.FrameVector });
        var close = new CloseLeaseRequest { Name = lease, RequestId = "close" };
        var closed = await _client.Leases.CloseLeaseAsync(close);
        Assert.Equal((1u, 2UL), (closed.FrameVectors, closed.PinnedPages));
        Assert.Equal(closed, await _client.Leases.CloseLeaseAsync(close));
        // A vector of the machine belongs to no lease.
        var left = await _client.Pinning.ListFrameVectorsAsync(new ListFrameVectorsRequest());
        Assert.Equal("", Assert.Single(left.FrameVectors).Lease);
        await _client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = left.FrameVectors[0].Name });
        await BooksBalance();
    }

    [Fact]
    public async Task A_lease_that_is_not_there_holds_nothing()
    {
        foreach (var (name, reason) in new[]
            { ("machines/default/leases/none", "LEASE_NOT_FOUND"), ("nonsense", "BAD_FIELD") })
        {
            Assert.Equal(
                reason, await Refused(_client.Pinning.PinAsync(
                    new PinRequest { AddressSpace = _space, Start = At, Pages = 1, Lease = name })));
            Assert.Equal(reason, await Refused(
                _client.Pinning.CreateFrameVectorAsync(new CreateFrameVectorRequest { Frames = 1, Lease = name })));
        }

        Assert.Empty((await _client.Pinning.ListFrameVectorsAsync(new ListFrameVectorsRequest())).FrameVectors);
        var millisecond = Duration.FromTimeSpan(TimeSpan.FromMilliseconds(1));
        foreach (var ttl in new[]
            { millisecond, new Duration { Seconds = long.MaxValue }, new Duration { Seconds = -1 } })
            Assert.Equal(
                "BAD_FIELD", await Refused(_client.Leases.OpenLeaseAsync(new OpenLeaseRequest { Ttl = ttl })));
        await BooksBalance();
    }

    [Fact]
    public async Task A_pin_that_waits_is_given_up_with_its_lease()
    {
        var rules =
            new AddFaultRulesRequest
            {
                Rules = { new FaultRule { Point = ChoicePoint.Fault, Action = FaultAction.Park, Times = 1 } }
            };
        await _client.Machines.AddFaultRulesAsync(rules);
        var lease = await Open();
        var vector = await _client.Pinning.CreateFrameVectorAsync(
            new CreateFrameVectorRequest { Frames = 4, Lease = lease });
        var waiting = _client.Pinning.GetVaddrFramesAsync(
            new GetVaddrFramesRequest
            {
                FrameVector = vector.Name,
                AddressSpace = _space,
                Start = At,
                Pages = 4,
                Write = true
            });
        while ((await _client.Machines.GetMachineAsync(new GetMachineRequest())).Statistics.ParkedPins == 0)
            await Task.Yield();
        await _client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = lease });
        await Assert.ThrowsAsync<RpcException>(async () => await waiting);
        Assert.Empty((await _client.Pinning.ListFrameVectorsAsync(new ListFrameVectorsRequest())).FrameVectors);
        await BooksBalance();
    }

    [Fact]
    public async Task A_lease_ends_with_its_machine_and_those_of_other_machines_stay()
    {
        var machine = await _client.Machines.CreateMachineAsync(
            new CreateMachineRequest { Spec = new MachineSpec { MemoryBytes = 64UL << 20 } });
        var space = await _client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest { Parent = machine.Name });
        var map = new MemoryCall { Mmap = new MmapCall { Address = At, Length = 4096, Prot = 3, Flags = 0x32 } };
        await _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space.Name, Call = map });
        var (ours, theirs) = (await Open(machine.Name), await Open());
        await _client.Pinning.PinAsync(
            new PinRequest { AddressSpace = space.Name, Start = At, Pages = 1, Write = true, Lease = ours });
        await Pin(theirs, 2);
        Assert.Equal("BAD_FIELD", await Refused(_client.Pinning.PinAsync(
            new PinRequest { AddressSpace = space.Name, Start = At, Pages = 1, Lease = theirs })));
        using var stream = _client.Leases.KeepAlive();
        await stream.RequestStream.WriteAsync(new KeepAliveRequest { Lease = ours });
        Assert.True(await stream.ResponseStream.MoveNext(default));
        await _client.Machines.DeleteMachineAsync(new DeleteMachineRequest { Name = machine.Name, Force = true });
        var ended = await Assert.ThrowsAsync<RpcException>(() => stream.ResponseStream.MoveNext(default));
        Assert.Equal("LEASE_NOT_FOUND", FramePinException.From(ended).Reason);
        Assert.Equal(
            "MACHINE_NOT_FOUND", await Refused(_client.Leases.GetLeaseAsync(new GetLeaseRequest { Name = ours })));
        var closed = await _client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = theirs });
        Assert.Equal(2UL, closed.PinnedPages);
        await BooksBalance();
    }

    [Fact]
    public async Task The_clients_lease_keeps_itself_alive_and_notices_its_end()
    {
        await using var lease = await FramePinLease.OpenAsync(
            _client, "machines/default", "test", TimeSpan.FromMilliseconds(Ttl), _time);
        await Pin(lease.Name, 1);
        Assert.False(lease.Lost.IsCancellationRequested);
        var ended = new TaskCompletionSource();
        await using var registration = lease.Lost.Register(ended.SetResult);
        await _client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = lease.Name });
        await ended.Task.WaitAsync(TestContext.Current.CancellationToken);
        await BooksBalance();
    }

    [Fact]
    public async Task Disposing_the_clients_lease_ends_it()
    {
        var lease = await FramePinLease.OpenAsync(_client, "", "test");
        var listed = Assert.Single((await _client.Leases.ListLeasesAsync(new ListLeasesRequest())).Leases);
        Assert.Equal((lease.Name, "test"), (listed.Name, listed.Owner));
        await Pin(lease.Name, 3);
        await lease.DisposeAsync();
        Assert.False(lease.Lost.IsCancellationRequested);
        Assert.Empty((await _client.Leases.ListLeasesAsync(new ListLeasesRequest())).Leases);
        await BooksBalance();
    }

    private async Task<string> Open(string machine = "")
    {
        var ttl = Duration.FromTimeSpan(TimeSpan.FromMilliseconds(Ttl));
        var request = new OpenLeaseRequest { Parent = machine, Owner = "test", Ttl = ttl };
        return (await _client.Leases.OpenLeaseAsync(request)).Name;
    }

    private async Task<PinResponse> Pin(string lease, ulong pages) =>
        await _client.Pinning.PinAsync(
            new PinRequest { AddressSpace = _space, Start = At, Pages = pages, Write = true, Lease = lease });

    private async Task<FrameVector> Vector(string name) =>
        await _client.Pinning.GetFrameVectorAsync(new GetFrameVectorRequest { Name = name });

    private static async Task<string> Refused<T>(AsyncUnaryCall<T> call) =>
        FramePinException.From(await Assert.ThrowsAsync<RpcException>(async () => await call)).Reason;

    private async Task BooksBalance()
    {
        Assert.Empty((await _client.Machines.AuditMachineAsync(new AuditMachineRequest())).Findings);
        var statistics = (await _client.Machines.GetMachineAsync(new GetMachineRequest())).Statistics;
        Assert.Equal(statistics.PinsAcquired, statistics.PinsReleased);
    }
}
