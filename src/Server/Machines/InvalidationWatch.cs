using System.Threading.Channels;
using FramePin.Core.Addressing;
using FramePin.V1;

namespace FramePin.Server.Machines;

/// <summary>
/// A subscriber's range, the events on their way to it, and the acknowledgements that calls wait for.
/// </summary>
/// <remarks>Any thread.</remarks>
internal sealed class InvalidationWatch(SpaceId space, AddressRange range, TimeSpan patience, int eventsMax)
    : IDisposable
{
    private readonly Channel<InvalidationEvent> _events = Channel.CreateBounded<InvalidationEvent>(eventsMax);
    private readonly Lock _lock = new();
    private readonly Dictionary<ulong, TaskCompletionSource> _unacknowledged = [];
    private readonly CancellationTokenSource _fenced = new();

    public SpaceId Space { get; } = space;

    /// <summary>Bytes.</summary>
    public AddressRange Range { get; } = range;

    /// <summary>How long a call waits for an acknowledgement.</summary>
    public TimeSpan Patience { get; } = patience;

    public ChannelReader<InvalidationEvent> Events => _events.Reader;

    /// <summary>Cancelled when the subscriber was too slow: nothing waits for it any more.</summary>
    public CancellationToken Fenced => _fenced.Token;

    /// <summary>Tells an event. A subscriber that does not read is fenced.</summary>
    public void Tell(InvalidationEvent happened)
    {
        if (!_events.Writer.TryWrite(happened)) Fence();
    }

    /// <summary>Tells that a call is about to run; completed by the acknowledgement, or when the watch ends.</summary>
    public Task Announce(InvalidationEvent start)
    {
        var acknowledged = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_lock)
        {
            if (_fenced.IsCancellationRequested) return Task.CompletedTask;
            _unacknowledged.Add(start.Revision, acknowledged);
        }

        Tell(start);
        return acknowledged.Task;
    }

    /// <summary>False for a revision that nobody waits for.</summary>
    public bool Acknowledge(ulong revision)
    {
        TaskCompletionSource? waiting;
        lock (_lock) _unacknowledged.Remove(revision, out waiting);
        waiting?.TrySetResult();
        return waiting is not null;
    }

    /// <summary>Nothing waits for the subscriber any more.</summary>
    public void Fence()
    {
        List<TaskCompletionSource> waiting;
        lock (_lock)
        {
            if (_fenced.IsCancellationRequested) return;
            // The stream's end runs on another thread: the lock of the watches may be held here.
            _ = _fenced.CancelAsync();
            waiting = [.. _unacknowledged.Values];
            _unacknowledged.Clear();
        }

        foreach (var one in waiting) one.TrySetResult();
    }

    /// <summary>Nothing waits any more. The source of the token has no timer and no handle to give back.</summary>
    public void Dispose() => Fence();
}
