using System.Collections.Concurrent;
using System.Net.Sockets;
using System.Text;
using FramePin.Client.Native;
using FramePin.V1;
using Microsoft.Win32.SafeHandles;

namespace FramePin.Client;

/// <summary>
/// A machine's memory in this process: frames of a vector are mapped, contiguous, and read and written without a copy
/// through the daemon. For processes on the daemon's host.
/// </summary>
/// <remarks>
/// Any thread. Owns the descriptor, the connection that stands for the attachment, and every mapping that it made.
/// </remarks>
public sealed class LocalMachine : IFrameMemory, IDisposable
{
    private readonly FramePinClient _client;
    private readonly Socket _attachment;
    private readonly SafeFileHandle _memory;
    private readonly ConcurrentDictionary<string, MappedFrames> _mapped = new(StringComparer.Ordinal);

    /// <summary>The whole memory, mapped when frames are first looked at.</summary>
    private readonly Lazy<LocalMapping?> _whole;
    private readonly KeptMappings _kept = new();

    private LocalMachine(FramePinClient client, string name, Socket attachment, SafeFileHandle memory, bool isReadOnly)
    {
        Name = name;
        _client = client;
        _attachment = attachment;
        _memory = memory;
        IsReadOnly = isReadOnly;
        _whole = new Lazy<LocalMapping?>(() => LocalMapping.Whole(memory, !isReadOnly));
    }

    /// <summary>"machines/{m}/attachments/{a}".</summary>
    public string Name { get; }

    /// <summary>The descriptor was opened for reading only: the kernel refuses writable mappings of it.</summary>
    public bool IsReadOnly { get; }

    /// <summary>
    /// Attaches to a machine. Throws RpcException when the daemon refuses a ticket,
    /// <see cref="UnauthorizedAccessException"/> when its socket sends this process away, with its reason.
    /// </summary>
    /// <param name="client">The daemon, on this host; it must outlive the attachment.</param>
    /// <param name="machine">"machines/{m}".</param>
    /// <param name="lease">Lease that the attachment ends with; null for none.</param>
    /// <param name="isReadOnly">Asks for memory that this process cannot write.</param>
    /// <param name="cancelled">Gives it up.</param>
    public static async Task<LocalMachine> AttachAsync(
        FramePinClient client, string machine, string? lease = null, bool isReadOnly = false,
        CancellationToken cancelled = default)
    {
        ArgumentNullException.ThrowIfNull(client);
        var request = new AttachMemoryRequest { Parent = machine, Lease = lease ?? "", ReadOnly = isReadOnly };
        var ticket = await client.Memory.AttachMemoryAsync(request, cancellationToken: cancelled).ConfigureAwait(false);
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            socket.Connect(new UnixDomainSocketEndPoint(ticket.SocketPath));
            socket.Send(ticket.Ticket.Span);
            var (status, memory) = LocalMapping.Receive(socket);
            if (status == 0 && memory is not null)
                return new LocalMachine(client, ticket.Attachment, socket, memory, isReadOnly);
            memory?.Dispose();
            throw new UnauthorizedAccessException(ReadReason(socket));
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Maps the frames of a vector. They stay this process's to touch until the mapping is disposed, also when the pin
    /// is given back before: a frame that becomes free meanwhile is given to nobody else.
    /// </summary>
    public async Task<MappedFrames> MapAsync(
        string frameVector, bool isWritable = true, CancellationToken cancelled = default)
    {
        var request = new MapFramesRequest { Attachment = Name, FrameVector = frameVector };
        var mapped = await _client.Memory.MapFramesAsync(request, cancellationToken: cancelled).ConfigureAwait(false);
        return MapHeld(mapped.Hold, mapped.Runs, isWritable);
    }

    /// <summary>
    /// Mirrors a range of an address space at one place in this process, and keeps it as the space has it: what changes
    /// by munmap, mremap, madvise, fork or whatever else is announced is mapped anew.
    /// </summary>
    /// <param name="addressSpace">"machines/{m}/addressSpaces/{as}".</param>
    /// <param name="start">Address in bytes, page-aligned.</param>
    /// <param name="length">Bytes, at most 2 GiB, rounded up to pages.</param>
    /// <param name="isWritable">This process is going to store.</param>
    /// <param name="lease">Lease that the watch ends with; null for none.</param>
    /// <param name="time">The clock of retries.</param>
    /// <param name="cancelled">Gives it up.</param>
    public Task<SpaceMirror> MirrorAsync(
        string addressSpace, ulong start, ulong length, bool isWritable = true, string? lease = null,
        TimeProvider? time = null,
        CancellationToken cancelled = default)
    {
        if ((start & 4095) != 0) throw new ArgumentException("must be a multiple of 4096", nameof(start));
        ArgumentOutOfRangeException.ThrowIfZero(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, (ulong)int.MaxValue);
        var range = new MirroredRange(
            addressSpace, start, (length + 4095) & ~4095UL, isWritable && !IsReadOnly, lease ?? "");
        return SpaceMirror.CreateAsync(_client, Name, _memory, range, time ?? TimeProvider.System, cancelled);
    }

    /// <summary>
    /// Maps frames that a pin holds for this attachment already; the unpin gives the hold back.
    /// </summary>
    public MappedFrames MapPinned(FrameRuns runs) => new(MapRuns(runs, isWritable: true), static () => { });

    /// <summary>
    /// Consecutive frames are looked at where the whole memory lies; scattered ones are mapped one behind the other.
    /// </summary>
    private LocalMapping MapRuns(FrameRuns runs, bool isWritable)
    {
        var mayWrite = isWritable && !IsReadOnly;
        // Who wants to read only, though it might write, gets pages that it cannot write.
        var whole = mayWrite || IsReadOnly ? _whole.Value : null;
        return whole?.View(runs) ?? _kept.Get(runs, mayWrite, () => LocalMapping.Map(_memory, runs, mayWrite));
    }

    private MappedFrames MapHeld(ulong hold, FrameRuns runs, bool isWritable)
    {
        try
        {
            return new MappedFrames(MapRuns(runs, isWritable), () => Unhold(hold));
        }
        catch
        {
            Unhold(hold);
            throw;
        }
    }

    /// <summary>
    /// Maps pages of an address space, so that an application's process works on them with plain loads and stores and a
    /// driver that pinned them sees each at once. Absent pages are populated first, and shared ones made the space's
    /// own where <paramref name="isWritable"/>.
    /// </summary>
    /// <remarks>
    /// What is mapped now: after fork, munmap, MADV_DONTNEED or whatever else changes the mapping, dispose it and map
    /// again, or use <see cref="MirrorAsync"/>. Until then it shows the old frames, which nobody else is given.
    /// </remarks>
    /// <param name="addressSpace">"machines/{m}/addressSpaces/{as}".</param>
    /// <param name="start">Address in bytes, page-aligned.</param>
    /// <param name="length">Bytes, rounded up to pages.</param>
    /// <param name="isWritable">This process is going to store.</param>
    /// <param name="cancelled">Gives it up.</param>
    public async Task<MappedFrames> MapSpaceAsync(
        string addressSpace, ulong start, ulong length, bool isWritable = true, CancellationToken cancelled = default)
    {
        var request = new MapSpaceRequest
        {
            Attachment = Name,
            AddressSpace = addressSpace,
            Start = start,
            Pages = (length + 4095) >> 12,
            Write = isWritable && !IsReadOnly,
        };
        var mapped = await _client.Memory.MapSpaceAsync(request, cancellationToken: cancelled).ConfigureAwait(false);
        return MapHeld(mapped.Hold, mapped.Runs, isWritable);
    }

    public async Task<int> ReadAsync(
        string frameVector, ulong offset, Memory<byte> buffer, CancellationToken cancelled = default)
    {
        var mapped = await MappedAsync(frameVector, cancelled).ConfigureAwait(false);
        if (offset >= mapped.Length) return 0;
        var count = (int)Math.Min((ulong)buffer.Length, mapped.Length - offset);
        mapped.Bytes.Slice((int)offset, count).CopyTo(buffer.Span);
        return count;
    }

    public async Task WriteAsync(
        string frameVector, ulong offset, ReadOnlyMemory<byte> data, CancellationToken cancelled = default)
    {
        if (IsReadOnly) throw new UnauthorizedAccessException("the machine was attached read-only");
        var mapped = await MappedAsync(frameVector, cancelled).ConfigureAwait(false);
        data.Span.CopyTo(mapped.Bytes[checked((int)offset)..]);
    }

    /// <summary>Unmaps what reads and writes of a vector mapped. Call it before the vector is given back.</summary>
    public void Forget(string frameVector)
    {
        if (_mapped.TryRemove(frameVector, out var mapped)) mapped.Dispose();
    }

    public void Dispose()
    {
        foreach (var mapped in _mapped.Values) mapped.Dispose();
        _mapped.Clear();
        _kept.Dispose();
        if (_whole.IsValueCreated) _whole.Value?.Dispose();
        _memory.Dispose();
        _attachment.Dispose();
    }

    /// <summary>
    /// Tells the daemon that frames are unmapped. One that cannot be reached has ended the attachment already.
    /// </summary>
    private void Unhold(ulong hold)
    {
        try
        {
            _client.Memory.UnmapFrames(new UnmapFramesRequest { Attachment = Name, Hold = hold });
        }
        catch (Grpc.Core.RpcException)
        {
            // The attachment ended, and with it what was held.
        }
    }

    private async Task<MappedFrames> MappedAsync(string frameVector, CancellationToken cancelled)
    {
        if (_mapped.TryGetValue(frameVector, out var known)) return known;
        var fresh = await MapAsync(frameVector, isWritable: true, cancelled).ConfigureAwait(false);
        var kept = _mapped.GetOrAdd(frameVector, fresh);
        if (kept != fresh) fresh.Dispose();
        return kept;
    }

    private static string ReadReason(Socket socket)
    {
        var text = new byte[512];
        var length = 0;
        while (length < text.Length && socket.Receive(text.AsSpan(length)) is var more and > 0) length += more;
        return length > 0 ? Encoding.UTF8.GetString(text, 0, length) : "the daemon sent no memory";
    }
}

/// <summary>A vector's frames, one behind the other in this process, until it is disposed.</summary>
public sealed class MappedFrames : IDisposable
{
    private readonly LocalMapping _mapping;

    private readonly Action _unmapped;

    internal MappedFrames(LocalMapping mapping, Action unmapped)
    {
        _mapping = mapping;
        _unmapped = unmapped;
    }

    /// <summary>Bytes.</summary>
    public ulong Length => _mapping.Length;

    /// <summary>
    /// The frames themselves, at most 2 GiB: what others store appears here at once. A span is not to be used any more
    /// once this is disposed: consecutive frames stay where they are mapped, and belong to somebody else by then.
    /// </summary>
    public Span<byte> Bytes => _mapping.Bytes;

    public void Dispose()
    {
        if (!_mapping.TryDispose()) return;
        _unmapped();
    }
}
