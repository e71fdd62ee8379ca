using System.Diagnostics;

namespace FramePin.Server.Sessions;

/// <summary>
/// A client's life, and the things that the client acquired in its name. The lease gives everything back once, when it
/// ends.
/// </summary>
/// <remarks>
/// Any thread. Lock order: the gate of a leased thing, then the lease. The lease reads pages and gives things back
/// without its lock.
/// </remarks>
internal sealed class Lease : IDisposable
{
    private readonly Lock _lock = new();
    private readonly TimeProvider _time;
    private readonly Action<Lease> _expire;
    private readonly ITimer _timer;
    private readonly CancellationTokenSource _ended = new();

    /// <summary>Each thing with its place in the order of arrival. Guarded by <see cref="_lock"/>.</summary>
    private readonly Dictionary<ILeased, long> _held = new(ReferenceEqualityComparer.Instance);

    /// <summary>Things that have arrived so far. Guarded by <see cref="_lock"/>.</summary>
    private long _arrived;

    /// <summary>Timestamp of the last sign of life. Read and written atomically.</summary>
    private long _heardOf;

    /// <summary>Guarded by <see cref="_lock"/>.</summary>
    private bool _isEnded;

    /// <param name="name">Full name.</param>
    /// <param name="number">Its place in the order in which the machine's leases were opened.</param>
    /// <param name="owner">Name that the client gave itself.</param>
    /// <param name="ttl">Time to live.</param>
    /// <param name="time">The clock.</param>
    /// <param name="expire">Called when nothing was heard of the client for that time.</param>
    public Lease(string name, ulong number, string owner, TimeSpan ttl, TimeProvider time, Action<Lease> expire)
    {
        Name = name;
        Number = number;
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

    /// <summary>"machines/{machine}/leases/{lease}".</summary>
    public string Name { get; }

    /// <summary>Its place in the order in which the machine's leases were opened.</summary>
    public ulong Number { get; }

    /// <summary>Name that the client gave itself.</summary>
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

    /// <summary>Hangs a thing on the lease. False: the lease has ended, and the caller gives the thing back.</summary>
    public bool TryAdd(ILeased thing)
    {
        lock (_lock)
        {
            if (_isEnded) return false;
            _held.Add(thing, ++_arrived);
            return true;
        }
    }

    /// <summary>Takes a thing off the lease, since another thread has given it back.</summary>
    public void Forget(ILeased thing)
    {
        lock (_lock) _held.Remove(thing);
    }

    /// <summary>Vectors that hang on the lease, and the pages that they hold.</summary>
    public (int Vectors, long Pages) Count()
    {
        List<ILeased> vectors;
        lock (_lock) vectors = [.. _held.Keys.Where(thing => thing.IsVector)];
        return (vectors.Count, vectors.Sum(vector => vector.Pages));
    }

    /// <summary>
    /// Ends the lease: nothing can be acquired from now on, calls under way are given up, and everything that hangs on
    /// the lease is given back: vectors last, and the latest first. Only the first call does anything. A vector that a
    /// pin is filling stays: the pin sees the end and gives the vector back.
    /// </summary>
    /// <param name="failed">
    /// Told of each thing, and of a call under way, that met an exception. The others are given back all the same.
    /// </param>
    /// <returns>Vectors that were given back, and the pages that they held.</returns>
    public (int Vectors, long Pages) End(Action<Exception> failed)
    {
        List<ILeased> held;
        lock (_lock)
        {
            if (_isEnded) return default;
            _isEnded = true;
            held = [.. _held.OrderBy(pair => pair.Key.IsVector).ThenByDescending(pair => pair.Value)
                .Select(pair => pair.Key)];
            _held.Clear();
        }

        _timer.Dispose();
        var (vectors, pages) = (0, 0L);
#pragma warning disable CA1031 // The caller may be a timer: an exception would end the daemon.
        try
        {
            _ended.Cancel();
        }
        catch (Exception exception)
        {
            failed(exception);
        }

        foreach (var thing in held)
            try
            {
                if (!thing.Release(out var given) || !thing.IsVector) continue;
                vectors++;
                pages += given;
            }
            catch (Exception exception)
            {
                failed(exception);
            }
#pragma warning restore CA1031
        return (vectors, pages);
    }

    public void Dispose()
    {
        _timer.Dispose();
        _ended.Dispose();
    }

    /// <summary>
    /// The timer runs out after a whole time to live, and is set again when a sign of life came since.
    /// </summary>
    private void Look()
    {
        var left = Left;
        if (left > TimeSpan.Zero) _timer.Change(left, Timeout.InfiniteTimeSpan);
        else _expire(this);
    }
}
