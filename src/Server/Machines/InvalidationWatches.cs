using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.V1;
using AddressSpace = FramePin.Core.Vmas.AddressSpace;

namespace FramePin.Server.Machines;

/// <summary>
/// The watches of a machine (include/linux/mmu_notifier.h). An invalidation is announced to the watches that it
/// concerns. It runs when they have acknowledged it or their patience is over. Then they are told its end.
/// </summary>
/// <remarks>
/// Any thread. No lock is held while somebody is waited for. Counts and remembers from the first watch on; a machine
/// that nobody watches pays one look at a list. Calls through gRPC are announced; what a fault changes (a copy made by
/// a store, reclaim by a pin) is not.
/// </remarks>
internal sealed class InvalidationWatches(DaemonLimits limits, TimeProvider time)
{
    private readonly Lock _lock = new();
    private readonly List<InvalidationWatch> _watches = [];
    private readonly Queue<(ulong Revision, AddressSpace Space, AddressRange Range,
        TakeCause Cause)> _history = new();
    private ulong _revision;
    private bool _isUsed;

    /// <summary>
    /// Watches a range. Events after <paramref name="resumeAfter"/> are told first, when that is not 0.
    /// </summary>
    public InvalidationWatch Open(AddressSpace space, AddressRange range, TimeSpan patience, ulong resumeAfter)
    {
        var watch = new InvalidationWatch(space, range, patience, limits.WatchEventsMax);
        lock (_lock)
        {
            if (_watches.Count >= limits.WatchesMax)
                throw Refusals.Limit("watches_max", (ulong)limits.WatchesMax, (ulong)_watches.Count + 1);
            if (resumeAfter > _revision)
                throw Refusals.Bad(
                    "open.resume_after", $"revision {resumeAfter} has not been: the last is {_revision}");
            _isUsed = true;
            _watches.Add(watch);
            watch.Tell(
                new InvalidationEvent
                {
                    Kind = InvalidationKind.Opened,
                    Revision = resumeAfter > 0
                    ? resumeAfter
                    : _revision
                });
            if (resumeAfter > 0) TellMissed(watch, resumeAfter);
        }

        return watch;
    }

    /// <summary>The subscriber is gone.</summary>
    public void Close(InvalidationWatch watch)
    {
        lock (_lock) _watches.Remove(watch);
        watch.Dispose();
    }

    /// <summary>The present revision, for a subscriber that has heard nothing for a while.</summary>
    public InvalidationEvent Progress()
    {
        lock (_lock) return new InvalidationEvent { Kind = InvalidationKind.Progress, Revision = _revision };
    }

    /// <summary>
    /// Announces that memory of <paramref name="ranges"/> is about to go, waits for those whom it concerns, runs
    /// <paramref name="call"/>, and tells that it is over, also when the call throws.
    /// </summary>
    public async Task<T> RunAsync<T>(
        IReadOnlyList<(AddressSpace Space, AddressRange Range)> ranges, TakeCause cause, Func<T> call)
    {
        if (ranges.Count == 0 || !Volatile.Read(ref _isUsed)) return call();
        var told = new List<(InvalidationWatch Watch, InvalidationEvent Event)>();
        lock (_lock)
            foreach (var (space, range) in ranges) Note(space, range, cause, told);
        if (told.Count > 0) await Task.WhenAll(told.Select(AskAsync)).ConfigureAwait(false);
        try
        {
            return call();
        }
        finally
        {
            foreach (var (watch, happened) in told)
            {
                var end = happened.Clone();
                end.Kind = InvalidationKind.End;
                watch.Tell(end);
            }
        }
    }

    private void Note(
        AddressSpace space, AddressRange range, TakeCause cause,
        List<(InvalidationWatch Watch, InvalidationEvent Event)> told)
    {
        _revision++;
        _history.Enqueue((_revision, space, range, cause));
        if (_history.Count > limits.WatchHistoryMax) _history.Dequeue();
        foreach (var watch in _watches)
            if (Describe(watch, _revision, space, range, cause, InvalidationKind.Start) is { } happened)
                told.Add((watch, happened));
    }

    private async Task AskAsync((InvalidationWatch Watch, InvalidationEvent Event) one)
    {
        try
        {
            await one.Watch.Announce(one.Event).WaitAsync(one.Watch.Patience, time).ConfigureAwait(false);
        }
        catch (TimeoutException)
        {
            one.Watch.Fence();
        }
    }

    private void TellMissed(InvalidationWatch watch, ulong after)
    {
        if (_history.Count > 0 && _history.Peek().Revision > after + 1)
            watch.Tell(
                new InvalidationEvent { Kind = InvalidationKind.Dropped, Revision = _history.Peek().Revision - 1 });
        foreach (var (revision, space, range, cause) in _history)
        {
            if (revision <= after) continue;
            if (Describe(watch, revision, space, range, cause, InvalidationKind.Missed) is { } happened)
                watch.Tell(happened);
        }
    }

    private static InvalidationEvent? Describe(
        InvalidationWatch watch, ulong revision, AddressSpace space, AddressRange range, TakeCause cause,
        InvalidationKind kind)
    {
        var start = Math.Max(watch.Range.Start, range.Start);
        var end = Math.Min(watch.Range.End, range.End);
        if (watch.Space != space || start >= end) return null;
        return new InvalidationEvent
        {
            Kind = kind,
            Revision = revision,
            Cause = WireEnums.ToWire(cause),
            Start = start,
            Length = end - start
        };
    }
}
