using System.Globalization;
using FramePin.Client.Native;
using FramePin.V1;
using Grpc.Core;
using Microsoft.Win32.SafeHandles;

namespace FramePin.Client;

/// <summary>What a mirror shows: whose pages, from where on, and whether this process stores to them.</summary>
internal sealed record MirroredRange(string AddressSpace, ulong Start, ulong Length, bool IsWritable, string Lease)
{
    public ulong End => Start + Length;
}

/// <summary>
/// Pages of an address space in this process, at one place, kept as the space has them. Absent pages are populated and
/// shared ones made the space's own when they are mapped, so that a plain store needs no fault. Where nothing is
/// mapped, or nothing that may be touched, there is memory of this process alone, which reads as zeroes.
/// </summary>
/// <remarks>
/// Any thread. Work on the bytes inside <see cref="Enter"/>: a call that takes memory away (munmap, fork …) waits until
/// nobody is inside, and who enters waits until it is over and the pages are mapped anew, as with
/// mmu_interval_read_begin. Who stays inside longer than the daemon's watch_patience_max loses what it stores
/// meanwhile; who itself calls something inside that takes the range away waits as long in vain. Copies that a store
/// through another mapping makes and migration for a long-term pin are not announced. Owns its mapping and what is held
/// for it.
/// </remarks>
public sealed class SpaceMirror : IAsyncDisposable
{
    private const ulong MostPagesAtOnce = 16_384;
    private const ulong PageSize = 4096;
    private const int MostTries = 20;
    private static readonly TimeSpan Pause = TimeSpan.FromMilliseconds(100);

    private readonly FramePinClient _client;
    private readonly string _attachment;
    private readonly SafeFileHandle _memory;
    private readonly MirroredRange _range;
    private readonly TimeProvider _time;
    private readonly LocalMapping _mapping;
    private readonly CancellationTokenSource _stop = new();
    private readonly TaskCompletionSource _ready = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Guards who is inside; a monitor, since who enters waits.</summary>
    private readonly object _gate = new();
    private readonly List<ulong> _holds = [];
    private List<(ulong Start, ulong End)> _mapped = [];
    private TaskCompletionSource? _left;
    private Task _following = Task.CompletedTask;
    private int _users;
    private bool _isChanging = true;
    private string? _failure;

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
        CancellationToken cancelled)
    {
        var mirror = new SpaceMirror(client, attachment, memory, range, time);
        mirror._following = mirror.FollowAsync();
        try
        {
            await mirror._ready.Task.WaitAsync(cancelled).ConfigureAwait(false);
            return mirror;
        }
        catch
        {
            await mirror.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>
    /// Goes inside: until the view is disposed the bytes are the space's own. Waits while the range changes. Throws
    /// <see cref="InvalidOperationException"/> when the address space has exited or the daemon is lost, and says so.
    /// </summary>
    public View Enter()
    {
        lock (_gate)
        {
            while (_isChanging && _failure is null) Monitor.Wait(_gate);
            if (_failure is not null) throw new InvalidOperationException(_failure);
            _users++;
        }

        return new View(this);
    }

    /// <summary>Ends it when nobody is inside: the bytes are not to be used afterwards.</summary>
    public async ValueTask DisposeAsync()
    {
        if (_stop.IsCancellationRequested) return;
        await _stop.CancelAsync().ConfigureAwait(false);
        await _following.ConfigureAwait(false);
        await CloseAsync().ConfigureAwait(false);
        Fail("the mirror was disposed");
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
                Fail(FramePinException.From(exception).Message);
                _ready.TrySetException(exception);
                return;
            }
            catch (Exception exception) when (exception is RpcException or OperationCanceledException
                or InvalidOperationException or IOException)
            {
                if (_stop.IsCancellationRequested) return;
                // Fenced, or the connection broke: nobody knows what happens until it is watched anew.
                await CloseAsync().ConfigureAwait(false);
                if (++tries < MostTries)
                {
                    await Task.Delay(Pause, _time, _stop.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
                    continue;
                }

                Fail($"the daemon cannot be reached: {exception.Message}");
                _ready.TrySetException(exception);
                return;
            }

            if (_stop.IsCancellationRequested) return;
        }
    }

    private async Task FollowAsync(AsyncDuplexStreamingCall<WatchRequest, InvalidationEvent> watch, Action opened)
    {
        var open = new OpenWatch { AddressSpace = _range.AddressSpace, Start = _range.Start, Length = _range.Length,
            Lease = _range.Lease };
        await watch.RequestStream.WriteAsync(new WatchRequest { Open = open }, _stop.Token).ConfigureAwait(false);
        var underWay = 0;
        while (await watch.ResponseStream.MoveNext(_stop.Token).ConfigureAwait(false))
        {
            var happened = watch.ResponseStream.Current;
            switch (happened.Kind)
            {
                case InvalidationKind.Start:
                    underWay++;
                    await CloseAsync().ConfigureAwait(false);
                    await watch.RequestStream.WriteAsync(
                        new WatchRequest { Acknowledge = happened.Revision }, _stop.Token).ConfigureAwait(false);
                    continue;
                case InvalidationKind.End:
                    underWay--;
                    break;
                case InvalidationKind.Progress:
                    continue;
                case InvalidationKind.Opened:
                    opened();
                    break;
            }

            // What is under way still will be over, and tell.
            if (underWay > 0) continue;
            await CloseAsync().ConfigureAwait(false);
            await RemapAsync().ConfigureAwait(false);
            Open();
            _ready.TrySetResult();
        }

        // The daemon ended the stream in order: it is going.
        throw new InvalidOperationException("the watch has ended");
    }

    /// <summary>Nobody enters any more; done when everybody has left.</summary>
    private Task CloseAsync()
    {
        lock (_gate)
        {
            _isChanging = true;
            if (_users == 0) return Task.CompletedTask;
            _left ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            return _left.Task;
        }
    }

    private void Open()
    {
        lock (_gate)
        {
            _isChanging = false;
            Monitor.PulseAll(_gate);
        }
    }

    private void Fail(string failure)
    {
        lock (_gate)
        {
            _failure ??= failure;
            Monitor.PulseAll(_gate);
        }
    }

    private void Leave()
    {
        lock (_gate)
        {
            if (--_users > 0) return;
            _left?.TrySetResult();
            _left = null;
        }
    }

    /// <summary>Maps what the space has there now; the old frames are given back afterwards.</summary>
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
            while (at < end)
            {
                var pages = Math.Min((end - at) / PageSize, MostPagesAtOnce);
                var (done, isWhole) = await MapAsync(at, pages, isWritable).ConfigureAwait(false);
                if (done > 0) mapped.Add((at, at + (done * PageSize)));
                at += done * PageSize;
                // What cannot be touched, such as what lies behind a file's end, ends the area here.
                if (!isWhole) break;
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
        while (pages > 0)
        {
            try
            {
                var request = new MapSpaceRequest { Attachment = _attachment, AddressSpace = _range.AddressSpace,
                    Start = at, Pages = pages, Write = isWritable };
                var held = await _client.Memory.MapSpaceAsync(
                    request, cancellationToken: _stop.Token).ConfigureAwait(false);
                _holds.Add(held.Hold);
                _mapping.Put(_memory, at - _range.Start, held.Runs, isWritable);
                return (pages, pages == asked);
            }
            catch (RpcException exception) when (exception.StatusCode == StatusCode.FailedPrecondition)
            {
                var stopped = FramePinException.From(exception).Metadata.GetValueOrDefault("address", "");
                if (!stopped.StartsWith("0x", StringComparison.Ordinal)) throw;
                var upTo = ulong.Parse(stopped.AsSpan(2), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
                if (upTo < at || upTo >= at + (pages * PageSize)) throw;
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

    /// <summary>The bytes, for as long as nobody takes them away.</summary>
    public readonly ref struct View
    {
        private readonly SpaceMirror _mirror;

        internal View(SpaceMirror mirror) => _mirror = mirror;

        /// <summary>The range, from its start on: what others store appears here at once, and the reverse.</summary>
        public Span<byte> Bytes => _mirror._mapping.Bytes;

        /// <summary>The page that holds the byte is the space's, and not just zeroes of this process.</summary>
        public bool IsMapped(ulong offset)
        {
            var address = _mirror._range.Start + offset;
            return _mirror._mapped.Exists(part => address >= part.Start && address < part.End);
        }

        public void Dispose() => _mirror.Leave();
    }
}
