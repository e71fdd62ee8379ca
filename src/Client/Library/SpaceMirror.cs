using FramePin.Client.Native;
using FramePin.V1;
using Grpc.Core;
using Microsoft.Win32.SafeHandles;

namespace FramePin.Client;

/// <summary>The range of a mirror: whose pages, from where on, and whether this process stores to them.</summary>
internal sealed record MirroredRange(string AddressSpace, ulong Start, ulong Length, bool IsWritable, string Lease)
{
    public ulong End => Start + Length;
}

/// <summary>
/// Pages of an address space in this process, at one place, kept as the space has them. Absent pages are populated and
/// shared ones made the space's own when they are mapped, so that a plain store needs no fault. Parts without a
/// mapping, or whose pages may not be touched, are memory of this process alone, which reads as zeroes.
/// </summary>
/// <remarks>
/// <para>
/// Any thread. Work on the bytes inside <see cref="Enter"/>, <see cref="EnterAsync"/> or <see cref="TryEnter"/>. A call
/// that takes memory away (munmap, fork and their like) waits until nobody is inside. An entry waits until the call is
/// over and the pages are mapped anew, as with mmu_interval_read_begin.
/// </para>
/// <para>
/// A visitor that stays longer than the daemon's watch_patience_max loses its stores of the time beyond. A visitor
/// that itself makes a call that takes the range away waits for that time in vain. Memory that is mapped anew appears
/// a moment after the call that maps it. Pages that can be touched only since the last change appear with the next
/// one: a stack that has grown, pages behind the old end of a file that has grown, and pages under a guard that was
/// removed.
/// </para>
/// <para>Owns its mapping and the frames that are held for it.</para>
/// </remarks>
public sealed partial class SpaceMirror : IAsyncDisposable
{
    private const ulong MostPagesAtOnce = 16_384;
    private const ulong PageSize = 4096;
    private const int MostTries = 20;
    private const int MostMisses = 16;
    private const string OutOfMemory = "SIGKILL";
    private static readonly TimeSpan Pause = TimeSpan.FromMilliseconds(100);

    private readonly FramePinClient _client;
    private readonly string _attachment;
    private readonly SafeFileHandle _memory;
    private readonly MirroredRange _range;
    private readonly TimeProvider _time;
    private readonly LocalMapping _mapping;
    private readonly CancellationTokenSource _stop = new();
    private readonly TaskCompletionSource _ready = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private readonly MirrorGate _gate = new();
    private readonly List<ulong> _holds = [];

    /// <summary>
    /// Pages that could not be touched since the last change that others made. The remap alone uses it.
    /// </summary>
    private readonly SortedSet<ulong> _untouchable = [];
    private List<(ulong Start, ulong End)> _mapped = [];
    private Task _following = Task.CompletedTask;

    private SpaceMirror(
        FramePinClient client, string attachment, SafeFileHandle memory, MirroredRange range, TimeProvider time)
    {
        _client = client;
        _attachment = attachment;
        _memory = memory;
        _range = range;
        _time = time;
        _mapping = LocalMapping.Reserve(range.Length);
    }

    /// <summary>Bytes.</summary>
    public ulong Length => _range.Length;

    /// <summary>Times the pages were mapped, the first included.</summary>
    public int Remaps { get; private set; }

    internal static async Task<SpaceMirror> CreateAsync(
        FramePinClient client, string attachment, SafeFileHandle memory, MirroredRange range, TimeProvider time,
        CancellationToken cancellationToken)
    {
        var mirror = new SpaceMirror(client, attachment, memory, range, time);
        mirror._following = mirror.FollowAsync();
        try
        {
            await mirror._ready.Task.WaitAsync(cancellationToken).ConfigureAwait(false);
            return mirror;
        }
        catch
        {
            await mirror.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>
    /// Goes inside: until the view is disposed the bytes are the space's own. Blocks the thread while the range
    /// changes. Allocates nothing.
    /// </summary>
    /// <exception cref="InvalidOperationException">
    /// The address space has exited or the daemon is lost; the message tells which.
    /// </exception>
    public View Enter()
    {
        _gate.Enter();
        return new View(this);
    }

    /// <summary>Goes inside, or returns false while the range changes. Does not wait, and allocates nothing.</summary>
    /// <param name="view">The view, which the caller disposes when the method returned true.</param>
    /// <exception cref="InvalidOperationException">
    /// The address space has exited or the daemon is lost; the message tells which.
    /// </exception>
    public bool TryEnter(out View view)
    {
        var isInside = _gate.TryEnter();
        view = isInside ? new View(this) : default;
        return isInside;
    }

    /// <summary>
    /// Goes inside. Waits without blocking a thread while the range changes. The visit may span awaits, and every await
    /// in it makes the calls that take the range away wait longer.
    /// </summary>
    /// <param name="cancellationToken">Gives the waiting up.</param>
    /// <exception cref="InvalidOperationException">
    /// The address space has exited or the daemon is lost; the message tells which.
    /// </exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancellationToken"/> was signalled.</exception>
    public async ValueTask<Visit> EnterAsync(CancellationToken cancellationToken = default)
    {
        await _gate.EnterAsync(cancellationToken).ConfigureAwait(false);
        return new Visit(this);
    }

    /// <summary>
    /// Ends the mirror when nobody is inside, and gives its frames back. The bytes are not to be used afterwards.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        if (_stop.IsCancellationRequested) return;
        await _stop.CancelAsync().ConfigureAwait(false);
        await _following.ConfigureAwait(false);
        await _gate.CloseAsync().ConfigureAwait(false);
        _gate.Fail("the mirror was disposed");
        _mapping.Dispose();
        await ReleaseAsync([.. _holds]).ConfigureAwait(false);
        _stop.Dispose();
    }

    /// <summary>Watches the range for as long as the mirror lives, over broken connections.</summary>
    private async Task FollowAsync()
    {
        var tries = 0;
        while (true)
        {
            try
            {
                using var watch = _client.Watches.WatchInvalidations(cancellationToken: _stop.Token);
                await FollowAsync(watch, () => tries = 0).ConfigureAwait(false);
            }
            catch (RpcException exception) when (exception.StatusCode is StatusCode.NotFound
                or StatusCode.InvalidArgument or StatusCode.ResourceExhausted)
            {
                // The address space, the attachment or the lease is gone, or it cannot be watched.
                var refusal = FramePinException.From(exception);
                _gate.Fail(refusal.Message);
                _ready.TrySetException(refusal);
                return;
            }
            catch (Exception exception) when (exception is RpcException or OperationCanceledException
                or InvalidOperationException or IOException)
            {
                if (_stop.IsCancellationRequested) return;
                // The watch was fenced, or the connection broke: changes go unseen until the range is watched anew.
                await _gate.CloseAsync().ConfigureAwait(false);
                if (++tries < MostTries)
                {
                    await Task.Delay(Pause, _time, _stop.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
                    continue;
                }

                _gate.Fail($"the daemon cannot be reached: {exception.Message}");
                _ready.TrySetException(exception is RpcException lost ? FramePinException.From(lost) : exception);
                return;
            }

            if (_stop.IsCancellationRequested) return;
        }
    }

    private async Task FollowAsync(AsyncDuplexStreamingCall<WatchRequest, InvalidationEvent> watch, Action opened)
    {
        var open = new OpenWatch
        {
            AddressSpace = _range.AddressSpace,
            Start = _range.Start,
            Length = _range.Length,
            Lease = _range.Lease
        };
        await watch.RequestStream.WriteAsync(new WatchRequest { Open = open }, _stop.Token).ConfigureAwait(false);
        var state = new MirrorChanges();
        var next = watch.ResponseStream.MoveNext(_stop.Token);
        try
        {
            while (true)
            {
                // Events are read during a remap too: its stores may unshare pages, and the daemon announces that.
                await Task.WhenAny(next, state.Remap ?? next).ConfigureAwait(false);
                if (state.Remap is { IsCompleted: true } remapped)
                {
                    state.Remap = null;
                    await remapped.ConfigureAwait(false);
                    if (state.IsSettled)
                    {
                        _gate.Open();
                        _ready.TrySetResult();
                    }
                }

                if (next.IsCompleted)
                {
                    // The daemon ended the stream in order: it is shutting down.
                    if (!await next.ConfigureAwait(false))
                        throw new InvalidOperationException("the watch has ended");
                    await HandleAsync(watch, state, opened).ConfigureAwait(false);
                    next = watch.ResponseStream.MoveNext(_stop.Token);
                }

                if (!state.NeedsRemap) continue;
                await _gate.CloseAsync().ConfigureAwait(false);
                state.Remapped = state.Count;
                if (state.Forgets) _untouchable.Clear();
                state.Forgets = false;
                state.Remap = RemapAsync();
            }
        }
        finally
        {
            // The remap uses the list of holds, which the next attempt and the end use after it.
            if (state.Remap is { } running) await running.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    /// <summary>Takes an event. Nobody is inside when a change is acknowledged.</summary>
    private async Task HandleAsync(
        AsyncDuplexStreamingCall<WatchRequest, InvalidationEvent> watch, MirrorChanges state, Action opened)
    {
        var happened = watch.ResponseStream.Current;
        if (happened.Kind == InvalidationKind.Progress) return;
        state.Count++;
        // A remap's own stores unshare pages. Every other change may make a page touchable.
        state.Forgets |= happened.Cause != InvalidationCause.Unshare;
        switch (happened.Kind)
        {
            case InvalidationKind.Start:
                state.UnderWay++;
                await _gate.CloseAsync().ConfigureAwait(false);
                await watch.RequestStream.WriteAsync(
                    new WatchRequest { Acknowledge = happened.Revision }, _stop.Token).ConfigureAwait(false);
                break;
            case InvalidationKind.End:
                state.UnderWay--;
                break;
            case InvalidationKind.Opened:
                opened();
                break;
        }
    }

    /// <summary>Maps the pages that the space has there now. The old frames are given back afterwards.</summary>
    private async Task RemapAsync()
    {
        var old = _holds.ToList();
        var maps = await _client.AddressSpaces.GetMapsAsync(
            new GetMapsRequest { AddressSpace = _range.AddressSpace }, cancellationToken: _stop.Token)
            .ConfigureAwait(false);
        var mapped = new List<(ulong Start, ulong End)>();
        foreach (var area in maps.Entries)
        {
            var (at, end) = (Math.Max(area.Start, _range.Start), Math.Min(area.End, _range.End));
            var isWritable = _range.IsWritable && area.Permissions.Length > 1 && area.Permissions[1] == 'w';
            var misses = 0;
            while (at < end && misses < MostMisses)
            {
                var pages = Math.Min((end - at) / PageSize, MostPagesAtOnce);
                var (done, isWhole) = await MapAsync(at, pages, isWritable).ConfigureAwait(false);
                if (done > 0) mapped.Add((at, at + (done * PageSize)));
                at += done * PageSize;
                if (done > 0) misses = 0;
                if (isWhole) continue;
                // One page that cannot be touched, such as a guard, is left out. Many in a row lie behind a file's end.
                at += PageSize;
                misses++;
            }
        }

        var hole = _range.Start;
        foreach (var (start, end) in mapped)
        {
            _mapping.Clear(hole - _range.Start, start - hole);
            hole = end;
        }

        _mapping.Clear(hole - _range.Start, _range.End - hole);
        _mapped = mapped;
        Remaps++;
        _holds.RemoveRange(0, old.Count);
        await ReleaseAsync(old).ConfigureAwait(false);
    }

    /// <summary>Maps pages up to the first that cannot be touched.</summary>
    private async Task<(ulong Done, bool IsWhole)> MapAsync(ulong at, ulong pages, bool isWritable)
    {
        var asked = pages;
        // The daemon announces the pages that a whole call would take. A call that fails anew would never settle.
        var known = _untouchable.GetViewBetween(at, at + ((pages - 1) * PageSize));
        if (known.Count > 0) pages = (known.Min - at) / PageSize;
        while (pages > 0)
        {
            try
            {
                var request = new MapSpaceRequest
                {
                    Attachment = _attachment,
                    AddressSpace = _range.AddressSpace,
                    Start = at,
                    Pages = pages,
                    Write = isWritable
                };
                var held = await _client.Memory.MapSpaceAsync(
                    request, cancellationToken: _stop.Token).ConfigureAwait(false);
                _holds.Add(held.Hold);
                _mapping.Put(_memory, at - _range.Start, held.Runs, isWritable);
                return (pages, pages == asked);
            }
            catch (RpcException exception) when (exception.StatusCode == StatusCode.FailedPrecondition)
            {
                var refusal = FramePinException.From(exception);
                // Out of memory says nothing about the page: the range is watched anew and mapped again.
                if (refusal.Address is not { } upTo || refusal.Reason == OutOfMemory) throw;
                if (upTo < at || upTo >= at + (pages * PageSize)) throw;
                _untouchable.Add(upTo & ~(PageSize - 1));
                pages = (upTo - at) / PageSize;
            }
        }

        return (0, false);
    }

    private async Task ReleaseAsync(List<ulong> holds)
    {
        foreach (var hold in holds)
        {
            try
            {
                await _client.Memory.UnmapFramesAsync(
                    new UnmapFramesRequest { Attachment = _attachment, Hold = hold }).ConfigureAwait(false);
            }
            catch (RpcException)
            {
                // The attachment has ended, and with it what was held.
            }
        }
    }

    /// <summary>The page that holds the byte at <paramref name="offset"/> is the space's own.</summary>
    private bool IsMapped(ulong offset)
    {
        var address = _range.Start + offset;
        return _mapped.Exists(part => address >= part.Start && address < part.End);
    }
}
