using System.Runtime.CompilerServices;
using FramePin.V1;

namespace FramePin.Drivers.VideoBuf2;

/// <summary>
/// A queue of buffers between an application and a driver (videobuf2-core.c, videobuf2-v4l2.c; Semantics 6.1,
/// rows 87 to 102).
/// </summary>
/// <remarks>
/// The lock of the queue serialises the ioctls. A DQBUF that waits releases it meanwhile. <see cref="BufferDone"/> may
/// be called from any thread, with and without the lock. The queue owns its buffers and their memory.
/// </remarks>
public sealed partial class Vb2Queue : IDisposable
{
    private readonly SemaphoreSlim _lock = new(1, 1);
    private readonly Vb2MemOps _memOps;
    private readonly IVb2Driver _driver;
    private readonly SortedDictionary<uint, Vb2Buffer> _buffers = [];
    private readonly List<Vb2Buffer> _queued = [];

    /// <summary>
    /// Guards the state that <see cref="BufferDone"/> shares with the ioctls: the buffers' states, the done list and
    /// the signal of a DQBUF that waits.
    /// </summary>
    private readonly Lock _done = new();
    private readonly List<Vb2Buffer> _doneList = [];
    private ulong _dones;
    private TaskCompletionSource _somethingDone = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private object? _owner;
    private bool _isStreaming;
    private bool _hasStarted;
    private bool _hasError;

    /// <summary>The signal of the call that waits in DQBUF (waiting_in_dqbuf); null when no call waits.</summary>
    private StrongBox<CancellationToken>? _waiter;
    private bool _isLastTaken;
    private bool _usesRequests;
    private bool _usesQueueing;

    /// <summary>DQBUFs that gave a buffer away.</summary>
    private ulong _takes;

    /// <summary>Makes a queue without buffers.</summary>
    /// <param name="options">Its set-up.</param>
    /// <param name="memOps">Allocates the memory of its planes.</param>
    /// <param name="driver">Its driver.</param>
    public Vb2Queue(Vb2QueueOptions options, Vb2MemOps memOps, IVb2Driver driver)
    {
        Options = options;
        _memOps = memOps;
        _driver = driver;
    }

    /// <summary>Its set-up.</summary>
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
    /// Any thread.
    /// </summary>
    /// <param name="buffer">The buffer.</param>
    /// <param name="state">Done or Error; <see cref="Vb2State.Queued"/> gives it back to the queue. Any other state
    /// counts as Error.</param>
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
                buffer.DoneNumber = ++_dones;
                _doneList.Add(buffer);
                Unbind(buffer);
                woken = _somethingDone;
            }
        }

        woken?.TrySetResult();
        return true;
    }

    /// <summary>
    /// vb2_queue_error: the device is broken. Every ioctl but STREAMOFF and REQBUFS answers -EIO. Any thread.
    /// </summary>
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

    /// <summary>The last buffer of a stream was taken: DQBUF answers -EPIPE until STREAMOFF. Any thread.</summary>
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

    /// <summary>vb2_fop_release: the owner's file is closed, and the memory of every buffer is given back.</summary>
    /// <param name="file">The file. Its requests go. Nothing else happens unless it owns the queue.</param>
    /// <param name="cancellationToken">Gives the waiting for the lock up.</param>
    public async Task ReleaseAsync(object file, CancellationToken cancellationToken = default)
    {
        await _lock.WaitAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            CloseRequests(file);
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
    /// vb2_mmap: the device to map in the file's place. -EINVAL for a call that is wrong in any way (rows 99, 100),
    /// which MAP_SHARED_VALIDATE is not: the method sees VM_SHARED (mm/mmap.c checks the kind of the mapping). The
    /// offset of a plane is what QUERYBUF says. Since 6.8 bits of the offset that name no buffer or plane are passed
    /// over.
    /// </summary>
    /// <param name="call">The call.</param>
    /// <param name="cancellationToken">Gives the waiting for the lock up.</param>
    public async Task<(Errno Errno, string Device)> MapAsync(
        MapCall call, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(call);
        const uint mapType = 0xf;
        const uint mapShared = 1;
        const uint mapSharedValidate = 3;
        const uint protRead = 1;
        const uint protWrite = 2;
        await _lock.WaitAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            if ((call.Offset & 4095) != 0 || (call.Flags & mapType) is not (mapShared or mapSharedValidate))
                return (Errno.EINVAL, "");
            if ((call.Prot & (Options.IsOutput ? protWrite : protRead)) == 0) return (Errno.EINVAL, "");
            if (_fileIo is not null) return (Errno.EBUSY, "");
            if (Memory != Vb2Memory.Mmap) return (Errno.EINVAL, "");
            if (FindPlane(call.Offset) is not var (buffer, plane)) return (Errno.EINVAL, "");
            if (call.Length > RoundUp(plane.Length)) return (Errno.EINVAL, "");
            buffer.MayBeInUse = true;
            return (Errno.None, plane.Memory!.Device);
        }
        finally
        {
            _lock.Release();
        }
    }

    /// <summary>Frees the lock. The owner's file is released before, which gives the buffers back.</summary>
    public void Dispose() => _lock.Dispose();

    /// <summary>__find_plane_by_offset.</summary>
    private (Vb2Buffer Buffer, Vb2Plane Plane)? FindPlane(ulong offset)
    {
        if (Options.SupportsRemove)
        {
            var number = (int)(offset >> 12) & 7;
            return _buffers.TryGetValue((uint)(offset >> 15) & 0x7fff, out var named) && number < named.Planes.Count
                ? (named, named.Planes[number])
                : null;
        }

        foreach (var buffer in _buffers.Values)
            foreach (var plane in buffer.Planes)
                if (plane.Cookie == offset) return (buffer, plane);
        return null;
    }

    /// <summary>
    /// __setup_offsets: since 6.8 index &lt;&lt; 15 plus plane &lt;&lt; 12, before that the bytes of the planes
    /// before.
    /// </summary>
    private void SetCookies(Vb2Buffer buffer)
    {
        var next = _buffers.TryGetValue(buffer.Index - 1, out var before)
            ? before.Planes[^1].Cookie + RoundUp(before.Planes[^1].Length)
            : 0;
        for (var i = 0; i < buffer.Planes.Count; i++)
        {
            buffer.Planes[i].Cookie = Options.SupportsRemove ? (buffer.Index << 15) | ((uint)i << 12) : (uint)next;
            next += RoundUp(buffer.Planes[i].Length);
        }
    }

    private static ulong RoundUp(ulong bytes) => (bytes + 4095) & ~4095UL;

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

    /// <summary>
    /// A call waits in DQBUF. A call that was signalled counts as ended: in Linux the next call of its caller comes
    /// after its end.
    /// </summary>
    private bool IsWaiting => _waiter is { Value.IsCancellationRequested: false };

    private bool IsBusyFor(object file) => _owner is not null && _owner != file;
}
