using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.V1;
using Machine = FramePin.Core.Machines.Machine;

namespace FramePin.Server.Machines;

/// <summary>Runs a command if it takes away no more than was announced.</summary>
/// <param name="announced">Ranges whose watches have agreed.</param>
/// <param name="result">The answer, if the command ran.</param>
/// <param name="missing">Ranges that must be announced before it can run.</param>
/// <returns>False: nothing was changed.</returns>
internal delegate bool Attempt<T>(
    AnnouncedRanges announced, out T result, out IReadOnlyList<TakenRange> missing);

/// <summary>
/// The watches of a machine (include/linux/mmu_notifier.h). An invalidation is announced to the watches that it
/// concerns. It runs when they have acknowledged it or their patience is over. Then they are told its end.
/// </summary>
/// <remarks>
/// Any thread. No lock is held during a wait. Counts and remembers from the first watch on. Lock order: the lock of the
/// watches, then that of one watch; the machine's turn is taken under neither.
/// </remarks>
internal sealed class InvalidationWatches(Machine machine, DaemonLimits limits, TimeProvider time)
{
    /// <summary>Pieces of one command that are announced one by one.</summary>
    private const int MostPieces = 16;

    private readonly Lock _lock = new();
    private readonly List<InvalidationWatch> _watches = [];
    private readonly Queue<(ulong Revision, TakenRange Range)> _history = new();
    private readonly List<Invalidation> _underWay = [];
    private ulong _revision;

    /// <summary>Watches. Written under the lock, and read without it.</summary>
    private int _open;

    /// <summary>
    /// Watches a range. Events after <paramref name="resumeAfter"/> are told first, when that is not 0. The START of an
    /// invalidation that is under way comes next; the invalidation does not wait for its acknowledgement.
    /// </summary>
    public InvalidationWatch Open(SpaceId space, AddressRange range, TimeSpan patience, ulong resumeAfter)
    {
        machine.Watch();
        var watch = new InvalidationWatch(space, range, patience, limits.WatchEventsMax);
        lock (_lock)
        {
            if (_watches.Count >= limits.WatchesMax)
                throw Refusals.Limit("watches_max", (ulong)limits.WatchesMax, (ulong)_watches.Count + 1);
            if (resumeAfter > _revision)
                throw Refusals.Bad(
                    "open.resume_after", $"revision {resumeAfter} has not been: the last is {_revision}");
            _watches.Add(watch);
            _open = _watches.Count;
            var opened = new InvalidationEvent { Kind = InvalidationKind.Opened };
            opened.Revision = resumeAfter > 0 ? resumeAfter : _revision;
            watch.Tell(opened);
            if (resumeAfter > 0) TellMissed(watch, resumeAfter);
            foreach (var invalidation in _underWay)
                if (invalidation.Tell(watch) is { } start) watch.Tell(start);
        }

        return watch;
    }

    /// <summary>The subscriber is gone.</summary>
    public void Close(InvalidationWatch watch)
    {
        lock (_lock)
        {
            _watches.Remove(watch);
            _open = _watches.Count;
        }

        watch.Dispose();
    }

    /// <summary>The present revision, for a subscriber that has heard nothing for a while.</summary>
    public InvalidationEvent Progress()
    {
        lock (_lock) return new InvalidationEvent { Kind = InvalidationKind.Progress, Revision = _revision };
    }

    /// <summary>
    /// Runs a command. Before it takes a range away, the watches of the range have agreed or are fenced; they are told
    /// when it is over, also when it throws. A range that becomes known only while others are asked is announced next.
    /// </summary>
    /// <param name="missing">Ranges to announce before the first attempt.</param>
    /// <param name="attempt">Runs the command.</param>
    public async ValueTask<T> RunAsync<T>(IReadOnlyList<TakenRange> missing, Attempt<T> attempt)
    {
        var announced = new AnnouncedRanges();
        var own = new List<Invalidation>();
        try
        {
            while (true)
            {
                await AnnounceAsync(missing, own).ConfigureAwait(false);
                announced.Add(missing);
                if (attempt(announced, out var result, out missing)) return result;
            }
        }
        finally
        {
            End(own);
        }
    }

    /// <summary>There is a watch, which wants to be told of mapped memory.</summary>
    public bool IsWatched => Volatile.Read(ref _open) > 0;

    /// <summary>Memory was mapped in a range. Nothing waits for the watches.</summary>
    public void TellMapped(SpaceId space, AddressRange range)
    {
        if (!IsWatched || range.IsEmpty) return;
        lock (_lock)
            foreach (var watch in _watches)
                if (Describe(watch, _revision, space, range, InvalidationKind.Mapped) is { } happened)
                    watch.Tell(happened);
    }

    private async Task AnnounceAsync(IReadOnlyList<TakenRange> ranges, List<Invalidation> own)
    {
        var asked = new List<Task>();
        lock (_lock)
            foreach (var range in Joined(ranges))
            {
                var invalidation = new Invalidation(++_revision, range);
                _history.Enqueue((_revision, range));
                if (_history.Count > limits.WatchHistoryMax) _history.Dequeue();
                own.Add(invalidation);
                _underWay.Add(invalidation);
                foreach (var watch in _watches)
                    if (invalidation.Tell(watch) is { } start) asked.Add(AskAsync(watch, start));
            }

        if (asked.Count > 0) await Task.WhenAll(asked).ConfigureAwait(false);
    }

    private void End(List<Invalidation> own)
    {
        lock (_lock)
            foreach (var invalidation in own)
            {
                _underWay.Remove(invalidation);
                foreach (var (watch, start) in invalidation.Told)
                {
                    var end = start.Clone();
                    end.Kind = InvalidationKind.End;
                    watch.Tell(end);
                }
            }
    }

    /// <summary>
    /// The ranges of one cause in one address space, joined where they touch. Many pieces become the range around them.
    /// </summary>
    private static IEnumerable<TakenRange> Joined(IReadOnlyList<TakenRange> ranges)
    {
        foreach (var group in ranges.GroupBy(range => (range.Space, range.Cause)))
        {
            var joined = AnnouncedRanges.Join(group.Select(one => one.Range));
            if (joined.Count > MostPieces) joined = [new AddressRange(joined[0].Start, joined[^1].End)];
            foreach (var range in joined) yield return new TakenRange(group.Key.Space, range, group.Key.Cause);
        }
    }

    /// <summary>Announces to one watch, and waits until it has acknowledged or its patience is over.</summary>
    private Task AskAsync(InvalidationWatch watch, InvalidationEvent start)
    {
        var acknowledged = watch.Announce(start);
        return acknowledged.IsCompleted ? Task.CompletedTask : WaitAsync(watch, acknowledged);
    }

    private async Task WaitAsync(InvalidationWatch watch, Task acknowledged)
    {
        try
        {
            await acknowledged.WaitAsync(watch.Patience, time).ConfigureAwait(false);
        }
        catch (TimeoutException)
        {
            watch.Fence();
        }
    }

    private void TellMissed(InvalidationWatch watch, ulong after)
    {
        if (_history.Count > 0 && _history.Peek().Revision > after + 1)
            watch.Tell(
                new InvalidationEvent { Kind = InvalidationKind.Dropped, Revision = _history.Peek().Revision - 1 });
        foreach (var (revision, range) in _history)
        {
            if (revision <= after) continue;
            var missed = Describe(watch, revision, range.Space, range.Range, InvalidationKind.Missed);
            if (missed is not { } happened) continue;
            happened.Cause = WireEnums.ToWire(range.Cause);
            watch.Tell(happened);
        }
    }

    private static InvalidationEvent? Describe(
        InvalidationWatch watch, ulong revision, SpaceId space, AddressRange range, InvalidationKind kind)
    {
        var start = Math.Max(watch.Range.Start, range.Start);
        var end = Math.Min(watch.Range.End, range.End);
        if (watch.Space != space || start >= end) return null;
        return new InvalidationEvent
        {
            Kind = kind,
            Revision = revision,
            Start = start,
            Length = end - start,
        };
    }

    /// <summary>A range on its way out, and the watches that are told its end. Under the lock.</summary>
    private sealed class Invalidation(ulong revision, TakenRange range)
    {
        public List<(InvalidationWatch Watch, InvalidationEvent Start)> Told { get; } = [];

        /// <summary>The START for a watch that it concerns; null for another watch.</summary>
        public InvalidationEvent? Tell(InvalidationWatch watch)
        {
            var announced = Describe(watch, revision, range.Space, range.Range, InvalidationKind.Start);
            if (announced is not { } start) return null;
            start.Cause = WireEnums.ToWire(range.Cause);
            Told.Add((watch, start));
            return start;
        }
    }
}
