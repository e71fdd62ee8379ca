namespace FramePin.Drivers;

/// <summary>Names and numbers of V4L2 (linux/videodev2.h) that applications and drivers share.</summary>
public static class V4l2
{
    public const string QueryCapabilities = "VIDIOC_QUERYCAP";
    public const string GetFormat = "VIDIOC_G_FMT";
    public const string SetFormat = "VIDIOC_S_FMT";
    public const string TryFormat = "VIDIOC_TRY_FMT";
    public const string RequestBuffers = "VIDIOC_REQBUFS";
    public const string CreateBuffers = "VIDIOC_CREATE_BUFS";
    public const string RemoveBuffers = "VIDIOC_REMOVE_BUFS";
    public const string QueryBuffer = "VIDIOC_QUERYBUF";
    public const string QueueBuffer = "VIDIOC_QBUF";
    public const string DequeueBuffer = "VIDIOC_DQBUF";
    public const string PrepareBuffer = "VIDIOC_PREPARE_BUF";
    public const string ExportBuffer = "VIDIOC_EXPBUF";
    public const string StreamOn = "VIDIOC_STREAMON";
    public const string StreamOff = "VIDIOC_STREAMOFF";
    public const string SetParameters = "VIDIOC_S_PARM";
    public const string GetControl = "VIDIOC_G_CTRL";
    public const string SetControl = "VIDIOC_S_CTRL";
    public const string AllocateRequest = "MEDIA_IOC_REQUEST_ALLOC";
    public const string QueueRequest = "MEDIA_REQUEST_IOC_QUEUE";
    public const string ReinitRequest = "MEDIA_REQUEST_IOC_REINIT";

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

    /// <summary>V4L2_BUF_TYPE_*.</summary>
    public static class BufferType
    {
        public const uint Capture = 1;
        public const uint Output = 2;
        public const uint CaptureMplane = 9;
        public const uint OutputMplane = 10;
    }

    /// <summary>A pixel format's code from its four characters.</summary>
    public static uint FourCc(string code) => code is { Length: 4 }
        ? code[0] | ((uint)code[1] << 8) | ((uint)code[2] << 16) | ((uint)code[3] << 24)
        : throw new ArgumentException("a pixel format has four characters, such as YUYV", nameof(code));

    /// <summary>The four characters of a pixel format.</summary>
    public static string Name(uint fourCc) =>
        new(
            [(char)(fourCc & 0x7f), (char)((fourCc >> 8) & 0x7f), (char)((fourCc >> 16) & 0x7f),
                (char)((fourCc >> 24) & 0x7f)]);

    internal static bool IsQueueIoctl(string command) =>
        command is RequestBuffers or CreateBuffers or RemoveBuffers or QueryBuffer
        or QueueBuffer or DequeueBuffer or PrepareBuffer or ExportBuffer or StreamOn or StreamOff or AllocateRequest
            or QueueRequest or ReinitRequest;
}
