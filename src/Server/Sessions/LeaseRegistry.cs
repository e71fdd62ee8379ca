using System.Collections.Concurrent;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.Server.Telemetry;

namespace FramePin.Server.Sessions;

/// <summary>The leases of all clients. Any thread.</summary>
internal sealed class LeaseRegistry(
    DaemonOptions options, ServerTelemetry telemetry, TimeProvider time, ILogger<LeaseRegistry> log)
    : IDisposable
{
    private readonly ConcurrentDictionary<string, Lease> _leases = new(StringComparer.Ordinal);
    private readonly Lock _naming = new();
    private int _nextName;

    /// <summary>Requests that open and close leases.</summary>
    public RequestLog Requests { get; } = new(options.Limits);

    public IEnumerable<Lease> All =>
        _leases.Values.OrderBy(lease => lease.OpenedAt).ThenBy(lease => lease.Id, StringComparer.Ordinal);

    public Lease Get(string id) => _leases.TryGetValue(id, out var lease) ? lease : throw Gone(id);

    /// <summary>The lease of a request's field; null when it is empty: the machine owns what is acquired.</summary>
    public Lease? Find(string name) => name.Length == 0 ? null : Get(Names.LeaseId(name, "lease"));

    public Lease Open(string wantedId, string owner, TimeSpan ttl)
    {
        var limits = options.Limits;
        if (owner.Length > limits.OwnerLengthMax)
            throw Refusals.Limit("owner_length_max", (ulong)limits.OwnerLengthMax, (ulong)owner.Length);
        if (ttl == TimeSpan.Zero) ttl = limits.LeaseTtlDefault;
        if (ttl < limits.LeaseTtlMin || ttl > limits.LeaseTtlMax)
            throw Refusals.Bad("ttl_ms",
                $"must be {limits.LeaseTtlMin.TotalMilliseconds:0} to {limits.LeaseTtlMax.TotalMilliseconds:0}");
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
                if (_leases.ContainsKey(id)) throw Refusals.Exists(Names.Lease(id));
            }

            var lease = new Lease(id, owner, ttl, time, Expire);
            _leases[id] = lease;
            return lease;
        }
    }

    /// <summary>Ends a lease, its name first, so that nobody finds it any more.</summary>
    public (int Vectors, long Pages) Close(Lease lease)
    {
        _leases.TryRemove(new KeyValuePair<string, Lease>(lease.Id, lease));
        var released = lease.End();
        telemetry.CountReleased(released.Pages);
        return released;
    }

    public static Grpc.Core.RpcException Gone(string id) => Refusals.NotFound("LEASE", Names.Lease(id));

    public void Dispose()
    {
        foreach (var lease in _leases.Values) lease.Dispose();
        _leases.Clear();
    }

    private void Expire(Lease lease)
    {
        var (vectors, pages) = Close(lease);
        telemetry.CountExpired();
        log.LeaseExpired(lease.Id, lease.Owner, lease.Ttl.TotalSeconds, vectors, pages);
    }
}
