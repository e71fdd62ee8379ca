namespace FramePin.Drivers.VideoBuf2;

/// <summary>Where a queue's buffers live (enum vb2_memory, numbered as V4L2_MEMORY_*).</summary>
public enum Vb2Memory
{
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
    None = 0,
    Mmap = 1,
    UserPtr = 2,
    Read = 4,
    Write = 8,
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

/// <summary>Who moves data which way (enum dma_data_direction).</summary>
public enum DmaDirection
{
    Bidirectional,
    ToDevice,
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
}

/// <summary>A buffer of a queue (struct vb2_buffer).</summary>
/// <remarks>Changed under the queue's lock; a driver may fill an active buffer's planes and payload.</remarks>
public sealed class Vb2Buffer
{
    internal Vb2Buffer(Vb2Queue queue, uint index, Vb2Memory memory, int planes)
    {
        Queue = queue;
        Index = index;
        Memory = memory;
        Planes = [.. Enumerable.Range(0, planes).Select(_ => new Vb2Plane())];
    }

    public Vb2Queue Queue { get; }

    public uint Index { get; }

    public Vb2Memory Memory { get; }

    public Vb2State State { get; internal set; }

    public IReadOnlyList<Vb2Plane> Planes { get; }

    /// <summary>buf_prepare has run since it was last dequeued.</summary>
    public bool IsPrepared { get; internal set; }

    /// <summary>buf_init has run for the memory that it has.</summary>
    public bool IsInitialised { get; internal set; }

    /// <summary>Number of the frame; set by the driver.</summary>
    public uint Sequence { get; set; }

    /// <summary>Nanoseconds; set by the driver, or copied from the application for output.</summary>
    public ulong Timestamp { get; set; }

    public uint Field { get; set; } = 1;

    /// <summary>The request that it goes with; null for none.</summary>
    internal MediaRequestState? Request { get; set; }

    /// <summary>What QBUF into the request said.</summary>
    internal FramePin.V1.V4l2Buffer? RequestArgument { get; set; }
}

/// <summary>What a plane's memory is to a queue (the mem_priv of struct vb2_mem_ops).</summary>
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
    /// put, put_userptr or detach_dmabuf: gives back what the plane holds. Once more does nothing for pages of a
    /// process.
    /// </summary>
    public abstract Task PutAsync();

    /// <summary>
    /// Pages of a process leave the plane, to be put by whoever takes them. Null: there are none here, and
    /// <see cref="PutAsync"/> puts.
    /// </summary>
    public virtual PutFrames? TakeFrames() => null;
}

/// <summary>An allocator: how a queue's planes come by memory (struct vb2_mem_ops).</summary>
public abstract class Vb2MemOps(DriverKernel kernel)
{
    protected internal DriverKernel Kernel { get; } = kernel;

    /// <summary>MMAP: memory of the driver's own. Null: -ENOMEM.</summary>
    public abstract Task<Vb2PlaneMemory?> AllocAsync(ulong size, string name);

    /// <summary>USERPTR: the pages of [address, address + size) in the caller's address space.</summary>
    /// <param name="space">The caller's.</param>
    /// <param name="address">In bytes.</param>
    /// <param name="size">Bytes.</param>
    /// <param name="direction">Of the device.</param>
    /// <param name="replaced">What the plane held before. Where pages are pinned it is put first, on the same way; the
    /// caller puts it otherwise.</param>
    public abstract Task<(Errno Errno, Vb2PlaneMemory? Memory)> GetUserPtrAsync(
        string space, ulong address, ulong size, DmaDirection direction, Vb2PlaneMemory? replaced = null);

    /// <summary>DMABUF: attach and map.</summary>
    public abstract Task<(Errno Errno, Vb2PlaneMemory? Memory)> AttachDmaBufAsync(string name, ulong size);

    /// <summary>
    /// EXPBUF: a dma-buf over memory that <see cref="AllocAsync"/> made; null when there is no exporter.
    /// </summary>
    public virtual async Task<string?> ExportAsync(Vb2PlaneMemory memory, string lease) =>
        memory is AllocatedMemory { Buffer: var buffer }
            ? await Kernel.ExportAsync(buffer, lease).ConfigureAwait(false)
            : null;

    /// <summary>Bytes of a dma-buf; null when there is no such one.</summary>
    public async Task<ulong?> SizeOfAsync(string name) =>
        await Kernel.FindDmaBufAsync(name).ConfigureAwait(false) is { } frames ? frames.Count << 12 : null;

    private protected static bool IsWrite(DmaDirection direction) => direction != DmaDirection.ToDevice;
}

/// <summary>A queue's driver (struct vb2_ops). Called with the queue's lock held unless it says otherwise.</summary>
public interface IVb2Driver
{
    /// <summary>
    /// queue_setup: how many buffers of how many bytes a plane. <paramref name="sizes"/> is empty for REQBUFS, and
    /// given by the caller for CREATE_BUFS: then it is checked.
    /// </summary>
    Errno QueueSetup(Vb2Queue queue, ref uint count, ref ulong[] sizes);

    /// <summary>buf_init: new memory is behind the buffer.</summary>
    Errno BufInit(Vb2Buffer buffer) => Errno.None;

    /// <summary>buf_prepare: the buffer is about to be queued.</summary>
    Errno BufPrepare(Vb2Buffer buffer) => Errno.None;

    /// <summary>buf_finish: the buffer goes back to the application.</summary>
    void BufFinish(Vb2Buffer buffer)
    {
    }

    /// <summary>buf_cleanup: its memory goes.</summary>
    void BufCleanup(Vb2Buffer buffer)
    {
    }

    /// <summary>
    /// start_streaming. On an errno the driver gives every active buffer back as <see cref="Vb2State.Queued"/>.
    /// </summary>
    Errno StartStreaming(Vb2Queue queue, uint count);

    /// <summary>stop_streaming: nothing is touched any more, and every active buffer given back.</summary>
    Task StopStreamingAsync(Vb2Queue queue);

    /// <summary>buf_queue: the buffer is the driver's now.</summary>
    void BufQueue(Vb2Buffer buffer);
}
