using System.Collections.Concurrent;
using FramePin.Core.Machines;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.Server.Telemetry;

namespace FramePin.Server.Machines;

/// <summary>The machines of the daemon. Any thread.</summary>
internal sealed class MachineRegistry : IDisposable
{
    private readonly ConcurrentDictionary<string, MachineHost> _machines = new(StringComparer.Ordinal);
    private readonly Lock _naming = new();
    private readonly HostContext _daemon;
    private readonly Func<string, MachineOptions, IMachineObserver?> _observerOf;
    private int _nextName;

    /// <param name="options">Limits, and what the default machine is made of.</param>
    /// <param name="telemetry">Counts what the leases of all machines give back.</param>
    /// <param name="time">The clock.</param>
    /// <param name="log">Told of leases that nobody kept alive.</param>
    public MachineRegistry(
        DaemonOptions options, ServerTelemetry telemetry, TimeProvider time, ILogger<LeaseRegistry> log)
    {
        _daemon = new HostContext(options.Limits, telemetry, time, log);
        _observerOf = options.ObserverOf ?? (static (_, _) => null);
        Requests = new RequestLog(options.Limits);
        if (options.DefaultMachine is { } machine)
            _machines[Names.DefaultMachine] = Host(Names.DefaultMachine, machine, spec: null);
    }

    /// <summary>Requests that make and delete machines.</summary>
    public RequestLog Requests { get; }

    public IEnumerable<MachineHost> All => _machines.Values.OrderBy(host => host.Id, StringComparer.Ordinal);

    public MachineHost Get(string id) =>
        _machines.TryGetValue(id, out var host) ? host : throw Refusals.NotFound("MACHINE", Names.Machine(id));

    /// <summary>The machine and the rest of the name of one of its children.</summary>
    public (MachineHost Host, string Id) Resolve(string name, string collection, string field)
    {
        var (machine, id) = Names.ChildIds(name, collection, field);
        return (Get(machine), id);
    }

    /// <summary>Told of each machine when it is made; set once, before the first request.</summary>
    public Action<MachineHost>? Made { get; set; }

    public MachineHost Create(string wantedId, MachineOptions options, V1.MachineSpec? spec)
    {
        lock (_naming)
        {
            if (_machines.Count >= _daemon.Limits.MachinesMax)
                throw Refusals.Limit("machines_max", (ulong)_daemon.Limits.MachinesMax, (ulong)_machines.Count + 1);
            var id = wantedId;
            if (id.Length == 0)
            {
                do id = $"m{++_nextName}";
                while (_machines.ContainsKey(id));
            }
            else
            {
                Names.CheckId(id, _daemon.Limits, "machine_id");
                if (_machines.ContainsKey(id)) throw Refusals.Exists(Names.Machine(id));
            }

            var host = Host(id, options, spec);
            _machines[id] = host;
            Made?.Invoke(host);
            return host;
        }
    }

    private MachineHost Host(string id, MachineOptions options, V1.MachineSpec? spec) =>
        new(id, options, _observerOf(id, options), spec, _daemon);

    public void Delete(string id, bool force)
    {
        var host = Get(id);
        var live = host.Machine.PinStatistics.Acquired - host.Machine.PinStatistics.Released;
        if (live > 0 && !force)
            throw Refusals.State(
                "PINS_LIVE", $"{live} pages are pinned: unpin them or set force", ("pinned_pages", $"{live}"));
        if (!_machines.TryRemove(id, out _)) throw Refusals.NotFound("MACHINE", Names.Machine(id));
        host.Dispose();
    }

    public void Dispose()
    {
        foreach (var host in _machines.Values) host.Dispose();
        _machines.Clear();
    }
}
