using System.Collections.Concurrent;
using FramePin.Client;
using FramePin.Core.Machines;
using FramePin.Server;
using FramePin.Server.Configuration;
using FramePin.V1;
using Microsoft.AspNetCore.Builder;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>A daemon in the test's own process, on a Unix socket of its own, and a client of it.</summary>
public sealed class DaemonFixture : IAsyncLifetime
{
    private readonly string _socket = Path.Combine(Path.GetTempPath(), $"framepin-{Guid.NewGuid():N}.sock");
    private readonly ConcurrentDictionary<string, MemoryStream> _logs = new(StringComparer.Ordinal);
    private WebApplication? _app;

    public string Endpoint => $"unix:{_socket}";

    public FramePinClient Client { get; private set; } = null!;

    public async ValueTask InitializeAsync()
    {
        _app = Daemon.Build(new DaemonOptions
        {
            SocketPath = _socket,
            AttachSocketPath = _socket + ".attach",
            ObserverOf = (id, options) => new MachineLog(_logs[id] = new MemoryStream(), options),
        });
        await _app.StartAsync();
        Client = FramePinClient.Connect(Endpoint);
    }

    public async ValueTask DisposeAsync()
    {
        Client.Dispose();
        await _app!.StopAsync();
        await _app.DisposeAsync();
    }

    /// <summary>
    /// Replays the log of a machine on a new one. Throws when it ends in another state. The machine is at rest.
    /// </summary>
    internal void Replay(string name)
    {
        var digest = MachineOf(name).Digest();
        var replay = new MachineReplay("replay", _logs[name["machines/".Length..]].ToArray());
        using var machine = replay.Machine;
        replay.RunToEnd();
        if (machine.Digest() != digest)
            throw new InvalidOperationException($"{name}: the replay ends in another state");
    }

    /// <summary>The machine itself, beside the wire.</summary>
    internal FramePin.Core.Machines.Machine MachineOf(string name) => HostOf(name).Machine;

    /// <summary>An address space itself, beside the wire.</summary>
    internal FramePin.Core.Vmas.AddressSpace SpaceOf(string name)
    {
        var host = HostOf(name);
        return host.Machine.Context.Space(host.Spaces.Get(name.Split('/')[3]).Thing);
    }

    private FramePin.Server.Machines.MachineHost HostOf(string name)
    {
        var machines = (FramePin.Server.Machines.MachineRegistry)_app!.Services.GetService(
            typeof(FramePin.Server.Machines.MachineRegistry))!;
        return machines.All.Single(host => host.Id == name.Split('/')[1]);
    }

    /// <summary>A machine of the test's own with one address space.</summary>
    public async Task<(string Machine, string Space)> CreateAsync(
        string profile = "6.18", ulong memoryBytes = 64UL << 20, uint hugePages = 0, bool tracksSoftDirty = false)
    {
        var spec = new MachineSpec
        {
            Profile = profile,
            MemoryBytes = memoryBytes,
            HugePages2M = hugePages,
            TracksSoftDirty = tracksSoftDirty
        };
        var machine = await Client.Machines.CreateMachineAsync(new CreateMachineRequest { Spec = spec });
        var space = await Client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest { Parent = machine.Name });
        return (machine.Name, space.Name);
    }

    /// <summary>A machine of the test's own, and a page at an address whose first pin waits at its fault.</summary>
    public async Task<(string Machine, string Space)> CreateParkingAsync(ulong address)
    {
        var (machine, space) = await CreateAsync();
        var map = new MemoryCall { Mmap = new MmapCall { Address = address, Length = 4096, Prot = 3, Flags = 0x32 } };
        await Client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space, Call = map });
        var rule = new FaultRule { Point = ChoicePoint.Fault, Action = FaultAction.Park, Times = 1 };
        await Client.Machines.AddFaultRulesAsync(new AddFaultRulesRequest { Machine = machine, Rules = { rule } });
        return (machine, space);
    }

    /// <summary>Maps and stores to private anonymous pages at an address.</summary>
    public async Task MapAsync(string space, ulong address, uint pages)
    {
        var request = new CallBatchRequest { AddressSpace = space };
        request.Calls.Add(new MemoryCall
        {
            Mmap = new MmapCall { Address = address, Length = pages * 4096UL, Prot = 3, Flags = 0x32 },
        });
        request.Calls.Add(new MemoryCall { Touch = new TouchCall { Address = address, Pages = pages, Write = true } });
        var response = await Client.AddressSpaces.CallBatchAsync(request);
        Assert.All(response.Results, result => Assert.Equal((0U, 0U), (result.Errno, result.Signal)));
    }

    public async Task<string> DigestAsync(string machine)
    {
        var audit = await Client.Machines.AuditMachineAsync(new AuditMachineRequest { Name = machine });
        Assert.Empty(audit.Findings);
        return audit.Digest;
    }
}
