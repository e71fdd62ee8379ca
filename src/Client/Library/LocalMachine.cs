using System.Collections.Concurrent;
using System.Net.Sockets;
using System.Text;
using FramePin.Client.Native;
using FramePin.V1;
using Grpc.Core;
using Microsoft.Win32.SafeHandles;

namespace FramePin.Client;

/// <summary>
/// A machine's memory in this process. Frames of a vector are mapped one behind the other, and are read and written
/// without a copy through the daemon. For processes on the daemon's host.
/// </summary>
/// <remarks>
/// Any thread. Owns the descriptor of the memory, the connection that stands for the attachment, and the mappings that
/// <see cref="ReadAsync"/> and <see cref="WriteAsync"/> made. A <see cref="MappedFrames"/> or <see cref="SpaceMirror"/>
/// that it handed out is the caller's.
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

    private LocalMachine(
        FramePinClient client, AttachmentName name, Socket attachment, SafeFileHandle memory, bool isReadOnly)
    {
        Name = name;
        _client = client;
        _attachment = attachment;
        _memory = memory;
        IsReadOnly = isReadOnly;
        _whole = new Lazy<LocalMapping?>(() => LocalMapping.Whole(memory, !isReadOnly));
    }

    /// <summary>"machines/{machine}/attachments/{id}".</summary>
    public AttachmentName Name { get; }

    /// <summary>The descriptor was opened for reading only: the kernel refuses writable mappings of it.</summary>
    public bool IsReadOnly { get; }

    /// <summary>Attaches this process to a machine. One call, and one exchange on the daemon's attach socket.</summary>
    /// <param name="client">The daemon, on this host. It must outlive the attachment.</param>
    /// <param name="machine">"machines/{machine}".</param>
    /// <param name="lease">Lease that the attachment ends with; null for none.</param>
    /// <param name="isReadOnly">Asks for memory that this process cannot write.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    /// <exception cref="FramePinException">The daemon refuses a ticket, or has no attach socket.</exception>
    /// <exception cref="UnauthorizedAccessException">The attach socket sends this process away, with its reason.
    /// </exception>
    public static async Task<LocalMachine> AttachAsync(
        FramePinClient client, string machine, string? lease = null, bool isReadOnly = false,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(client);
        var request = new AttachMemoryRequest { Parent = machine, Lease = lease ?? "", ReadOnly = isReadOnly };
        var ticket = await client.Memory.AttachMemoryAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            // A blocking connection: ConnectAsync would leave the descriptor non-blocking, and recvmsg waits on it.
            socket.Connect(new UnixDomainSocketEndPoint(ticket.SocketPath));
            socket.Send(ticket.Ticket.Span);
            var (status, memory) = LocalMapping.Receive(socket);
            if (status == 0 && memory is not null)
            {
                var name = AttachmentName.Parse(ticket.Attachment);
                return new LocalMachine(client, name, socket, memory, isReadOnly);
            }

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
    /// Maps the frames of a vector. They stay this process's until the mapping is disposed, also when they are unpinned
    /// before: the allocator does not get a frame that becomes free meanwhile, unless the daemon fences this process
    /// (quarantine_bytes_max). One call.
    /// </summary>
    /// <param name="frameVector">Name of the vector.</param>
    /// <param name="isWritable">This process is going to store.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    /// <exception cref="FramePinException">The vector or the attachment is gone.</exception>
    /// <exception cref="System.ComponentModel.Win32Exception">The kernel refuses the mapping.</exception>
    public async Task<MappedFrames> MapAsync(
        string frameVector, bool isWritable = true, CancellationToken cancellationToken = default)
    {
        var request = new MapFramesRequest { Attachment = Name, FrameVector = frameVector };
        var mapped = await _client.Memory.MapFramesAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return MapHeld(mapped.Hold, mapped.Runs, isWritable);
    }

    /// <summary>
    /// Maps pages of an address space, so that this process works on them with plain loads and stores. Absent pages are
    /// populated first; where <paramref name="isWritable"/>, shared pages become the space's own. One call.
    /// </summary>
    /// <remarks>
    /// The mapping shows the frames of now. After fork, munmap, MADV_DONTNEED or another change it shows the old ones:
    /// dispose it and map again, or use <see cref="MirrorAsync"/>. The allocator does not get them while they are
    /// mapped, unless the daemon fences this process (quarantine_bytes_max).
    /// </remarks>
    /// <param name="addressSpace">"machines/{machine}/addressSpaces/{id}".</param>
    /// <param name="start">Address in bytes, page-aligned.</param>
    /// <param name="length">Bytes, rounded up to pages.</param>
    /// <param name="isWritable">This process is going to store.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    /// <exception cref="FramePinException">A page cannot be touched or is no RAM.</exception>
    /// <exception cref="System.ComponentModel.Win32Exception">The kernel refuses the mapping.</exception>
    public async Task<MappedFrames> MapSpaceAsync(
        string addressSpace, ulong start, ulong length, bool isWritable = true,
        CancellationToken cancellationToken = default)
    {
        var request = new MapSpaceRequest
        {
            Attachment = Name,
            AddressSpace = addressSpace,
            Start = start,
            Pages = (length + 4095) >> 12,
            Write = isWritable && !IsReadOnly,
        };
        var mapped = await _client.Memory.MapSpaceAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return MapHeld(mapped.Hold, mapped.Runs, isWritable);
    }

    /// <summary>
    /// Mirrors a range of an address space at one place in this process, and keeps it as the space has it: after
    /// munmap, mremap, madvise, fork and every other announced change the pages are mapped anew.
    /// </summary>
    /// <param name="addressSpace">"machines/{machine}/addressSpaces/{id}".</param>
    /// <param name="start">Address in bytes, page-aligned.</param>
    /// <param name="length">Bytes, at most 2 GiB, rounded up to pages.</param>
    /// <param name="isWritable">This process is going to store.</param>
    /// <param name="lease">Lease that the watch ends with; null for none.</param>
    /// <param name="time">The clock of retries; the client's when null.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    /// <exception cref="FramePinException">The range cannot be watched, or the daemon cannot be reached.</exception>
    public Task<SpaceMirror> MirrorAsync(
        string addressSpace, ulong start, ulong length, bool isWritable = true, string? lease = null,
        TimeProvider? time = null, CancellationToken cancellationToken = default)
    {
        if ((start & 4095) != 0) throw new ArgumentException("must be a multiple of 4096", nameof(start));
        ArgumentOutOfRangeException.ThrowIfZero(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, (ulong)int.MaxValue);
        var range = new MirroredRange(
            addressSpace, start, (length + 4095) & ~4095UL, isWritable && !IsReadOnly, lease ?? "");
        return SpaceMirror.CreateAsync(_client, Name, _memory, range, time ?? _client.TimeProvider, cancellationToken);
    }

    /// <summary>
    /// Maps frames that a pin has held for this attachment (PinResponse.hold). The unpin gives the hold back, and the
    /// caller disposes the mapping before it. Makes no call; maps nothing where the frames follow each other.
    /// </summary>
    /// <param name="runs">The frames, in the order of the mapping.</param>
    /// <exception cref="System.ComponentModel.Win32Exception">The kernel refuses the mapping.</exception>
    public MappedFrames MapPinned(FrameRuns runs) => new(MapRuns(runs, isWritable: true), static () => { });

    /// <inheritdoc />
    /// <remarks>Maps the vector at its first use, which is one call, and keeps it mapped until
    /// <see cref="Forget"/>.</remarks>
    public async Task<int> ReadAsync(
        string frameVector, ulong offset, Memory<byte> buffer, CancellationToken cancellationToken = default)
    {
        var mapped = await MappedAsync(frameVector, cancellationToken).ConfigureAwait(false);
        if (offset >= mapped.Length) return 0;
        var count = (int)Math.Min((ulong)buffer.Length, mapped.Length - offset);
        mapped.Bytes.Slice((int)offset, count).CopyTo(buffer.Span);
        return count;
    }

    /// <inheritdoc />
    /// <remarks>Maps the vector at its first use, which is one call, and keeps it mapped until
    /// <see cref="Forget"/>.</remarks>
    /// <exception cref="UnauthorizedAccessException">The machine was attached read-only.</exception>
    public async Task WriteAsync(
        string frameVector, ulong offset, ReadOnlyMemory<byte> data, CancellationToken cancellationToken = default)
    {
        if (IsReadOnly) throw new UnauthorizedAccessException("the machine was attached read-only");
        var mapped = await MappedAsync(frameVector, cancellationToken).ConfigureAwait(false);
        data.Span.CopyTo(mapped.Bytes[checked((int)offset)..]);
    }

    /// <summary>
    /// Unmaps the frames that <see cref="ReadAsync"/> and <see cref="WriteAsync"/> mapped. To be called before the
    /// vector is unpinned.
    /// </summary>
    /// <param name="frameVector">Name of the vector.</param>
    public void Forget(string frameVector)
    {
        if (_mapped.TryRemove(frameVector, out var mapped)) mapped.Dispose();
    }

    /// <summary>Ends the attachment. Spans of its mappings are not to be used afterwards.</summary>
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
    /// A view of the whole memory where the frames follow each other; otherwise a mapping of each run behind the other.
    /// </summary>
    private LocalMapping MapRuns(FrameRuns runs, bool isWritable)
    {
        var mayWrite = isWritable && !IsReadOnly;
        // A caller that asks for reading only, on a writable attachment, gets pages that it cannot write.
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
    /// Tells the daemon that frames are unmapped. A daemon that cannot be reached has ended the attachment already.
    /// </summary>
    private void Unhold(ulong hold)
    {
        try
        {
            _client.Memory.UnmapFrames(new UnmapFramesRequest { Attachment = Name, Hold = hold });
        }
        catch (RpcException)
        {
            // The attachment has ended, and its holds with it.
        }
    }

    private async Task<MappedFrames> MappedAsync(string frameVector, CancellationToken cancellationToken)
    {
        if (_mapped.TryGetValue(frameVector, out var known)) return known;
        var fresh = await MapAsync(frameVector, isWritable: true, cancellationToken).ConfigureAwait(false);
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
