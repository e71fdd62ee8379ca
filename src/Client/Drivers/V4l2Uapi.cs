using System.Buffers.Binary;
using System.Text;
using FramePin.V1;
using Google.Protobuf;

namespace FramePin.Drivers;

/// <summary>
/// The ioctls of a single-planar video node by number: the structures of linux/videodev2.h on x86-64, read into the
/// typed form and written back from it. Fields that the typed form does not have stay as the caller gave them.
/// </summary>
internal static class V4l2Uapi
{
    private const int CapabilityBytes = 104;
    private const int FormatBytes = 208;
    private const int RequestBuffersBytes = 20;
    private const int BufferBytes = 88;
    private const int TypeBytes = 4;
    private const uint HasDeviceCapabilities = 0x8000_0000;
    private const uint MemoryUserPtr = 2;

    /// <summary>A command of the typed form, the bytes of its structure, and the way to read and to write it.</summary>
    private sealed record Form(
        string Command, int Bytes, Func<ReadOnlyMemory<byte>, IMessage> Read, Action<IMessage, byte[]> Write);

    /// <summary>By request number: direction, size, 'V' and the number of the command.</summary>
    private static readonly Dictionary<uint, Form> Forms = new()
    {
        [0x8068_5600] = new(V4l2.QueryCapabilities, CapabilityBytes, _ => new V4l2Capability(), WriteCapability),
        [0xc0d0_5604] = new(V4l2.GetFormat, FormatBytes, ReadFormat, WriteFormat),
        [0xc0d0_5605] = new(V4l2.SetFormat, FormatBytes, ReadFormat, WriteFormat),
        [0xc0d0_5640] = new(V4l2.TryFormat, FormatBytes, ReadFormat, WriteFormat),
        [0xc014_5608] = new(V4l2.RequestBuffers, RequestBuffersBytes, ReadRequest, WriteRequest),
        [0xc058_5609] = new(V4l2.QueryBuffer, BufferBytes, ReadBuffer, WriteBuffer),
        [0xc058_560f] = new(V4l2.QueueBuffer, BufferBytes, ReadBuffer, WriteBuffer),
        [0xc058_5611] = new(V4l2.DequeueBuffer, BufferBytes, ReadBuffer, WriteBuffer),
        [0xc058_565d] = new(V4l2.PrepareBuffer, BufferBytes, ReadBuffer, WriteBuffer),
        [0x4004_5612] = new(V4l2.StreamOn, TypeBytes, ReadStream, (_, _) => { }),
        [0x4004_5613] = new(V4l2.StreamOff, TypeBytes, ReadStream, (_, _) => { }),
    };

    /// <summary>
    /// Runs an ioctl by number as the typed one. -ENOTTY for a number that is not in the table, -EFAULT for bytes that
    /// are fewer than its structure has. As in video_usercopy, a call that fails leaves the bytes as they came.
    /// </summary>
    /// <param name="file">The file that runs the typed form.</param>
    /// <param name="ioctl">The call.</param>
    /// <param name="version">LINUX_VERSION_CODE, for VIDIOC_QUERYCAP.</param>
    /// <param name="signal">A signal for the caller.</param>
    public static async ValueTask<UapiIoctlResult> RunAsync(
        DriverFile file, UapiIoctl ioctl, uint version, CancellationToken signal)
    {
        if (!Forms.TryGetValue(ioctl.Request, out var form)) return Errno.ENOTTY;
        if (ioctl.Argument.Length != form.Bytes) return Errno.EFAULT;
        var context = new IoctlContext(
            form.Command, form.Read(ioctl.Argument).ToByteString(), ioctl.AddressSpace, ioctl.IsNonBlocking);
        var result = await file.IoctlAsync(context, signal).ConfigureAwait(false);
        if (result.Errno != Errno.None || result.Argument is not { } answer) return result.Errno;
        var bytes = ioctl.Argument.ToArray();
        form.Write(answer, bytes);
        if (answer is V4l2Capability) Put(bytes, 80, version);
        return new UapiIoctlResult(Errno.None, bytes) { TakeBack = result.TakeBack };
    }

    /// <summary>struct v4l2_capability.</summary>
    private static void WriteCapability(IMessage message, byte[] bytes)
    {
        var answer = (V4l2Capability)message;
        Array.Clear(bytes);
        Encoding.ASCII.GetBytes(answer.Driver, bytes.AsSpan(0, 15));
        Encoding.ASCII.GetBytes(answer.Card, bytes.AsSpan(16, 31));
        Encoding.ASCII.GetBytes($"platform:{answer.Driver}-000", bytes.AsSpan(48, 31));
        Put(bytes, 84, answer.Capabilities | HasDeviceCapabilities);
        Put(bytes, 88, answer.Capabilities);
    }

    /// <summary>struct v4l2_format with a struct v4l2_pix_format.</summary>
    private static V4l2Format ReadFormat(ReadOnlyMemory<byte> bytes) => new()
    {
        Type = Get(bytes, 0),
        Width = Get(bytes, 8),
        Height = Get(bytes, 12),
        PixelFormat = Get(bytes, 16),
        Planes = { new V4l2PlaneFormat { BytesPerLine = Get(bytes, 24), SizeImage = Get(bytes, 28) } },
    };

    private static void WriteFormat(IMessage message, byte[] bytes)
    {
        const uint fieldNone = 1;
        var answer = (V4l2Format)message;
        Put(bytes, 8, answer.Width);
        Put(bytes, 12, answer.Height);
        Put(bytes, 16, answer.PixelFormat);
        Put(bytes, 20, fieldNone);
        Put(bytes, 24, answer.Planes[0].BytesPerLine);
        Put(bytes, 28, answer.Planes[0].SizeImage);
    }

    /// <summary>struct v4l2_requestbuffers.</summary>
    private static V4l2RequestBuffers ReadRequest(ReadOnlyMemory<byte> bytes) => new()
    {
        Count = Get(bytes, 0),
        Type = Get(bytes, 4),
        Memory = Get(bytes, 8),
    };

    private static void WriteRequest(IMessage message, byte[] bytes)
    {
        var answer = (V4l2RequestBuffers)message;
        Put(bytes, 0, answer.Count);
        Put(bytes, 12, answer.Capabilities);
    }

    /// <summary>
    /// struct v4l2_buffer. A descriptor of a dma-buf has no meaning here, where dma-bufs have names: a buffer with one
    /// is refused as one with a descriptor that is not open.
    /// </summary>
    private static V4l2Buffer ReadBuffer(ReadOnlyMemory<byte> bytes)
    {
        var memory = Get(bytes, 60);
        return new V4l2Buffer
        {
            Index = Get(bytes, 0),
            Type = Get(bytes, 4),
            Flags = Get(bytes, 12),
            Field = Get(bytes, 16),
            Memory = memory,
            Planes =
            {
                new V4l2Plane
                {
                    BytesUsed = Get(bytes, 8),
                    Length = Get(bytes, 72),
                    UserPointer = memory == MemoryUserPtr ? GetLong(bytes, 64) : 0,
                },
            },
            RequestFd = (int)Get(bytes, 80),
        };
    }

    private static void WriteBuffer(IMessage message, byte[] bytes)
    {
        const ulong second = 1_000_000_000;
        var answer = (V4l2Buffer)message;
        var plane = answer.Planes[0];
        Put(bytes, 0, answer.Index);
        Put(bytes, 8, plane.BytesUsed);
        Put(bytes, 12, answer.Flags);
        Put(bytes, 16, answer.Field);
        // struct timeval: seconds and microseconds.
        PutLong(bytes, 24, answer.Timestamp / second);
        PutLong(bytes, 32, answer.Timestamp % second / 1000);
        Put(bytes, 56, answer.Sequence);
        Put(bytes, 60, answer.Memory);
        PutLong(bytes, 64, answer.Memory == MemoryUserPtr ? plane.UserPointer : plane.Offset);
        Put(bytes, 72, plane.Length);
        Put(bytes, 80, (uint)answer.RequestFd);
    }

    private static V4l2Stream ReadStream(ReadOnlyMemory<byte> bytes) => new() { Type = Get(bytes, 0) };

    private static uint Get(ReadOnlyMemory<byte> bytes, int at) =>
        BinaryPrimitives.ReadUInt32LittleEndian(bytes.Span[at..]);

    private static ulong GetLong(ReadOnlyMemory<byte> bytes, int at) =>
        BinaryPrimitives.ReadUInt64LittleEndian(bytes.Span[at..]);

    private static void Put(byte[] bytes, int at, uint value) =>
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(at), value);

    private static void PutLong(byte[] bytes, int at, ulong value) =>
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(at), value);
}
