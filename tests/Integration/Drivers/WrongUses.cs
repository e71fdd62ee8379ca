using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using Google.Protobuf;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>What the rows of `wrong-uses.tsv` do, on a file of their own, and how they word the answers.</summary>
internal sealed partial class WrongUses(VividRig rig, V4l2Device device, VividOptions options, TickingTime time)
{
    /// <summary>Memory of the application: 1 MiB.</summary>
    public const ulong At = 0x1000_0000;

    private const ulong ReadOnly = 0x3000_0000;

    /// <summary>VIDIOC_REQBUFS.</summary>
    private const uint RequestNumber = 0xc014_5608;
    private const ulong Step = 0x4_0000;
    private const uint Mmap = (uint)Vb2Memory.Mmap;
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;
    private const uint DmaBuf = (uint)Vb2Memory.DmaBuf;
    private const uint TimestampBits = 0x7_e000;
    private const int ReadWrite = 3;
    private const int Write = 2;

    private readonly VividRig _rig = rig;
    private readonly V4l2Device _device = device;
    private readonly VividOptions _options = options;

    private TickingTime Time { get; } = time;

    private uint[] Lengths => _options.IsMultiplanar ? [57_728, 57_600] : [115_200];

    private static string Say(Errno errno) => errno == Errno.None ? "0" : errno.ToString();

    private async Task<string> RequestAsync(uint count, uint memory)
    {
        var (errno, answer) = await _device.RequestBuffersAsync(count, memory);
        return $"{Say(errno)} count {answer.Count}";
    }

    private async Task<string> RequestOnlyAsync(uint count, uint memory, uint? type = null)
    {
        var argument = new V4l2RequestBuffers { Count = count, Memory = memory, Type = type ?? _device.Type };
        return Say((await _device.IoctlAsync(V4l2.RequestBuffers, argument)).Errno);
    }

    /// <summary>An argument of QBUF with its planes.</summary>
    private V4l2Buffer Buffer(uint index, uint memory = Mmap)
    {
        var buffer = new V4l2Buffer { Index = index, Memory = memory, Type = _device.Type };
        for (var i = 0; i < Lengths.Length; i++)
        {
            var plane = new V4l2Plane();
            if (memory == UserPtr)
            {
                plane.UserPointer = At + (((index * 2) + (ulong)i) * Step);
                plane.Length = Lengths[i];
            }

            buffer.Planes.Add(plane);
        }

        if (_options.IsMultiplanar) buffer.Length = (uint)Lengths.Length;
        return buffer;
    }

    private async Task<string> QueueAsync(V4l2Buffer buffer) => Say((await _device.QueueAsync(buffer)).Errno);

    /// <summary>The errno, and the flags that QUERYBUF shows afterwards.</summary>
    private async Task<string> WithFlagsAsync(Errno errno, uint index = 0) =>
        $"{Say(errno)} flags {await FlagsAsync(index)}";

    private async Task<string> FlagsAsync(uint index) => Flags((await _device.QueryAsync(index)).Buffer);

    private static string Flags(V4l2Buffer buffer) => $"{buffer.Flags & ~TimestampBits:x}";

    /// <summary>MMAP buffers, all of them queued.</summary>
    private async Task QueueAllAsync(uint count, uint memory = Mmap)
    {
        await _device.RequestBuffersAsync(count, memory);
        for (var index = 0U; index < count; index++) await _device.QueueAsync(Buffer(index, memory));
    }

    /// <summary>STREAMON with buffers queued, up to the timer of the frames.</summary>
    private async Task StartAsync()
    {
        Time.ForgetTimers();
        await _device.StreamOnAsync();
        await Time.TimerAsync();
    }

    /// <summary>The next frame, for which the clock goes on by one.</summary>
    private async Task<V4l2Buffer> DequeueAsync()
    {
        var taking = _device.DequeueAsync(Mmap);
        Time.Tick();
        return (await taking).Buffer;
    }

    private async Task<string> PollAsync()
    {
        var (_, events) = await _device.PollAsync(PollEvents.In | PollEvents.Out, TimeSpan.Zero);
        return $"revents {(int)events}";
    }

    private async Task<string> MapAsync(int prot, bool isShared, ulong more = 0, ulong? offset = null)
    {
        await _device.RequestBuffersAsync(2, Mmap);
        return await MapOnlyAsync(prot, isShared, more, offset);
    }

    private async Task<string> MapOnlyAsync(int prot, bool isShared, ulong more = 0, ulong? offset = null)
    {
        var plane = (await _device.QueryAsync(0)).Buffer.Planes[0];
        var length = ((plane.Length + 4095UL) & ~4095UL) + more;
        var (errno, address) = await _device.File.MapAsync(
            _rig.SpaceName, length, (uint)prot, isShared ? 1U : 2U, offset ?? plane.Offset);
        if (errno == Errno.None) _rig.Machine.Munmap(_rig.Lab.Space, address, length);
        return errno == Errno.None ? "ok" : errno.ToString();
    }

    /// <summary>Maps the first plane of the first buffer, and leaves it mapped.</summary>
    private async Task<(ulong Address, ulong Length)> KeepMappedAsync()
    {
        var plane = (await _device.QueryAsync(0)).Buffer.Planes[0];
        var length = (plane.Length + 4095UL) & ~4095UL;
        return ((await _device.File.MapAsync(_rig.SpaceName, length, ReadWrite, 1, plane.Offset)).Address, length);
    }

    private async Task<string> ExportAsync(uint flags, uint plane = 0)
    {
        await _device.RequestBuffersAsync(2, Mmap);
        var argument = new V4l2ExportBuffer { Type = _device.Type, Plane = plane, Flags = flags };
        var (errno, answer) = await _device.IoctlAsync(V4l2.ExportBuffer, argument);
        if (errno != Errno.None) return errno.ToString();
        await _rig.Daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = answer.DmaBuf });
        return "ok";
    }

    private async Task<(Errno Errno, V4l2CreateBuffers Answer)> CreateAsync(
        uint count, uint memory = Mmap, uint? type = null, bool isEmpty = false)
    {
        var format = (await _device.GetFormatAsync()).Format;
        format.Type = type ?? format.Type;
        if (isEmpty) foreach (var plane in format.Planes) plane.SizeImage = 0;
        return await _device.IoctlAsync(
            V4l2.CreateBuffers, new V4l2CreateBuffers { Count = count, Memory = memory, Format = format });
    }

    private async Task<string> CreateMoreAsync(uint before, uint count)
    {
        if (before > 0) await _device.RequestBuffersAsync(before, Mmap);
        var (errno, answer) = await CreateAsync(count);
        return $"{Say(errno)} index {answer.Index} count {answer.Count}";
    }

    private async Task<string> RemoveAsync(uint index, uint count) => Say((await _device.IoctlAsync(
        V4l2.RemoveBuffers, new V4l2RemoveBuffers { Index = index, Count = count, Type = _device.Type })).Errno);

    private async Task<string> TransferAsync(bool isWrite, ulong length = 4096, bool isNonBlocking = false) =>
        Say((isWrite
            ? await _device.File.WriteAsync(_rig.SpaceName, At, length, isNonBlocking)
            : await _device.File.ReadAsync(_rig.SpaceName, At, length, isNonBlocking)).Errno);

    private async Task<string> FieldAsync(uint field, uint used = 0)
    {
        await _device.RequestBuffersAsync(2, Mmap);
        var buffer = Buffer(0);
        buffer.Field = field;
        foreach (var plane in buffer.Planes) plane.BytesUsed = used;
        return await QueueAsync(buffer);
    }

    /// <summary>QBUF of an array that says that it has so many planes.</summary>
    private async Task<string> PlanesAsync(uint length, int given)
    {
        await _device.RequestBuffersAsync(2, Mmap);
        var buffer = Buffer(0);
        buffer.Planes.Clear();
        for (var i = 0; i < given; i++) buffer.Planes.Add(new V4l2Plane());
        buffer.Length = length;
        return await QueueAsync(buffer);
    }

    private async Task<string> UserAsync(Action<V4l2Plane> change)
    {
        await _device.RequestBuffersAsync(2, UserPtr);
        var buffer = Buffer(0, UserPtr);
        change(buffer.Planes[0]);
        return await QueueAsync(buffer);
    }

    private async Task<string> ImportAsync(string dmaBuf)
    {
        await _device.RequestBuffersAsync(2, DmaBuf);
        var buffer = Buffer(0, DmaBuf);
        foreach (var plane in buffer.Planes) plane.DmaBuf = dmaBuf;
        return await QueueAsync(buffer);
    }

    /// <summary>struct v4l2_requestbuffers behind a REQBUFS of two MMAP buffers with these flags.</summary>
    private async Task<byte[]> RequestBytesAsync(byte flags)
    {
        byte[] bytes = [2, 0, 0, 0, (byte)_device.Type, 0, 0, 0, (byte)Mmap, 0, 0, 0, 0, 0, 0, 0, flags, 0, 0, 0];
        var (errno, answer, _) = await _device.File.UapiIoctlAsync(_rig.SpaceName, RequestNumber, bytes);
        return errno == Errno.None ? answer.ToArray() : throw new InvalidOperationException($"REQBUFS: {errno}");
    }

    /// <summary>An ioctl whose structure lies in the application's memory.</summary>
    private async Task<string> PointerAsync(uint number, ulong address) =>
        Say((await _device.File.UapiIoctlAsync(_rig.SpaceName, number, default, address)).Errno);

    private async Task<string> UnknownAsync()
    {
        const uint number = 0x5801;
        var typed = (await _device.IoctlAsync("X", new V4l2Control())).Errno;
        var (errno, _, _) = await _device.File.UapiIoctlAsync("", number, ByteString.Empty.Memory);
        return typed == errno ? Say(errno) : $"{typed} and {errno}";
    }
}
