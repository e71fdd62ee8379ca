using FramePin.Client;
using FramePin.Drivers;
using FramePin.V1;

namespace FramePin.Drivers;

/// <summary>A video node as an application uses it: the ioctls of V4L2, one method each, answering errnos.</summary>
/// <remarks>Any thread, as a file descriptor. Owns its file.</remarks>
public sealed class V4l2Device : IAsyncDisposable
{
    private readonly DriverHandle _file;

    private V4l2Device(DriverHandle file, string space, uint type)
    {
        _file = file;
        Space = space;
        Type = type;
    }

    /// <summary>The application's address space.</summary>
    public string Space { get; set; }

    /// <summary>V4L2_BUF_TYPE_* of its queue.</summary>
    public uint Type { get; }

    /// <summary>The open file.</summary>
    public DriverHandle File => _file;

    /// <summary>
    /// Opens a node and asks what it is. Throws <see cref="IOException"/> with the errno when it cannot be opened.
    /// </summary>
    /// <param name="client">The daemon.</param>
    /// <param name="driver">"machines/{m}/drivers/{node}".</param>
    /// <param name="space">The application's address space.</param>
    /// <param name="lease">Lease that the file is closed with; null for none.</param>
    /// <param name="isNonBlocking">O_NONBLOCK.</param>
    /// <param name="cancelled">Gives it up.</param>
    public static async Task<V4l2Device> OpenAsync(
        FramePinClient client, string driver, string space, string? lease = null, bool isNonBlocking = false,
        CancellationToken cancelled = default)
    {
        var (errno, file) = await DriverHandle.OpenAsync(
            client, driver, lease, isNonBlocking, cancelled).ConfigureAwait(false);
        if (file is null) throw new IOException($"{driver} cannot be opened: {errno}", (int)errno);
        var (failed, is_) = await file.IoctlAsync(
            "", V4l2.QueryCapabilities, new V4l2Capability(), cancelled: cancelled).ConfigureAwait(false);
        if (failed != Errno.None)
            throw new IOException($"{driver} is no video node: VIDIOC_QUERYCAP answers {failed}", (int)failed);
        var type = (is_.Capabilities & 0x3003) switch
        {
            1 => V4l2.BufferType.Capture,
            2 => V4l2.BufferType.Output,
            0x1000 => V4l2.BufferType.CaptureMplane,
            _ => V4l2.BufferType.OutputMplane,
        };
        return new V4l2Device(file, space, type);
    }

    /// <summary>VIDIOC_S_FMT: what the driver made of it.</summary>
    public Task<(Errno Errno, V4l2Format Format)> SetFormatAsync(string code, int width, int height) =>
        Call(
            V4l2.SetFormat, new V4l2Format { Type = Type, Width = (uint)width, Height = (uint)height,
                PixelFormat = V4l2.FourCc(code) });

    /// <summary>VIDIOC_G_FMT.</summary>
    public Task<(Errno Errno, V4l2Format Format)> GetFormatAsync() =>
        Call(V4l2.GetFormat, new V4l2Format { Type = Type });

    /// <summary>VIDIOC_S_CTRL.</summary>
    public async Task<Errno> SetControlAsync(string id, int value) =>
        (await Call(V4l2.SetControl, new V4l2Control { Id = id, Value = value }).ConfigureAwait(false)).Errno;

    /// <summary>VIDIOC_S_PARM; 0: as fast as buffers come.</summary>
    public async Task<Errno> SetFrameRateAsync(double framesPerSecond)
    {
        const uint unit = 100_000;
        var time = new V4l2Fraction { Numerator = unit, Denominator = (uint)Math.Round(framesPerSecond * unit) };
        var argument = new V4l2StreamParameters { Type = Type, TimePerFrame = framesPerSecond == 0 ? null : time };
        return (await Call(V4l2.SetParameters, argument).ConfigureAwait(false)).Errno;
    }

    /// <summary>VIDIOC_REQBUFS: how many there are.</summary>
    public Task<(Errno Errno, V4l2RequestBuffers Answer)> RequestBuffersAsync(uint count, uint memory) =>
        Call(V4l2.RequestBuffers, new V4l2RequestBuffers { Count = count, Type = Type, Memory = memory });

    /// <summary>VIDIOC_QBUF of a USERPTR buffer with one plane.</summary>
    /// <param name="index">Which buffer.</param>
    /// <param name="address">Where it lies in the application's address space.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="bytesUsed">Output: bytes of the picture; 0 for all.</param>
    public Task<(Errno Errno, V4l2Buffer Buffer)> QueueUserPtrAsync(
        uint index, ulong address, uint length, uint bytesUsed = 0) =>
        QueueAsync(new V4l2Buffer
        {
            Index = index,
            Memory = (uint)Drivers.VideoBuf2.Vb2Memory.UserPtr,
            Planes = { new V4l2Plane { UserPointer = address, Length = length, BytesUsed = bytesUsed } },
        });

    /// <summary>VIDIOC_QBUF of whatever the argument says; its type is filled in when it is 0.</summary>
    public Task<(Errno Errno, V4l2Buffer Buffer)> QueueAsync(V4l2Buffer buffer) =>
        Call(V4l2.QueueBuffer, Typed(buffer));

    /// <summary>VIDIOC_PREPARE_BUF.</summary>
    public Task<(Errno Errno, V4l2Buffer Buffer)> PrepareAsync(V4l2Buffer buffer) =>
        Call(V4l2.PrepareBuffer, Typed(buffer));

    /// <summary>VIDIOC_QUERYBUF.</summary>
    public Task<(Errno Errno, V4l2Buffer Buffer)> QueryAsync(uint index) =>
        Call(V4l2.QueryBuffer, new V4l2Buffer { Type = Type, Index = index });

    /// <summary>VIDIOC_DQBUF: waits for a buffer unless told not to.</summary>
    public Task<(Errno Errno, V4l2Buffer Buffer)> DequeueAsync(
        uint memory, bool isNonBlocking = false, CancellationToken cancelled = default) =>
        _file.IoctlAsync(
            Space, V4l2.DequeueBuffer, new V4l2Buffer { Type = Type, Memory = memory }, isNonBlocking, cancelled);

    /// <summary>VIDIOC_EXPBUF: a dma-buf over an MMAP buffer.</summary>
    public Task<(Errno Errno, V4l2ExportBuffer Answer)> ExportAsync(uint index, uint plane = 0, string lease = "") =>
        Call(V4l2.ExportBuffer, new V4l2ExportBuffer { Type = Type, Index = index, Plane = plane, Lease = lease });

    /// <summary>VIDIOC_STREAMON.</summary>
    public async Task<Errno> StreamOnAsync() =>
        (await Call(V4l2.StreamOn, new V4l2Stream { Type = Type }).ConfigureAwait(false)).Errno;

    /// <summary>VIDIOC_STREAMOFF.</summary>
    public async Task<Errno> StreamOffAsync() =>
        (await Call(V4l2.StreamOff, new V4l2Stream { Type = Type }).ConfigureAwait(false)).Errno;

    /// <summary>Any other ioctl of the node.</summary>
    public Task<(Errno Errno, T Answer)> Call<T>(string command, T argument)
        where T : Google.Protobuf.IMessage<T>, new() => _file.IoctlAsync(Space, command, argument);

    /// <summary>close.</summary>
    public ValueTask DisposeAsync() => _file.DisposeAsync();

    private V4l2Buffer Typed(V4l2Buffer buffer)
    {
        if (buffer.Type == 0) buffer.Type = Type;
        return buffer;
    }
}
