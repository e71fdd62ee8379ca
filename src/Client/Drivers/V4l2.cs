namespace FramePin.Drivers;

/// <summary>Names of ioctls, flags and types of V4L2 (linux/videodev2.h) that applications and drivers share.</summary>
public static class V4l2
{
    /// <summary>VIDIOC_QUERYCAP.</summary>
    public const string QueryCapabilities = "VIDIOC_QUERYCAP";

    /// <summary>VIDIOC_G_FMT.</summary>
    public const string GetFormat = "VIDIOC_G_FMT";

    /// <summary>VIDIOC_S_FMT.</summary>
    public const string SetFormat = "VIDIOC_S_FMT";

    /// <summary>VIDIOC_TRY_FMT.</summary>
    public const string TryFormat = "VIDIOC_TRY_FMT";

    /// <summary>VIDIOC_REQBUFS.</summary>
    public const string RequestBuffers = "VIDIOC_REQBUFS";

    /// <summary>VIDIOC_CREATE_BUFS.</summary>
    public const string CreateBuffers = "VIDIOC_CREATE_BUFS";

    /// <summary>VIDIOC_REMOVE_BUFS.</summary>
    public const string RemoveBuffers = "VIDIOC_REMOVE_BUFS";

    /// <summary>VIDIOC_QUERYBUF.</summary>
    public const string QueryBuffer = "VIDIOC_QUERYBUF";

    /// <summary>VIDIOC_QBUF.</summary>
    public const string QueueBuffer = "VIDIOC_QBUF";

    /// <summary>VIDIOC_DQBUF.</summary>
    public const string DequeueBuffer = "VIDIOC_DQBUF";

    /// <summary>VIDIOC_PREPARE_BUF.</summary>
    public const string PrepareBuffer = "VIDIOC_PREPARE_BUF";

    /// <summary>VIDIOC_EXPBUF.</summary>
    public const string ExportBuffer = "VIDIOC_EXPBUF";

    /// <summary>VIDIOC_STREAMON.</summary>
    public const string StreamOn = "VIDIOC_STREAMON";

    /// <summary>VIDIOC_STREAMOFF.</summary>
    public const string StreamOff = "VIDIOC_STREAMOFF";

    /// <summary>VIDIOC_S_PARM.</summary>
    public const string SetParameters = "VIDIOC_S_PARM";

    /// <summary>VIDIOC_G_CTRL.</summary>
    public const string GetControl = "VIDIOC_G_CTRL";

    /// <summary>VIDIOC_S_CTRL.</summary>
    public const string SetControl = "VIDIOC_S_CTRL";

    /// <summary>MEDIA_IOC_REQUEST_ALLOC.</summary>
    public const string AllocateRequest = "MEDIA_IOC_REQUEST_ALLOC";

    /// <summary>MEDIA_REQUEST_IOC_QUEUE.</summary>
    public const string QueueRequest = "MEDIA_REQUEST_IOC_QUEUE";

    /// <summary>MEDIA_REQUEST_IOC_REINIT.</summary>
    public const string ReinitRequest = "MEDIA_REQUEST_IOC_REINIT";

    /// <summary>VIDEO_MAX_PLANES: entries of an array of planes.</summary>
    public const int MaxPlanes = 8;

    /// <summary>V4L2_BUF_FLAG_MAPPED: mapped by an application, or exported as a dma-buf.</summary>
    public const uint FlagMapped = 1;

    /// <summary>V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC: timestamps are the driver's clock.</summary>
    public const uint FlagTimestampMonotonic = 0x2000;

    /// <summary>V4L2_BUF_FLAG_TIMESTAMP_COPY: timestamps are copied from the application's output buffers.</summary>
    public const uint FlagTimestampCopy = 0x4000;

    /// <summary>V4L2_BUF_FLAG_QUEUED.</summary>
    public const uint FlagQueued = 2;

    /// <summary>V4L2_BUF_FLAG_DONE.</summary>
    public const uint FlagDone = 4;

    /// <summary>V4L2_BUF_FLAG_ERROR: the contents are not to be trusted.</summary>
    public const uint FlagError = 0x40;

    /// <summary>V4L2_BUF_FLAG_IN_REQUEST: bound to a request that is not queued yet.</summary>
    public const uint FlagInRequest = 0x80;

    /// <summary>V4L2_BUF_FLAG_REQUEST_FD: QBUF binds the buffer to a request.</summary>
    public const uint FlagRequestFd = 0x80_0000;

    /// <summary>V4L2_BUF_FLAG_PREPARED.</summary>
    public const uint FlagPrepared = 0x400;

    /// <summary>Kinds of buffers (enum v4l2_buf_type).</summary>
    public static class BufferType
    {
        /// <summary>V4L2_BUF_TYPE_VIDEO_CAPTURE.</summary>
        public const uint Capture = 1;

        /// <summary>V4L2_BUF_TYPE_VIDEO_OUTPUT.</summary>
        public const uint Output = 2;

        /// <summary>V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE.</summary>
        public const uint CaptureMplane = 9;

        /// <summary>V4L2_BUF_TYPE_VIDEO_OUTPUT_MPLANE.</summary>
        public const uint OutputMplane = 10;
    }

    /// <summary>The code of a pixel format (v4l2_fourcc).</summary>
    /// <param name="code">Its four characters, such as "YUYV".</param>
    /// <exception cref="ArgumentException"><paramref name="code"/> has another length.</exception>
    public static uint FourCc(string code) => code is { Length: 4 }
        ? code[0] | ((uint)code[1] << 8) | ((uint)code[2] << 16) | ((uint)code[3] << 24)
        : throw new ArgumentException("a pixel format has four characters, such as YUYV", nameof(code));

    /// <summary>The four characters of a pixel format.</summary>
    /// <param name="fourCc">Its code.</param>
    public static string Name(uint fourCc) =>
        new(
            [(char)(fourCc & 0x7f), (char)((fourCc >> 8) & 0x7f), (char)((fourCc >> 16) & 0x7f),
                (char)((fourCc >> 24) & 0x7f)]);
}
