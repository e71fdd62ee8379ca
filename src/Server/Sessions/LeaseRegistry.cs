using System.Collections.Concurrent;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.Server.Telemetry;

namespace FramePin.Server.Sessions;

/// <summary>The leases of a machine. Any thread.</summary>
/// <param name="machine">Id of the machine, for the leases' names.</param>
/// <param name="limits">How many there may be, and how long they live.</param>
/// <param name="telemetry">Counts what leases give back.</param>
/// <param name="time">The clock.</param>
/// <param name="log">Told of leases that nobody kept alive.</param>
internal sealed class LeaseRegistry(
    string machine, DaemonLimits limits, ServerTelemetry telemetry, TimeProvider time, ILogger<LeaseRegistry> log)
{
    private readonly ConcurrentDictionary<string, Lease> _leases = new(StringComparer.Ordinal);
    private readonly Lock _naming = new();

    /// <summary>Guarded by <see cref="_naming"/>.</summary>
    private int _nextName;

    /// <summary>Guarded by <see cref="_naming"/>.</summary>
    private ulong _lastNumber;

    /// <summary>The open leases, oldest first.</summary>
    public IEnumerable<Lease> All => _leases.Values.OrderBy(lease => lease.Number);

    /// <summary>The lease with an id. NOT_FOUND when it is not open.</summary>
    public Lease Get(string id) => _leases.TryGetValue(id, out var lease) ? lease : throw Gone(NameOf(id));

    /// <summary>
    /// The lease of a request's field; null when it is empty: the machine owns what is acquired. INVALID_ARGUMENT for a
    /// lease of another machine.
    /// </summary>
    public Lease? Find(string name, string field = "lease")
    {
        if (name.Length == 0) return null;
        var (owner, id) = Names.ChildIds(name, Names.Leases, field);
        return owner == machine ? Get(id) : throw Refusals.Bad(field, "belongs to another machine");
    }

    public Lease Open(string wantedId, string owner, TimeSpan ttl)
    {
        Names.CheckText(owner, limits.OwnerLengthMax, "owner_length_max", "owner");
        if (ttl == TimeSpan.Zero) ttl = limits.LeaseTtlDefault;
        if (ttl < limits.LeaseTtlMin || ttl > limits.LeaseTtlMax)
            throw Refusals.Bad(
                "ttl", $"must be {limits.LeaseTtlMin.TotalSeconds} s to {limits.LeaseTtlMax.TotalSeconds} s");
        lock (_naming)
        {
            if (_leases.Count >= limits.LeasesMax)
                throw Refusals.Limit("leases_max", (ulong)limits.LeasesMax, (ulong)_leases.Count + 1);
            var id = wantedId;
            if (id.Length == 0)
            {
                do id = $"l{++_nextName}";
                while (_leases.ContainsKey(id));
            }
            else
            {
                Names.CheckId(id, limits, "lease_id");
                if (_leases.ContainsKey(id)) throw Refusals.Exists(NameOf(id));
            }

            var lease = new Lease(NameOf(id), ++_lastNumber, owner, ttl, time, Expire);
            _leases[id] = lease;
            return lease;
        }
    }

    /// <summary>Ends a lease, its name first, so that nobody finds it any more.</summary>
    public (int Vectors, long Pages) Close(Lease lease)
    {
        _leases.TryRemove(new KeyValuePair<string, Lease>(Names.LastSegment(lease.Name), lease));
        var released = lease.End(failure => log.LeaseReleaseFailed(lease.Name, failure));
        telemetry.CountReleased(released.Pages);
        return released;
    }

    /// <summary>The machine goes: every lease ends.</summary>
    public void CloseAll()
    {
        foreach (var lease in _leases.Values) Close(lease);
    }

    /// <summary>The refusal for a lease that is not open.</summary>
    public static Grpc.Core.RpcException Gone(string name) => Refusals.NotFound("LEASE", name);

    private string NameOf(string id) => Names.Child(machine, Names.Leases, id);

    private void Expire(Lease lease)
    {
        var (vectors, pages) = Close(lease);
        telemetry.CountExpired();
        log.LeaseExpired(lease.Name, lease.Owner, lease.Ttl.TotalSeconds, vectors, pages);
    }
}
