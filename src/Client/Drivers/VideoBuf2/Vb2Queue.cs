using FramePin.V1;

namespace FramePin.Drivers.VideoBuf2;

/// <summary>How a queue is set up (fields of struct vb2_queue that a driver fills).</summary>
public sealed record Vb2QueueOptions
{
    /// <summary>V4L2_BUF_TYPE_*.</summary>
    public required uint Type { get; init; }

    /// <summary>Which way the data goes.</summary>
    public required DmaDirection Direction { get; init; }

    public Vb2IoModes IoModes { get; init; } = Vb2IoModes.Mmap | Vb2IoModes.UserPtr | Vb2IoModes.DmaBuf;

    /// <summary>Most buffers: VIDEO_MAX_FRAME unless the driver says otherwise.</summary>
    public uint MaxBuffers { get; init; } = 32;

    /// <summary>min_queued_buffers: start_streaming waits for as many.</summary>
    public uint MinQueued { get; init; }

    /// <summary>Buffers can go with requests.</summary>
    public bool SupportsRequests { get; init; }

    /// <summary>Requests have to be used: a plain QBUF is -EBADR.</summary>
    public bool RequiresRequests { get; init; }

    /// <summary>REMOVE_BUFS is offered.</summary>
    public bool SupportsRemove { get; init; }

    public bool IsOutput => Type is V4l2.BufferType.Output or V4l2.BufferType.OutputMplane;

    public bool IsMultiplanar => Type is V4l2.BufferType.CaptureMplane or V4l2.BufferType.OutputMplane;
}

/// <summary>
/// A queue of buffers between an application and a driver (videobuf2-core.c, videobuf2-v4l2.c; Semantics 6.1,
/// rows 87 to 102).
/// </summary>
/// <remarks>
/// Its lock serialises the ioctls; a DQBUF that waits lets go of it. <see cref="BufferDone"/> may be called from
/// anywhere, the lock held or not. Owns its buffers and what they hold.
/// </remarks>
public sealed partial class Vb2Queue : IDisposable
{
    private readonly SemaphoreSlim _lock = new(1, 1);
    private readonly Vb2MemOps _memOps;
    private readonly IVb2Driver _driver;
    private readonly SortedDictionary<uint, Vb2Buffer> _buffers = [];
    private readonly List<Vb2Buffer> _queued = [];

    /// <summary>
    /// Guards what <see cref="BufferDone"/> shares with the ioctls: states, the done list and who waits for it.
    /// </summary>
    private readonly Lock _done = new();
    private readonly Queue<Vb2Buffer> _doneList = new();
    private TaskCompletionSource _somethingDone = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private object? _owner;
    private bool _isStreaming;
    private bool _hasStarted;
    private bool _hasError;
    private bool _isWaiting;
    private bool _isLastTaken;
    private bool _usesRequests;
    private bool _usesQueueing;

    public Vb2Queue(Vb2QueueOptions options, Vb2MemOps memOps, IVb2Driver driver)
    {
        Options = options;
        _memOps = memOps;
        _driver = driver;
    }

    public Vb2QueueOptions Options { get; }

    /// <summary>Kind of memory that the queue is bound to.</summary>
    public Vb2Memory Memory { get; private set; }

    /// <summary>Buffers that are allocated.</summary>
    public int Count => _buffers.Count;

    /// <summary>STREAMON has succeeded (vb2_is_streaming).</summary>
    public bool IsStreaming => _isStreaming;

    /// <summary>Something is allocated, or was by its owner (vb2_is_busy).</summary>
    public bool IsBusy => _buffers.Count > 0;

    /// <summary>
    /// The driver has finished with a buffer (vb2_buffer_done). Legal for active buffers only; others are left alone.
    /// <see cref="Vb2State.Queued"/> gives it back to the queue, an unknown state is an error.
    /// </summary>
    /// <returns>False for a buffer that was not active: a bug of the driver's.</returns>
    public bool BufferDone(Vb2Buffer buffer, Vb2State state)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        TaskCompletionSource? woken = null;
        lock (_done)
        {
            if (buffer.State != Vb2State.Active) return false;
            if (state is not (Vb2State.Done or Vb2State.Error or Vb2State.Queued)) state = Vb2State.Error;
            buffer.State = state;
            if (state != Vb2State.Queued)
            {
                _doneList.Enqueue(buffer);
                Unbind(buffer);
                woken = _somethingDone;
            }
        }

        woken?.TrySetResult();
        return true;
    }

    /// <summary>vb2_queue_error: the device is broken; everything but STREAMOFF and REQBUFS answers -EIO.</summary>
    public void SetError()
    {
        TaskCompletionSource woken;
        lock (_done)
        {
            _hasError = true;
            woken = _somethingDone;
        }

        woken.TrySetResult();
    }

    /// <summary>The last buffer of a stream was taken: DQBUF answers -EPIPE until STREAMOFF.</summary>
    public void SetLastBufferDequeued()
    {
        TaskCompletionSource woken;
        lock (_done)
        {
            _isLastTaken = true;
            woken = _somethingDone;
        }

        woken.TrySetResult();
    }

    /// <summary>vb2_fop_release: the owner's file is closed, and everything is given back.</summary>
    public async Task ReleaseAsync(object file)
    {
        await _lock.WaitAsync().ConfigureAwait(false);
        try
        {
            if (_owner != file) return;
            await CancelAsync().ConfigureAwait(false);
            await FreeAsync(_buffers.Keys.ToList()).ConfigureAwait(false);
            Memory = Vb2Memory.Unknown;
            _owner = null;
            _fileIo = null;
        }
        finally
        {
            _lock.Release();
        }
    }

    /// <summary>
    /// vb2_mmap: the device to map in the file's place. -EINVAL for whatever is wrong (rows 99, 100). Cookies are the
    /// buffer's index &lt;&lt; 15 and the plane &lt;&lt; 12.
    /// </summary>
    public async Task<(Errno Errno, string Device)> MapAsync(MapCall call)
    {
        ArgumentNullException.ThrowIfNull(call);
        const uint mapShared = 1;
        const uint protRead = 1;
        const uint protWrite = 2;
        await _lock.WaitAsync().ConfigureAwait(false);
        try
        {
            if ((call.Flags & 3) != mapShared) return (Errno.EINVAL, "");
            if ((call.Prot & (Options.IsOutput ? protWrite : protRead)) == 0) return (Errno.EINVAL, "");
            if (_fileIo is not null) return (Errno.EBUSY, "");
            if (Memory != Vb2Memory.Mmap) return (Errno.EINVAL, "");
            foreach (var buffer in _buffers.Values)
            {
                for (var plane = 0; plane < buffer.Planes.Count; plane++)
                {
                    if (OffsetOf(buffer.Index, plane) != call.Offset) continue;
                    var room = (buffer.Planes[plane].Length + 4095) & ~4095UL;
                    return call.Length > room ? (Errno.EINVAL, "") : (Errno.None, buffer.Planes[plane].Memory!.Device);
                }
            }

            return (Errno.EINVAL, "");
        }
        finally
        {
            _lock.Release();
        }
    }

    /// <summary>Frees the lock; release the owner's file first, which gives the buffers back.</summary>
    public void Dispose() => _lock.Dispose();

    private static uint OffsetOf(uint index, int plane) => (index << 15) | ((uint)plane << 12);

    /// <summary>vb2_verify_memory_type.</summary>
    private Errno VerifyMemoryType(uint memory, uint type)
    {
        if (memory is not (uint)Vb2Memory.Mmap and not (uint)Vb2Memory.UserPtr and not (uint)Vb2Memory.DmaBuf)
            return Errno.EINVAL;
        if (type != Options.Type) return Errno.EINVAL;
        var needed = (Vb2Memory)memory switch
        {
            Vb2Memory.Mmap => Vb2IoModes.Mmap,
            Vb2Memory.UserPtr => Vb2IoModes.UserPtr,
            _ => Vb2IoModes.DmaBuf,
        };
        if ((Options.IoModes & needed) == 0) return Errno.EINVAL;
        return _fileIo is null ? Errno.None : Errno.EBUSY;
    }

    private bool IsBusyFor(object file) => _owner is not null && _owner != file;

    /// <summary>vb2_core_reqbufs.</summary>
    private async Task<(Errno Errno, uint Count)> RequestAsync(Vb2Memory memory, uint count)
    {
        if (_isStreaming) return (Errno.EBUSY, 0);
        if (_isWaiting && count > 0) return (Errno.EBUSY, 0);
        if (count == 0 || _buffers.Count > 0 || (Memory != Vb2Memory.Unknown && Memory != memory))
        {
            await CancelAsync().ConfigureAwait(false);
            await FreeAsync(_buffers.Keys.ToList()).ConfigureAwait(false);
            Memory = Vb2Memory.Unknown;
            if (count == 0) return (Errno.None, 0);
        }

        var wanted = Math.Min(Math.Max(count, MinAllocated), Options.MaxBuffers);
        Memory = memory;
        ulong[] sizes = [];
        var errno = _driver.QueueSetup(this, ref wanted, ref sizes);
        if (errno != Errno.None) return Unbound(errno);
        var allocated = await AllocateAsync(memory, wanted, sizes).ConfigureAwait(false);
        if (allocated.Count == 0) return Unbound(Errno.ENOMEM);
        if (allocated.Count < MinAllocated) errno = Errno.ENOMEM;
        if (errno == Errno.None && allocated.Count < wanted)
        {
            // Fewer than asked: the driver may be content with them.
            var had = (uint)allocated.Count;
            errno = _driver.QueueSetup(this, ref had, ref sizes);
            if (errno == Errno.None && allocated.Count < had) errno = Errno.ENOMEM;
        }

        if (errno == Errno.None) return (Errno.None, (uint)allocated.Count);
        await FreeAsync(allocated).ConfigureAwait(false);
        return Unbound(errno);
    }

    /// <summary>vb2_core_create_bufs: more buffers behind those that there are.</summary>
    private async Task<(Errno Errno, uint First, uint Count)> CreateAsync(Vb2Memory memory, uint count, ulong[] sizes)
    {
        var first = _buffers.Count == 0 ? 0 : _buffers.Keys.Last() + 1;
        if (_buffers.Count >= Options.MaxBuffers) return (Errno.ENOBUFS, first, 0);
        var isFirst = _buffers.Count == 0;
        if (isFirst)
        {
            if (_isWaiting && count > 0) return (Errno.EBUSY, first, 0);
            Memory = memory;
        }
        else if (Memory != memory)
        {
            return (Errno.EINVAL, first, 0);
        }

        var wanted = Math.Min(count, Options.MaxBuffers - (uint)_buffers.Count);
        var errno = _driver.QueueSetup(this, ref wanted, ref sizes);
        if (errno == Errno.None)
        {
            var allocated = await AllocateAsync(memory, wanted, sizes).ConfigureAwait(false);
            if (allocated.Count > 0) return (Errno.None, allocated[0], (uint)allocated.Count);
            errno = Errno.ENOMEM;
        }

        if (isFirst) Memory = Vb2Memory.Unknown;
        return (errno, first, 0);
    }

    private (Errno Errno, uint Count) Unbound(Errno errno)
    {
        Memory = Vb2Memory.Unknown;
        return (errno, 0);
    }

    private uint MinAllocated => Options.MinQueued == 0 ? 1 : Options.MinQueued + 1;

    /// <summary>__vb2_queue_alloc: as many as there is memory for; their indices.</summary>
    private async Task<List<uint>> AllocateAsync(Vb2Memory memory, uint count, ulong[] sizes)
    {
        var made = new List<uint>();
        for (var index = 0U; made.Count < count && index < Options.MaxBuffers; index++)
        {
            if (_buffers.ContainsKey(index)) continue;
            var buffer = new Vb2Buffer(this, index, memory, sizes.Length);
            for (var plane = 0; plane < sizes.Length; plane++)
            {
                buffer.Planes[plane].MinLength = sizes[plane];
                buffer.Planes[plane].Length = sizes[plane];
            }

            if (memory == Vb2Memory.Mmap && !await AllocatePlanesAsync(buffer).ConfigureAwait(false)) break;
            _buffers.Add(index, buffer);
            made.Add(index);
        }

        return made;
    }

    private async Task<bool> AllocatePlanesAsync(Vb2Buffer buffer)
    {
        foreach (var plane in buffer.Planes)
        {
            plane.Memory = await _memOps.AllocAsync(plane.Length, "/dev/video").ConfigureAwait(false);
            if (plane.Memory is null)
            {
                await ReleasePlanesAsync(buffer).ConfigureAwait(false);
                return false;
            }
        }

        if (_driver.BufInit(buffer) == Errno.None)
        {
            buffer.IsInitialised = true;
            return true;
        }

        await ReleasePlanesAsync(buffer).ConfigureAwait(false);
        return false;
    }

    /// <summary>
    /// __vb2_queue_free: what the buffers hold is given back. Those that applications have mapped live on as orphans.
    /// </summary>
    private async Task FreeAsync(IReadOnlyList<uint> indices)
    {
        foreach (var index in indices)
        {
            await ReleasePlanesAsync(_buffers[index]).ConfigureAwait(false);
            _buffers.Remove(index);
        }
    }

    private async Task ReleasePlanesAsync(Vb2Buffer buffer)
    {
        if (buffer.IsInitialised) _driver.BufCleanup(buffer);
        buffer.IsInitialised = false;
        foreach (var plane in buffer.Planes)
        {
            if (plane.Memory is not { } memory) continue;
            plane.Memory = null;
            if (plane.SharesAttachment)
            {
                plane.SharesAttachment = false;
                continue;
            }

            await memory.PutAsync().ConfigureAwait(false);
        }
    }

    /// <summary>
    /// __vb2_queue_cancel: the device stops, and every buffer is the application's again. Pins stay (row 93).
    /// </summary>
    private async Task CancelAsync()
    {
        if (_hasStarted) await _driver.StopStreamingAsync(this).ConfigureAwait(false);
        TaskCompletionSource woken;
        lock (_done)
        {
            _isStreaming = false;
            _hasStarted = false;
            _hasError = false;
            _isLastTaken = false;
            _usesRequests = false;
            _usesQueueing = false;
            _doneList.Clear();
            foreach (var buffer in _buffers.Values) Unbind(buffer);
            woken = _somethingDone;
        }

        _queued.Clear();
        foreach (var buffer in _buffers.Values)
        {
            if (buffer.IsPrepared) _driver.BufFinish(buffer);
            buffer.IsPrepared = false;
            buffer.State = Vb2State.Dequeued;
        }

        woken.TrySetResult();
    }

    /// <summary>vb2_core_streamon.</summary>
    private Errno StreamOn()
    {
        if (_isStreaming) return Errno.None;
        if (_buffers.Count == 0 || _buffers.Count < Options.MinQueued) return Errno.EINVAL;
        if (_queued.Count >= Options.MinQueued)
        {
            var errno = Start();
            if (errno != Errno.None) return errno;
        }

        _isStreaming = true;
        return Errno.None;
    }

    /// <summary>vb2_start_streaming: the driver gets what is queued, then is started.</summary>
    private Errno Start()
    {
        foreach (var buffer in _queued) Enqueue(buffer);
        _hasStarted = true;
        var errno = _driver.StartStreaming(this, (uint)_queued.Count);
        if (errno == Errno.None) return errno;
        _hasStarted = false;
        // A driver that keeps buffers after it failed has a bug: they are taken back.
        foreach (var buffer in _queued) BufferDone(buffer, Vb2State.Queued);
        return errno;
    }

    private void Enqueue(Vb2Buffer buffer)
    {
        lock (_done) buffer.State = Vb2State.Active;
        _driver.BufQueue(buffer);
    }

    /// <summary>vb2_core_qbuf, behind the checks of its argument.</summary>
    private async Task<Errno> QueueAsync(Vb2Buffer buffer, V4l2Buffer argument, string space)
    {
        if (_hasError) return Errno.EIO;
        var before = buffer.State;
        if (before is not (Vb2State.Dequeued or Vb2State.InRequest)) return Errno.EINVAL;
        if (before == Vb2State.Dequeued) _usesQueueing = true;
        if (!buffer.IsPrepared)
        {
            var errno = await PrepareAsync(buffer, argument, space).ConfigureAwait(false);
            if (errno != Errno.None) return errno;
        }

        _queued.Add(buffer);
        buffer.State = Vb2State.Queued;
        if (Options.IsOutput) buffer.Timestamp = argument.Timestamp;
        if (_hasStarted)
        {
            Enqueue(buffer);
        }
        else if (_isStreaming && _queued.Count >= Options.MinQueued)
        {
            var errno = Start();
            if (errno == Errno.None) return errno;
            // The caller gets an error, so the buffer is his again.
            _queued.Remove(buffer);
            buffer.State = before;
            return errno;
        }

        return Errno.None;
    }

    /// <summary>
    /// vb2_core_dqbuf: waits with the lock let go. The caller holds the lock, and holds it again afterwards.
    /// </summary>
    private async Task<(Errno Errno, Vb2Buffer? Buffer)> DequeueAsync(bool isNonBlocking, CancellationToken signal)
    {
        while (true)
        {
            Task something;
            lock (_done)
            {
                if (_isWaiting) return (Errno.EBUSY, null);
                if (!_isStreaming) return (Errno.EINVAL, null);
                if (_hasError) return (Errno.EIO, null);
                if (_isLastTaken) return (Errno.EPIPE, null);
                if (_doneList.TryDequeue(out var buffer))
                {
                    _driver.BufFinish(buffer);
                    buffer.IsPrepared = false;
                    _queued.Remove(buffer);
                    return (Errno.None, buffer);
                }

                if (isNonBlocking) return (Errno.EAGAIN, null);
                if (_somethingDone.Task.IsCompleted)
                    _somethingDone = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
                something = _somethingDone.Task;
                _isWaiting = true;
            }

            _lock.Release();
            var isSignalled = false;
            try
            {
                await something.WaitAsync(signal).ConfigureAwait(false);
            }
            catch (OperationCanceledException)
            {
                isSignalled = true;
            }

            await _lock.WaitAsync(CancellationToken.None).ConfigureAwait(false);
            _isWaiting = false;
            if (isSignalled) return (Errno.ERESTARTSYS, null);
        }
    }
}
