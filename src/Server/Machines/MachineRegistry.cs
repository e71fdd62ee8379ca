using System.Collections.Concurrent;
using FramePin.Core.Machines;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.Server.Telemetry;
using Grpc.Core;

namespace FramePin.Server.Machines;

/// <summary>The machines of the daemon. Any thread.</summary>
internal sealed class MachineRegistry : IDisposable
{
    private readonly ConcurrentDictionary<string, MachineHost> _machines = new(StringComparer.Ordinal);
    private readonly Lock _naming = new();
    private readonly HostContext _daemon;
    private readonly IAccessPolicy _access;
    private readonly Func<string, MachineOptions, IMachineObserver?> _observerOf;
    private int _nextName;

    /// <param name="options">Limits, and what the default machine is made of.</param>
    /// <param name="telemetry">Counts what the leases of all machines give back.</param>
    /// <param name="time">The clock.</param>
    /// <param name="log">Told of leases that nobody kept alive.</param>
    /// <param name="access">Decides which caller may use which machine.</param>
    public MachineRegistry(
        DaemonOptions options, ServerTelemetry telemetry, TimeProvider time, ILogger<LeaseRegistry> log,
        IAccessPolicy access)
    {
        _access = access;
        _daemon = new HostContext(options.Limits, telemetry, time, log);
        _observerOf = options.ObserverOf ?? (static (_, _) => null);
        Requests = new RequestLog(options.Limits);
        if (options.DefaultMachine is { } machine)
            _machines[Names.DefaultMachine] = Host(Names.DefaultMachine, machine, spec: null);
    }

    /// <summary>Requests that make and delete machines.</summary>
    public RequestLog Requests { get; }

    /// <summary>The machines, ordered by id. For the daemon itself: a call finds its machine by Resolve.</summary>
    public IEnumerable<MachineHost> All => _machines.Values.OrderBy(host => host.Id, StringComparer.Ordinal);

    /// <summary>The machines that a caller may see, ordered by id.</summary>
    public IEnumerable<MachineHost> AllFor(ServerCallContext caller) => All.Where(host =>
    {
        try
        {
            _access.Check(caller, host.Id, Right.Read);
            return true;
        }
        catch (RpcException refusal) when (refusal.StatusCode == StatusCode.PermissionDenied)
        {
            return false;
        }
    });

    /// <summary>
    /// The machine that a request names. PERMISSION_DENIED for a caller without the right, NOT_FOUND when there is no
    /// such machine, INVALID_ARGUMENT for another thing's name. An empty name is the default machine's.
    /// </summary>
    /// <param name="caller">The call.</param>
    /// <param name="name">"machines/{machine}".</param>
    /// <param name="right">The use that the call makes of the machine.</param>
    /// <param name="field">Field of the request that holds the name.</param>
    public MachineHost Resolve(ServerCallContext caller, string name, Right right, string field)
    {
        var id = Names.MachineId(name, field);
        _access.Check(caller, id, right);
        return Get(id);
    }

    /// <summary>
    /// The machine of a thing that a request names, and the last segment of the thing's name. Refuses as the other form
    /// does; whether the machine has such a thing is not looked at.
    /// </summary>
    /// <param name="caller">The call.</param>
    /// <param name="name">"machines/{machine}/{collection}/{id}".</param>
    /// <param name="collection">The collection.</param>
    /// <param name="right">The use that the call makes of the machine.</param>
    /// <param name="field">Field of the request that holds the name.</param>
    public (MachineHost Host, string Id) Resolve(
        ServerCallContext caller, string name, string collection, Right right, string field)
    {
        var (machine, id) = Names.ChildIds(name, collection, field);
        _access.Check(caller, machine, right);
        return (Get(machine), id);
    }

    /// <summary>PERMISSION_DENIED for a caller without a right on a machine, which need not exist.</summary>
    public void CheckAccess(ServerCallContext caller, string id, Right right) => _access.Check(caller, id, right);

    private MachineHost Get(string id) =>
        _machines.TryGetValue(id, out var host) ? host : throw Refusals.NotFound("MACHINE", Names.Machine(id));

    /// <summary>Told of each machine when it is made; set once, before the first request.</summary>
    public Action<MachineHost>? Made { get; set; }

    /// <summary>
    /// Makes a machine. ALREADY_EXISTS for an id in use, RESOURCE_EXHAUSTED at the limit, PERMISSION_DENIED for a
    /// caller that may not manage a machine of the name that was chosen for it.
    /// </summary>
    /// <param name="caller">The call.</param>
    /// <param name="wantedId">Last segment of the name; empty to have one chosen.</param>
    /// <param name="options">The hardware.</param>
    /// <param name="spec">The rest of the request; null for defaults.</param>
    public MachineHost Create(
        ServerCallContext caller, string wantedId, MachineOptions options, V1.MachineSpec? spec)
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
                _access.Check(caller, id, Right.Manage);
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

    /// <summary>
    /// Deletes a machine. FAILED_PRECONDITION (PINS_LIVE) while pages are pinned, unless <paramref name="force"/>.
    /// </summary>
    public void Delete(ServerCallContext caller, string name, bool force)
    {
        var host = Resolve(caller, name, Right.Manage, "name");
        var live = host.Machine.PinStatistics.Acquired - host.Machine.PinStatistics.Released;
        if (live > 0 && !force)
            throw Refusals.State(
                "PINS_LIVE", $"{live} pages are pinned: unpin them or set force", ("pinned_pages", $"{live}"));
        // Not another machine that was made under the name meanwhile.
        if (!_machines.TryRemove(new KeyValuePair<string, MachineHost>(host.Id, host)))
            throw Refusals.NotFound("MACHINE", Names.Machine(host.Id));
        host.Dispose();
    }

    public void Dispose()
    {
        foreach (var host in _machines.Values) host.Dispose();
        _machines.Clear();
    }
}
