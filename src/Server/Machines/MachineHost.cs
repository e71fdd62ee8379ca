using System.Collections.Concurrent;
using FramePin.Core.Addressing;
using FramePin.Core.Machines;
using FramePin.Core.Syscalls;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.Server.Telemetry;

namespace FramePin.Server.Machines;

/// <summary>The daemon around a machine.</summary>
/// <param name="Limits">How much a machine may hold.</param>
/// <param name="Telemetry">Counts what leases give back.</param>
/// <param name="Time">The clock.</param>
/// <param name="Log">Told of leases that nobody kept alive.</param>
internal sealed record HostContext(
    DaemonLimits Limits, ServerTelemetry Telemetry, TimeProvider Time, ILogger<LeaseRegistry> Log);

/// <summary>A machine under its name, and the parts of the daemon that serve it.</summary>
/// <remarks>Any thread. Owns the machine.</remarks>
internal sealed class MachineHost : IDisposable
{
    private readonly ConcurrentDictionary<object, (Lease Lease, LeasedThing Thing)> _leased = new(
        ReferenceEqualityComparer.Instance);
    private readonly CancellationTokenSource _deleted = new();
    private int _lastAttachment;

    public MachineHost(
        string id, MachineOptions options, IMachineObserver? observer, V1.MachineSpec? spec, HostContext daemon)
    {
        var (limits, telemetry, time, log) = daemon;
        Id = id;
        QuarantineBytesMax = spec is { QuarantineBytesMax: > 0 and var most } ? most : limits.QuarantineBytesMax;
        KillsHolders = spec is not null && WireEnums.Kills(spec.QuarantinePolicy, "spec.quarantine_policy");
        Machine = new Machine(id, options, observer);
        Requests = new RequestLog(limits);
        Sessions = new StreamSessions(limits);
        Leases = new LeaseRegistry(id, limits, telemetry, time, log);
        Deleted = _deleted.Token;
        var naming = new NameCounter();
        Spaces = new NameTable<SpaceId>(
            id, new(Names.AddressSpaces, "ADDRESS_SPACE", "as", "address_spaces_max", limits.AddressSpacesMax), naming,
            limits);
        Files = new NameTable<FileId>(
            id, new(Names.Files, "FILE", "f", "files_max", limits.FilesMax), naming, limits);
        Devices = new NameTable<DeviceId>(
            id, new(Names.Devices, "DEVICE", "d", "devices_max", limits.DevicesMax), naming, limits);
        Vectors = new VectorTable(id, Machine, limits);
        Watches = new InvalidationWatches(Machine, limits, time);
        Commands = new MachineCommands(Machine, Watches);
        Parked = new ParkedPins(Machine, Commands);
        Faults = new FaultHandlers(
            Machine, space => Spaces.Find(space)?.Name ?? "", parked => _ = Parked.ResumeAsync(parked), limits, time);
    }

    /// <summary>Last segment of the name.</summary>
    public string Id { get; }

    /// <summary>Looks at the machine, and commands that take no memory away.</summary>
    public Machine Machine { get; }

    /// <summary>Commands that take memory away.</summary>
    public MachineCommands Commands { get; }

    /// <summary>Answers to requests with a request_id.</summary>
    public RequestLog Requests { get; }

    /// <summary>Clients' stream sessions.</summary>
    public StreamSessions Sessions { get; }

    /// <summary>Lives of clients.</summary>
    public LeaseRegistry Leases { get; }

    public NameTable<SpaceId> Spaces { get; }

    public NameTable<FileId> Files { get; }

    public NameTable<DeviceId> Devices { get; }

    public VectorTable Vectors { get; }

    /// <summary>Calls that wait for a parked pin.</summary>
    public ParkedPins Parked { get; }

    /// <summary>Subscribers that are asked before memory goes.</summary>
    public InvalidationWatches Watches { get; }

    /// <summary>Handlers of the faults of devices and ranges.</summary>
    public FaultHandlers Faults { get; }

    /// <summary>Cancelled when the machine is deleted: the streams that serve or watch it end with NOT_FOUND.</summary>
    public CancellationToken Deleted { get; }

    /// <summary>Most bytes of free memory kept back for local processes.</summary>
    public ulong QuarantineBytesMax { get; }

    /// <summary>The process that holds the most memory past the bound is killed; otherwise it is fenced.</summary>
    public bool KillsHolders { get; }

    /// <summary>The full name of the next attachment of a local process.</summary>
    public string NextAttachment() =>
        Names.Child(Id, Names.Attachments, $"a{Interlocked.Increment(ref _lastAttachment)}");

    /// <summary>
    /// Hangs a device or an address space on its lease, if it has one. A lease that has ended meanwhile takes the
    /// thing along: NOT_FOUND.
    /// </summary>
    public void HangOn(Lease? lease, object owned, Action remove)
    {
        if (lease is null) return;
        var thing = new LeasedThing(remove);
        _leased[owned] = (lease, thing);
        if (lease.TryAdd(thing)) return;
        remove();
        throw LeaseRegistry.Gone(lease.Name);
    }

    /// <summary>Takes a device's name away. Its memory goes with the last mapping.</summary>
    public void RemoveDevice(Named<DeviceId> device)
    {
        if (!Devices.Remove(device)) return;
        Unlease(device);
        try
        {
            Machine.Call(new DestroyDeviceCall(device.Thing));
        }
        catch (ObjectDisposedException)
        {
            // The machine was deleted before, and the device with it.
        }
    }

    /// <summary>
    /// The process ends (exit_mmap) when the watches of its memory have agreed, and its address space loses its name.
    /// False: it has exited before.
    /// </summary>
    public async Task<bool> ExitSpaceAsync(Named<SpaceId> space)
    {
        try
        {
            var result = await Commands.CallAsync(new ExitCall(space.Thing)).ConfigureAwait(false);
            Unlease(space);
            if (result.IsOk) Spaces.Remove(space);
            Faults.Drop(space.Thing);
            return result.IsOk;
        }
        catch (ObjectDisposedException)
        {
            // The machine was deleted before, and everything in it.
            return false;
        }
    }

    /// <summary>Ends every wait for an answer from outside, since none will come.</summary>
    public void StopWaiting()
    {
        Parked.StopWaiting();
        Faults.StopWaiting();
    }

    public void Dispose()
    {
        StopWaiting();
        Leases.CloseAll();
        Machine.Dispose();
        _deleted.Cancel();
        _deleted.Dispose();
    }

    private void Unlease(object owned)
    {
        if (_leased.TryRemove(owned, out var entry)) entry.Lease.Forget(entry.Thing);
    }
}
