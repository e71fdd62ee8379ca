using FramePin.V1;

namespace FramePin.Drivers.VideoBuf2;

/// <summary>
/// read() and write() on top of MMAP buffers that the application never sees (videobuf2-core.c: __vb2_perform_fileio).
/// </summary>
public sealed partial class Vb2Queue
{
    private const uint LeastFileIoBuffers = 2;

    private FileIo? _fileIo;

    /// <summary>
    /// vb2_fop_read and vb2_fop_write: the bytes done, at most to the end of a buffer. -EINVAL where the queue has no
    /// such mode, -EBUSY for another file's queue, for a queue whose buffers the application asked for itself, and
    /// beside a DQBUF that waits.
    /// </summary>
    /// <param name="file">The open file.</param>
    /// <param name="call">Which way, and where the application's bytes are.</param>
    /// <param name="signal">Wakes who waits for a frame.</param>
    public async ValueTask<(Errno Errno, ulong Bytes)> TransferAsync(
        object file, TransferCall call, CancellationToken signal = default)
    {
        ArgumentNullException.ThrowIfNull(call);
        if ((Options.IoModes & (call.Write ? Vb2IoModes.Write : Vb2IoModes.Read)) == 0) return (Errno.EINVAL, 0);
        await _lock.WaitAsync(CancellationToken.None).ConfigureAwait(false);
        try
        {
            if (IsBusyFor(file)) return (Errno.EBUSY, 0);
            var done = await TransferAsync(call, signal).ConfigureAwait(false);
            if (_fileIo is not null) _owner = file;
            return done;
        }
        finally
        {
            _lock.Release();
        }
    }

    private async Task<(Errno Errno, ulong Bytes)> TransferAsync(TransferCall call, CancellationToken signal)
    {
        if (call.Address == 0) return (Errno.EINVAL, 0);
        if (IsWaiting) return (Errno.EBUSY, 0);
        if (_fileIo is null)
        {
            var failed = await StartFileIoAsync(call.Write).ConfigureAwait(false);
            if (failed != Errno.None) return (failed, 0);
        }

        var io = _fileIo!;
        if (io.Current is null)
        {
            var (failed, taken) = await WaitForDoneAsync(
                argument: null, call.NonBlocking, signal).ConfigureAwait(false);
            if (taken is null) return (failed, 0);
            Take(taken);
            taken.State = Vb2State.Dequeued;
            io.Take(taken, call.Write ? taken.Planes[0].Length : taken.Planes[0].BytesUsed);
        }

        var buffer = io.Current!;
        var count = (int)Math.Min(call.Length, io.Size - io.Position);
        var errno = await CopyAsync(call, buffer.Planes[0].Memory!, io.Position, count).ConfigureAwait(false);
        if (errno != Errno.None) return (errno, 0);
        io.Position += (ulong)count;
        if (io.Position == io.Size)
        {
            errno = await QueueOwnAsync(buffer, io.Position).ConfigureAwait(false);
            if (errno != Errno.None) return (errno, 0);
            io.Next();
        }

        return (Errno.None, (ulong)count);
    }

    /// <summary>__vb2_init_fileio: buffers of one plane, all queued for a reader, and the stream on.</summary>
    private async Task<Errno> StartFileIoAsync(bool isWrite)
    {
        if (_isStreaming || _buffers.Count > 0) return Errno.EBUSY;
        var (errno, _) = await RequestAsync(
            Vb2Memory.Mmap, Math.Max(LeastFileIoBuffers, MinAllocated)).ConfigureAwait(false);
        if (errno != Errno.None) return errno;
        if (_buffers.Values.First().Planes.Count != 1) errno = Errno.EBUSY;
        foreach (var buffer in _buffers.Values)
            if (errno == Errno.None && !isWrite) errno = await QueueOwnAsync(buffer, 0).ConfigureAwait(false);
        if (errno == Errno.None) errno = StreamOn();
        if (errno == Errno.None)
        {
            _fileIo = new FileIo(isWrite ? _buffers.Values : []);
            return errno;
        }

        await RequestAsync(Vb2Memory.Mmap, 0).ConfigureAwait(false);
        return errno;
    }

    private Task<Errno> QueueOwnAsync(Vb2Buffer buffer, ulong used)
    {
        var argument = new V4l2Buffer { Index = buffer.Index, Planes = { new V4l2Plane { BytesUsed = (uint)used } } };
        return QueueAsync(buffer, argument, "");
    }

    /// <summary>copy_to_user and copy_from_user.</summary>
    private async Task<Errno> CopyAsync(TransferCall call, Vb2PlaneMemory memory, ulong position, int count)
    {
        var bytes = new byte[count];
        if (!call.Write)
        {
            await memory.Mapping!.ReadAsync(memory.Offset + position, bytes).ConfigureAwait(false);
            return await _memOps.Kernel.CopyToUserAsync(call.AddressSpace, call.Address, bytes).ConfigureAwait(false);
        }

        var errno = await _memOps.Kernel.CopyFromUserAsync(
            call.AddressSpace, call.Address, bytes).ConfigureAwait(false);
        if (errno == Errno.None)
            await memory.Mapping!.WriteAsync(memory.Offset + position, bytes).ConfigureAwait(false);
        return errno;
    }

    /// <summary>Where read or write is (struct vb2_fileio_data).</summary>
    private sealed class FileIo
    {
        private readonly Queue<Vb2Buffer> _fresh;

        /// <param name="fresh">A writer's buffers, which it fills before the first comes back.</param>
        public FileIo(IEnumerable<Vb2Buffer> fresh)
        {
            _fresh = new Queue<Vb2Buffer>(fresh);
            Next();
        }

        /// <summary>The buffer at work; null: one has to be dequeued.</summary>
        public Vb2Buffer? Current { get; private set; }

        public ulong Size { get; private set; }

        public ulong Position { get; set; }

        public void Take(Vb2Buffer buffer, ulong size) => (Current, Size, Position) = (buffer, size, 0);

        public void Next()
        {
            Current = null;
            if (_fresh.TryDequeue(out var buffer)) Take(buffer, buffer.Planes[0].Length);
        }
    }
}
