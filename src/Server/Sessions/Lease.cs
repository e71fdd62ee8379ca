using System.Diagnostics;
using FramePin.Server.Machines;

namespace FramePin.Server.Sessions;

/// <summary>
/// A client's life, and what it acquired in its name. Everything is released once, the latest first, when it ends.
/// </summary>
/// <remarks>
/// Any thread. What is released takes its own gate while the lease holds none of its locks:
/// <see cref="VectorRecord.Gate"/> comes before the lease's.
/// </remarks>
internal sealed class Lease : IDisposable
{
    private readonly Lock _lock = new();
    private readonly TimeProvider _time;
    private readonly Action<Lease> _expire;
    private readonly ITimer _timer;
    private readonly CancellationTokenSource _ended = new();
    private readonly Dictionary<(MachineHost Host, ulong Number), VectorRecord> _vectors = [];
    private readonly Dictionary<object, Action> _others = new(ReferenceEqualityComparer.Instance);
    private readonly List<object> _order = [];

    private long _heardOf;
    private bool _isEnded;

    public Lease(string id, string owner, TimeSpan ttl, TimeProvider time, Action<Lease> expire)
    {
        Id = id;
        Owner = owner;
        Ttl = ttl;
        _time = time;
        _expire = expire;
        OpenedAt = time.GetUtcNow();
        Trace = Activity.Current?.Context ?? default;
        Ended = _ended.Token;
        _heardOf = time.GetTimestamp();
        _timer = time.CreateTimer(static state => ((Lease)state!).Look(), this, ttl, Timeout.InfiniteTimeSpan);
    }

    /// <summary>Last segment of the name.</summary>
    public string Id { get; }

    /// <summary>Who it is, in the client's words.</summary>
    public string Owner { get; }

    public TimeSpan Ttl { get; }

    public DateTimeOffset OpenedAt { get; }

    /// <summary>The span that opened it.</summary>
    public ActivityContext Trace { get; }

    /// <summary>Cancelled when the lease ends: calls in its name are given up.</summary>
    public CancellationToken Ended { get; }

    /// <summary>Time until it ends unless something is heard of the client.</summary>
    public TimeSpan Left
    {
        get
        {
            var left = Ttl - _time.GetElapsedTime(Interlocked.Read(ref _heardOf));
            return left > TimeSpan.Zero ? left : TimeSpan.Zero;
        }
    }

    /// <summary>A sign of life. False: too late.</summary>
    public bool Renew()
    {
        lock (_lock)
        {
            if (_isEnded) return false;
            Interlocked.Exchange(ref _heardOf, _time.GetTimestamp());
            return true;
        }
    }

    /// <summary>Hangs a vector on the lease. False: it has ended, and the caller releases the vector itself.</summary>
    public bool TryAdd(MachineHost host, VectorRecord record)
    {
        lock (_lock)
        {
            if (_isEnded) return false;
            _vectors[(host, record.Number)] = record;
            return true;
        }
    }

    /// <summary>
    /// Hangs something else on the lease: <paramref name="release"/> runs at the end, before the vectors go, the latest
    /// first. False: the lease has ended, and the caller releases it itself.
    /// </summary>
    public bool TryAdd(object owned, Action release)
    {
        lock (_lock)
        {
            if (_isEnded) return false;
            _others.Add(owned, release);
            _order.Add(owned);
            return true;
        }
    }

    /// <summary>It was released by somebody else.</summary>
    public void Forget(object owned)
    {
        lock (_lock)
            if (_others.Remove(owned)) _order.Remove(owned);
    }

    /// <summary>The vector was released by somebody else.</summary>
    public void Forget(MachineHost host, VectorRecord record)
    {
        lock (_lock) _vectors.Remove((host, record.Number));
    }

    /// <summary>What hangs on it: vectors and the pages they hold.</summary>
    public (int Vectors, long Pages) Count()
    {
        lock (_lock) return (_vectors.Count, _vectors.Values.Sum(record => record.Vector.Count));
    }

    /// <summary>
    /// Ends the lease: nothing can be acquired from now on, what is under way is given up, what hangs on it is
    /// released. Only the first call does anything. A vector that a pin is filling is released by that pin, which sees
    /// the end.
    /// </summary>
    public (int Vectors, long Pages) End()
    {
        List<KeyValuePair<(MachineHost Host, ulong Number), VectorRecord>> held;
        List<Action> others;
        lock (_lock)
        {
            if (_isEnded) return default;
            _isEnded = true;
            held = [.. _vectors.OrderByDescending(pair => pair.Key.Number)];
            _vectors.Clear();
            others = [.. Enumerable.Reverse(_order).Select(owned => _others[owned])];
            _others.Clear();
            _order.Clear();
        }

        _timer.Dispose();
        _ended.Cancel();
        foreach (var release in others) release();
        var (vectors, pages) = (0, 0L);
        foreach (var ((host, _), record) in held)
        {
            try
            {
                if (!host.Release(record, dirty: false, out var frames)) continue;
                vectors++;
                pages += frames;
            }
            catch (ObjectDisposedException)
            {
                // Went with its machine, which was deleted before.
            }
        }

        return (vectors, pages);
    }

    public void Dispose()
    {
        _timer.Dispose();
        _ended.Dispose();
    }

    /// <summary>The timer is set once for a whole time to live: what was heard since moves it on.</summary>
    private void Look()
    {
        var left = Left;
        if (left > TimeSpan.Zero) _timer.Change(left, Timeout.InfiniteTimeSpan);
        else _expire(this);
    }
}
