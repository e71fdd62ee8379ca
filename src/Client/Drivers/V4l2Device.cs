using FramePin.Client;
using FramePin.V1;

namespace FramePin.Drivers;

/// <summary>A video node as an application uses it: the ioctls of V4L2, a method each, which answer errnos.</summary>
/// <remarks>
/// Any thread, as a file descriptor. Owns its file. Every method is one call and throws <see cref="FramePinException"/>
/// when the daemon refuses it or cannot be reached.
/// </remarks>
public sealed class V4l2Device : IAsyncDisposable
{
    private readonly DriverHandle _file;

    private V4l2Device(DriverHandle file, string space, uint type)
    {
        _file = file;
        Space = space;
        Type = type;
    }

    /// <summary>Name of the application's address space: pointers in the arguments mean it.</summary>
    public string Space { get; set; }

    /// <summary>Type of the node's queue (<see cref="V4l2.BufferType"/>).</summary>
    public uint Type { get; }

    /// <summary>The open file.</summary>
    public DriverHandle File => _file;

    /// <summary>
    /// Opens a node and asks for its capabilities. Two calls.
    /// </summary>
    /// <param name="client">The daemon.</param>
    /// <param name="driver">"machines/{m}/drivers/{node}".</param>
    /// <param name="space">Name of the application's address space.</param>
    /// <param name="lease">Lease that the file is closed with; null for none.</param>
    /// <param name="isNonBlocking">O_NONBLOCK.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    /// <exception cref="IOException">The driver refuses the file, or the node is no video node; with the errno.
    /// </exception>
    /// <exception cref="FramePinException">NotFound: nobody serves the node.</exception>
    public static async Task<V4l2Device> OpenAsync(
        FramePinClient client, string driver, string space, string? lease = null, bool isNonBlocking = false,
        CancellationToken cancellationToken = default)
    {
        var (errno, file) = await DriverHandle.OpenAsync(
            client, driver, lease, isNonBlocking, cancellationToken).ConfigureAwait(false);
        if (file is null) throw new IOException($"{driver} cannot be opened: {errno}", (int)errno);
        var (failed, node) = await file.IoctlAsync(
            "", V4l2.QueryCapabilities, new V4l2Capability(), cancellationToken: cancellationToken).ConfigureAwait(
                false);
        if (failed != Errno.None)
            throw new IOException($"{driver} is no video node: VIDIOC_QUERYCAP answers {failed}", (int)failed);
        var type = (node.Capabilities & 0x3003) switch
        {
            1 => V4l2.BufferType.Capture,
            2 => V4l2.BufferType.Output,
            0x1000 => V4l2.BufferType.CaptureMplane,
            _ => V4l2.BufferType.OutputMplane,
        };
        return new V4l2Device(file, space, type);
    }

    /// <summary>VIDIOC_S_FMT. The answer is the format that the driver has set.</summary>
    /// <param name="code">Pixel format in four characters, such as "YUYV".</param>
    /// <param name="width">Pixels of a line.</param>
    /// <param name="height">Lines.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public Task<(Errno Errno, V4l2Format Format)> SetFormatAsync(
        string code, int width, int height, CancellationToken cancellationToken = default) =>
        IoctlAsync(
            V4l2.SetFormat, new V4l2Format
            {
                Type = Type,
                Width = (uint)width,
                Height = (uint)height,
                PixelFormat = V4l2.FourCc(code)
            }, cancellationToken);

    /// <summary>VIDIOC_G_FMT.</summary>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public Task<(Errno Errno, V4l2Format Format)> GetFormatAsync(CancellationToken cancellationToken = default) =>
        IoctlAsync(V4l2.GetFormat, new V4l2Format { Type = Type }, cancellationToken);

    /// <summary>VIDIOC_S_CTRL.</summary>
    /// <param name="id">Name of the control.</param>
    /// <param name="value">Its value.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public async Task<Errno> SetControlAsync(
        string id, int value, CancellationToken cancellationToken = default) =>
        (await IoctlAsync(V4l2.SetControl, new V4l2Control { Id = id, Value = value }, cancellationToken)
            .ConfigureAwait(false)).Errno;

    /// <summary>VIDIOC_S_PARM.</summary>
    /// <param name="framesPerSecond">Frames a second; 0: as fast as buffers come.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public async Task<Errno> SetFrameRateAsync(
        double framesPerSecond, CancellationToken cancellationToken = default)
    {
        const uint unit = 100_000;
        var time = new V4l2Fraction { Numerator = unit, Denominator = (uint)Math.Round(framesPerSecond * unit) };
        var argument = new V4l2StreamParameters { Type = Type, TimePerFrame = framesPerSecond == 0 ? null : time };
        return (await IoctlAsync(V4l2.SetParameters, argument, cancellationToken).ConfigureAwait(false)).Errno;
    }

    /// <summary>VIDIOC_REQBUFS. The answer tells how many buffers there are.</summary>
    /// <param name="count">Buffers; 0 frees them.</param>
    /// <param name="memory">V4L2_MEMORY_* (<see cref="VideoBuf2.Vb2Memory"/>).</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public Task<(Errno Errno, V4l2RequestBuffers Answer)> RequestBuffersAsync(
        uint count, uint memory, CancellationToken cancellationToken = default) =>
        IoctlAsync(
            V4l2.RequestBuffers, new V4l2RequestBuffers { Count = count, Type = Type, Memory = memory },
            cancellationToken);

    /// <summary>VIDIOC_QBUF of a USERPTR buffer with one plane.</summary>
    /// <param name="index">Number of the buffer.</param>
    /// <param name="address">Its first byte in the application's address space.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="bytesUsed">Output: bytes of the picture; 0 for all.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public Task<(Errno Errno, V4l2Buffer Buffer)> QueueUserPtrAsync(
        uint index, ulong address, uint length, uint bytesUsed = 0, CancellationToken cancellationToken = default) =>
        QueueAsync(
            new V4l2Buffer
            {
                Index = index,
                Memory = (uint)VideoBuf2.Vb2Memory.UserPtr,
                Planes = { new V4l2Plane { UserPointer = address, Length = length, BytesUsed = bytesUsed } },
            },
            cancellationToken);

    /// <summary>VIDIOC_QBUF.</summary>
    /// <param name="buffer">The argument; its type is filled in when it is 0.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public Task<(Errno Errno, V4l2Buffer Buffer)> QueueAsync(
        V4l2Buffer buffer, CancellationToken cancellationToken = default) =>
        IoctlAsync(V4l2.QueueBuffer, Typed(buffer), cancellationToken);

    /// <summary>VIDIOC_PREPARE_BUF.</summary>
    /// <param name="buffer">The argument; its type is filled in when it is 0.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public Task<(Errno Errno, V4l2Buffer Buffer)> PrepareAsync(
        V4l2Buffer buffer, CancellationToken cancellationToken = default) =>
        IoctlAsync(V4l2.PrepareBuffer, Typed(buffer), cancellationToken);

    /// <summary>VIDIOC_QUERYBUF.</summary>
    /// <param name="index">Number of the buffer.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public Task<(Errno Errno, V4l2Buffer Buffer)> QueryAsync(
        uint index, CancellationToken cancellationToken = default) =>
        IoctlAsync(V4l2.QueryBuffer, Empty(index, memory: 0), cancellationToken);

    /// <summary>VIDIOC_DQBUF. Waits for a buffer unless it is told not to.</summary>
    /// <param name="memory">V4L2_MEMORY_* of the queue.</param>
    /// <param name="isNonBlocking">O_NONBLOCK for this call: EAGAIN where no buffer is done.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    /// <exception cref="OperationCanceledException"><paramref name="cancellationToken"/> was signalled.</exception>
    public Task<(Errno Errno, V4l2Buffer Buffer)> DequeueAsync(
        uint memory, bool isNonBlocking = false, CancellationToken cancellationToken = default) =>
        _file.IoctlAsync(
            Space, V4l2.DequeueBuffer, Empty(0, memory), isNonBlocking, cancellationToken);

    /// <summary>
    /// poll: <see cref="PollEvents.In"/> when a capture queue has a frame to be dequeued, <see cref="PollEvents.Out"/>
    /// for an output queue; <see cref="PollEvents.Error"/> on a queue that does not stream.
    /// </summary>
    /// <param name="events">What is asked for.</param>
    /// <param name="timeout">How long to wait; zero: not at all; null: without an end.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public Task<(Errno Errno, PollEvents Events)> PollAsync(
        PollEvents events, TimeSpan? timeout = null, CancellationToken cancellationToken = default) =>
        _file.PollAsync(events, timeout, cancellationToken);

    /// <summary>VIDIOC_EXPBUF: makes a dma-buf over an MMAP buffer.</summary>
    /// <param name="index">Number of the buffer.</param>
    /// <param name="plane">Number of the plane.</param>
    /// <param name="lease">Lease that owns the dma-buf; empty: it lives until it is unpinned.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public Task<(Errno Errno, V4l2ExportBuffer Answer)> ExportAsync(
        uint index, uint plane = 0, string lease = "", CancellationToken cancellationToken = default) =>
        IoctlAsync(
            V4l2.ExportBuffer, new V4l2ExportBuffer { Type = Type, Index = index, Plane = plane, Lease = lease },
            cancellationToken);

    /// <summary>VIDIOC_STREAMON.</summary>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public async Task<Errno> StreamOnAsync(CancellationToken cancellationToken = default) =>
        (await IoctlAsync(
            V4l2.StreamOn, new V4l2Stream { Type = Type }, cancellationToken).ConfigureAwait(false)).Errno;

    /// <summary>VIDIOC_STREAMOFF.</summary>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public async Task<Errno> StreamOffAsync(CancellationToken cancellationToken = default) =>
        (await IoctlAsync(V4l2.StreamOff, new V4l2Stream { Type = Type }, cancellationToken).ConfigureAwait(false))
        .Errno;

    /// <summary>Any ioctl of the node.</summary>
    /// <typeparam name="T">The message that stands for the argument's struct.</typeparam>
    /// <param name="command">Name of the command, such as "VIDIOC_QUERYCAP".</param>
    /// <param name="argument">The argument.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public Task<(Errno Errno, T Answer)> IoctlAsync<T>(
        string command, T argument, CancellationToken cancellationToken = default)
        where T : Google.Protobuf.IMessage<T>, new() =>
        _file.IoctlAsync(Space, command, argument, cancellationToken: cancellationToken);

    /// <summary>close. Completes when the driver has released the file. Does not throw.</summary>
    public ValueTask DisposeAsync() => _file.DisposeAsync();

    /// <summary>An argument for an answer, with room for every plane that there can be.</summary>
    private V4l2Buffer Empty(uint index, uint memory)
    {
        var buffer = new V4l2Buffer { Type = Type, Index = index, Memory = memory };
        if (Type is not (V4l2.BufferType.CaptureMplane or V4l2.BufferType.OutputMplane)) return buffer;
        buffer.Length = V4l2.MaxPlanes;
        for (var plane = 0; plane < V4l2.MaxPlanes; plane++) buffer.Planes.Add(new V4l2Plane());
        return buffer;
    }

    private V4l2Buffer Typed(V4l2Buffer buffer)
    {
        if (buffer.Type == 0) buffer.Type = Type;
        return buffer;
    }
}
