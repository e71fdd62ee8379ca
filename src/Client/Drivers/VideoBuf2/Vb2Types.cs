namespace FramePin.Drivers.VideoBuf2;

/// <summary>Memory of a queue's buffers (enum vb2_memory, numbered as V4L2_MEMORY_*).</summary>
public enum Vb2Memory
{
    /// <summary>No buffers yet.</summary>
    Unknown = 0,
    /// <summary>The driver allocates, the application maps.</summary>
    Mmap = 1,
    /// <summary>The application gives an address.</summary>
    UserPtr = 2,
    /// <summary>The application gives a dma-buf.</summary>
    DmaBuf = 4,
}

/// <summary>Kinds of memory and access that a driver offers (enum vb2_io_modes).</summary>
[Flags]
public enum Vb2IoModes
{
    /// <summary>No way.</summary>
    None = 0,
    /// <summary>VB2_MMAP.</summary>
    Mmap = 1,
    /// <summary>VB2_USERPTR.</summary>
    UserPtr = 2,
    /// <summary>VB2_READ.</summary>
    Read = 4,
    /// <summary>VB2_WRITE.</summary>
    Write = 8,
    /// <summary>VB2_DMABUF.</summary>
    DmaBuf = 16,
}

/// <summary>enum vb2_buffer_state.</summary>
public enum Vb2State
{
    /// <summary>The application's.</summary>
    Dequeued,
    /// <summary>Bound to a request that is not queued yet.</summary>
    InRequest,
    /// <summary>Being prepared inside QBUF or PREPARE_BUF.</summary>
    Preparing,
    /// <summary>The queue's, waiting for the driver.</summary>
    Queued,
    /// <summary>The driver's: the device may be working on it.</summary>
    Active,
    /// <summary>Finished, waiting for DQBUF.</summary>
    Done,
    /// <summary>The same, and its contents are not to be trusted.</summary>
    Error,
}

/// <summary>Direction of the data between memory and device (enum dma_data_direction).</summary>
public enum DmaDirection
{
    /// <summary>DMA_BIDIRECTIONAL.</summary>
    Bidirectional,
    /// <summary>DMA_TO_DEVICE: the device reads.</summary>
    ToDevice,
    /// <summary>DMA_FROM_DEVICE: the device writes.</summary>
    FromDevice,
}

/// <summary>One plane of a buffer, with what is behind it now.</summary>
public sealed class Vb2Plane
{
    /// <summary>Bytes that the driver needs at least.</summary>
    public ulong MinLength { get; internal set; }

    /// <summary>Bytes that the buffer has.</summary>
    public ulong Length { get; internal set; }

    /// <summary>Bytes of payload (vb2_get_plane_payload).</summary>
    public ulong BytesUsed { get; set; }

    /// <summary>Bytes before the payload (data_offset).</summary>
    public ulong DataOffset { get; internal set; }

    /// <summary>USERPTR: the address that was given.</summary>
    public ulong UserPointer { get; internal set; }

    /// <summary>DMABUF: the dma-buf that was given.</summary>
    public string DmaBuf { get; internal set; } = "";

    /// <summary>
    /// DMABUF: an earlier plane of the buffer names the same dma-buf, and its attachment is this one's too
    /// (dbuf_duplicated).
    /// </summary>
    public bool SharesAttachment { get; internal set; }

    /// <summary>The memory; null while there is none.</summary>
    public Vb2PlaneMemory? Memory { get; internal set; }

    /// <summary>MMAP: the offset that mmap wants (mem_offset).</summary>
    internal uint Cookie { get; set; }
}

/// <summary>A buffer of a queue (struct vb2_buffer).</summary>
/// <remarks>
/// Changes happen under the queue's lock. The driver may fill the planes and the payload of an active buffer.
/// </remarks>
public sealed class Vb2Buffer
{
    internal Vb2Buffer(Vb2Queue queue, uint index, Vb2Memory memory, int planes)
    {
        Queue = queue;
        Index = index;
        Memory = memory;
        Planes = [.. Enumerable.Range(0, planes).Select(_ => new Vb2Plane())];
    }

    /// <summary>The queue that it belongs to.</summary>
    public Vb2Queue Queue { get; }

    /// <summary>Its number in the queue.</summary>
    public uint Index { get; }

    /// <summary>Kind of its memory.</summary>
    public Vb2Memory Memory { get; }

    /// <summary>Its state. Guarded by the lock of <see cref="Vb2Queue.BufferDone"/>.</summary>
    public Vb2State State { get; internal set; }

    /// <summary>Its planes, one for a format that is not multiplanar.</summary>
    public IReadOnlyList<Vb2Plane> Planes { get; }

    /// <summary>buf_prepare has run since it was last dequeued.</summary>
    public bool IsPrepared { get; internal set; }

    /// <summary>buf_init has run for the memory that it has.</summary>
    public bool IsInitialised { get; internal set; }

    /// <summary>Number of the frame; set by the driver.</summary>
    public uint Sequence { get; set; }

    /// <summary>
    /// Nanoseconds; set by the driver, or copied from the application where <see
    /// cref="Vb2QueueOptions.CopiesTimestamps"/>. 0 while it is queued otherwise.
    /// </summary>
    public ulong Timestamp { get; set; }

    /// <summary>
    /// V4L2_FIELD_*; set by the driver when a frame is done, and copied from the application for output. ANY (0) at
    /// first.
    /// </summary>
    public uint Field { get; set; }

    /// <summary>Flags of the application that the buffer keeps, such as V4L2_BUF_FLAG_KEYFRAME of an output.</summary>
    internal uint Flags { get; set; }

    /// <summary>The request that QBUF named, until the buffer is dequeued; -1 for none.</summary>
    internal int RequestFd { get; set; } = -1;

    /// <summary>It was mapped or exported once. Whether it still is, the daemon knows.</summary>
    internal bool MayBeInUse { get; set; }

    /// <summary>Its place in the order in which buffers were done.</summary>
    internal ulong DoneNumber { get; set; }

    /// <summary>Number of the DQBUF that gave it away last; 0 once anything else happened to it.</summary>
    internal ulong TakeNumber { get; set; }

    /// <summary>The request that it goes with; null for none.</summary>
    internal MediaRequestState? Request { get; set; }

    /// <summary>What QBUF into the request said.</summary>
    internal FramePin.V1.V4l2Buffer? RequestArgument { get; set; }
}

/// <summary>The memory of a plane, as a queue sees it (the mem_priv of struct vb2_mem_ops).</summary>
/// <remarks>Owns its mapping and, except for a dma-buf, its pages. Guarded by the queue's lock.</remarks>
public abstract class Vb2PlaneMemory
{
    /// <summary>
    /// vaddr: the driver's view of the bytes, from the plane's first byte on; null where there is none.
    /// </summary>
    public KernelMapping? Mapping { get; protected init; }

    /// <summary>Byte of the mapping where the plane begins.</summary>
    public ulong Offset { get; protected init; }

    /// <summary>Device address of the plane's first byte (dma-contig), or of its first frame.</summary>
    public ulong DmaAddress { get; protected init; }

    /// <summary>Device that an application maps (MMAP); empty for the other kinds.</summary>
    public virtual string Device => "";

    /// <summary>
    /// num_users above 1: an application maps it, or holds its dma-buf. Never for the kinds that the application gives.
    /// </summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    public virtual Task<bool> IsInUseAsync(CancellationToken cancellationToken = default) => Task.FromResult(false);

    /// <summary>
    /// Gives back the pages of the plane (put, put_userptr or detach_dmabuf). A second call does nothing for pages of a
    /// process.
    /// </summary>
    /// <param name="cancellationToken">Refuses the call before it begins. A put that has begun is finished.</param>
    public abstract Task PutAsync(CancellationToken cancellationToken = default);

    /// <summary>
    /// Takes the pages of a process out of the plane; the caller puts them. Null for the other kinds of memory, which
    /// <see cref="PutAsync"/> gives back.
    /// </summary>
    public virtual PutFrames? TakeFrames() => null;
}

/// <summary>An allocator of memory for a queue's planes (struct vb2_mem_ops).</summary>
/// <remarks>Called with the queue's lock held. Owns nothing: the planes own their memory.</remarks>
/// <param name="kernel">The kernel of the driver. It must outlive the planes.</param>
public abstract class Vb2MemOps(DriverKernel kernel)
{
    /// <summary>The kernel of the driver.</summary>
    protected internal DriverKernel Kernel { get; } = kernel;

    /// <summary>MMAP: allocates memory of the driver's own. Null: -ENOMEM.</summary>
    /// <param name="size">Bytes, rounded up to pages.</param>
    /// <param name="name">Path that maps shows.</param>
    /// <param name="cancellationToken">Gives the allocation up.</param>
    public abstract Task<Vb2PlaneMemory?> AllocAsync(
        ulong size, string name, CancellationToken cancellationToken = default);

    /// <summary>USERPTR: pins the pages of [address, address + size) in the caller's address space.</summary>
    /// <param name="space">Name of the caller's address space.</param>
    /// <param name="address">First byte.</param>
    /// <param name="size">Bytes.</param>
    /// <param name="direction">Direction of the data.</param>
    /// <param name="replaced">Memory that the plane held before; null for none. Pages of a process are taken out of it
    /// and put before the new ones are pinned. The caller puts memory of another kind.</param>
    /// <param name="cancellationToken">Gives the pin up.</param>
    public abstract Task<(Errno Errno, Vb2PlaneMemory? Memory)> GetUserPtrAsync(
        string space, ulong address, ulong size, DmaDirection direction, Vb2PlaneMemory? replaced = null,
        CancellationToken cancellationToken = default);

    /// <summary>DMABUF: attaches to a dma-buf and maps it.</summary>
    /// <param name="name">Name of the frame vector that stands for it.</param>
    /// <param name="size">Bytes that the plane needs. A smaller dma-buf is -EFAULT.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    public abstract Task<(Errno Errno, Vb2PlaneMemory? Memory)> AttachDmaBufAsync(
        string name, ulong size, CancellationToken cancellationToken = default);

    /// <summary>
    /// EXPBUF: makes a dma-buf over memory that <see cref="AllocAsync"/> made. Null when there is no exporter.
    /// </summary>
    /// <param name="memory">The memory of the plane.</param>
    /// <param name="lease">Lease that owns the dma-buf; empty: it lives until it is unpinned.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    public virtual async Task<string?> ExportAsync(
        Vb2PlaneMemory memory, string lease, CancellationToken cancellationToken = default) =>
        memory is AllocatedMemory { Buffer: var buffer }
            ? await Kernel.ExportAsync(buffer, lease, cancellationToken).ConfigureAwait(false)
            : null;

    /// <summary>Bytes of a dma-buf; null when there is no such one.</summary>
    /// <param name="name">Name of the frame vector that stands for it.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task<ulong?> SizeOfAsync(string name, CancellationToken cancellationToken = default) =>
        Kernel.SizeOfDmaBufAsync(name, cancellationToken);

    /// <summary>
    /// The memory that is made of frames without another owner, which are put when none comes of it: an errno, or an
    /// exception on the way.
    /// </summary>
    internal static async Task<(Errno Errno, Vb2PlaneMemory? Memory)> KeepOrPutAsync(
        DriverKernel kernel, PinnedFrames frames, Task<(Errno Errno, Vb2PlaneMemory? Memory)> making)
    {
        Vb2PlaneMemory? memory = null;
        try
        {
            (var errno, memory) = await making.ConfigureAwait(false);
            return (errno, memory);
        }
        finally
        {
            if (memory is null)
                await kernel.PutAsync(frames, isDirty: false, CancellationToken.None).ConfigureAwait(false);
        }
    }

    private protected static bool IsWrite(DmaDirection direction) => direction != DmaDirection.ToDevice;
}

/// <summary>A queue's driver (struct vb2_ops).</summary>
/// <remarks>
/// The queue calls every method with its lock held. A method must not call an ioctl of the queue, and may call
/// <see cref="Vb2Queue.BufferDone"/>.
/// </remarks>
public interface IVb2Driver
{
    /// <summary>queue_setup: states how many buffers there are to be, of how many bytes a plane.</summary>
    /// <param name="queue">The queue.</param>
    /// <param name="count">Buffers that were asked for; the driver may change it.</param>
    /// <param name="sizes">Bytes of each plane. Empty for REQBUFS: the driver fills it. Given by the caller for
    /// CREATE_BUFS: the driver checks it.</param>
    Errno QueueSetup(Vb2Queue queue, ref uint count, ref ulong[] sizes);

    /// <summary>buf_init: the buffer has new memory.</summary>
    /// <param name="buffer">The buffer.</param>
    Errno BufInit(Vb2Buffer buffer) => Errno.None;

    /// <summary>buf_out_validate: the field of an output buffer is checked, or set.</summary>
    /// <param name="buffer">The buffer.</param>
    Errno BufOutValidate(Vb2Buffer buffer) => Errno.None;

    /// <summary>buf_prepare: the buffer is about to be queued.</summary>
    /// <param name="buffer">The buffer.</param>
    Errno BufPrepare(Vb2Buffer buffer) => Errno.None;

    /// <summary>buf_finish: the buffer goes back to the application.</summary>
    /// <param name="buffer">The buffer.</param>
    void BufFinish(Vb2Buffer buffer)
    {
    }

    /// <summary>buf_cleanup: the memory of the buffer is about to go.</summary>
    /// <param name="buffer">The buffer.</param>
    void BufCleanup(Vb2Buffer buffer)
    {
    }

    /// <summary>start_streaming. With an errno the driver gives every active buffer back as
    /// <see cref="Vb2State.Queued"/>.</summary>
    /// <param name="queue">The queue.</param>
    /// <param name="count">Buffers that are active already.</param>
    Errno StartStreaming(Vb2Queue queue, uint count);

    /// <summary>
    /// stop_streaming. When the task completes, the driver touches no buffer any more and has given every active one
    /// back.
    /// </summary>
    /// <param name="queue">The queue.</param>
    /// <param name="cancellationToken">Not signalled by the queue: a stream is always stopped.</param>
    Task StopStreamingAsync(Vb2Queue queue, CancellationToken cancellationToken = default);

    /// <summary>buf_queue: the buffer is the driver's until <see cref="Vb2Queue.BufferDone"/>.</summary>
    /// <param name="buffer">The buffer.</param>
    void BufQueue(Vb2Buffer buffer);
}
