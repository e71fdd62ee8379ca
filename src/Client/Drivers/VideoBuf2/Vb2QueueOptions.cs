namespace FramePin.Drivers.VideoBuf2;

/// <summary>The set-up of a queue (fields of struct vb2_queue that a driver fills). Immutable.</summary>
public sealed record Vb2QueueOptions
{
    /// <summary>V4L2_BUF_TYPE_*.</summary>
    public required uint Type { get; init; }

    /// <summary>Direction of the data.</summary>
    public required DmaDirection Direction { get; init; }

    /// <summary>Kinds of memory and access that the driver offers.</summary>
    public Vb2IoModes IoModes { get; init; } = Vb2IoModes.Mmap | Vb2IoModes.UserPtr | Vb2IoModes.DmaBuf;

    /// <summary>Most buffers: VIDEO_MAX_FRAME unless the driver says otherwise.</summary>
    public uint MaxBuffers { get; init; } = 32;

    /// <summary>min_queued_buffers: start_streaming waits for as many.</summary>
    public uint MinQueued { get; init; }

    /// <summary>Buffers can go with requests.</summary>
    public bool SupportsRequests { get; init; }

    /// <summary>Requests have to be used: a plain QBUF is -EBADR.</summary>
    public bool RequiresRequests { get; init; }

    /// <summary>
    /// Timestamps of output buffers are copied from the application (V4L2_BUF_FLAG_TIMESTAMP_COPY). Otherwise they are
    /// the driver's clock (TIMESTAMP_MONOTONIC).
    /// </summary>
    public bool CopiesTimestamps { get; init; }

    /// <summary>REMOVE_BUFS is offered.</summary>
    public bool SupportsRemove { get; init; }

    /// <summary>The application fills the buffers, and the device reads them.</summary>
    public bool IsOutput => Type is V4l2.BufferType.Output or V4l2.BufferType.OutputMplane;

    /// <summary>Buffers have several planes.</summary>
    public bool IsMultiplanar => Type is V4l2.BufferType.CaptureMplane or V4l2.BufferType.OutputMplane;
}
