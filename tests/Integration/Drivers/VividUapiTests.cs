using System.Buffers.Binary;
using System.Text;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Ioctls of a vivid node by number, with the bytes of linux/videodev2.h on x86-64, beside the typed form.
/// </summary>
public sealed class VividUapiTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const uint QueryCapabilities = 0x8068_5600;
    private const uint GetFormat = 0xc0d0_5604;
    private const uint SetFormat = 0xc0d0_5605;
    private const uint RequestBuffers = 0xc014_5608;
    private const uint CreateBuffers = 0xc100_565c;
    private const uint RemoveBuffers = 0xc040_5668;
    private const uint ExportBuffer = 0xc040_5610;
    private const uint QueryBuffer = 0xc058_5609;
    private const uint QueueBuffer = 0xc058_560f;
    private const uint DequeueBuffer = 0xc058_5611;
    private const uint StreamOn = 0x4004_5612;
    private const uint StreamOff = 0x4004_5613;
    private const uint Unknown = 0xc020_56ff;
    private const ulong At = 0x1000_0000;

    [Fact]
    public async Task Capabilities_and_formats_are_those_of_the_typed_form()
    {
        await using var rig = await CreateAsync();
        var (errno, bytes) = await CallAsync(rig, QueryCapabilities);
        var (_, typed) = await TypedAsync(rig, V4l2.QueryCapabilities, new V4l2Capability());
        Assert.Equal(Errno.None, errno);
        Assert.Equal((typed.Driver, typed.Card), (Text(bytes, 0, 16), Text(bytes, 16, 32)));
        Assert.Equal(rig.Kernel.Features.VersionCode, Get(bytes, 80));
        Assert.Equal((typed.Capabilities | 0x8000_0000, typed.Capabilities), (Get(bytes, 84), Get(bytes, 88)));

        (errno, bytes) = await CallAsync(rig, GetFormat, (0, V4l2.BufferType.Capture));
        Assert.Equal(Errno.None, errno);
        await SameFormatAsync(rig, bytes);
        var wanted = V4l2.FourCc("YUYV");
        (errno, bytes) = await CallAsync(
            rig, SetFormat, (0, V4l2.BufferType.Capture), (8, 320U), (12, 180U), (16, wanted));
        Assert.Equal((Errno.None, 320U, 180U, wanted), (errno, Get(bytes, 8), Get(bytes, 12), Get(bytes, 16)));
        await SameFormatAsync(rig, bytes);
        // A queue of another type.
        Assert.Equal(Errno.EINVAL, (await CallAsync(rig, GetFormat, (0, V4l2.BufferType.Output))).Errno);
    }

    [Fact]
    public async Task Buffers_are_those_of_the_typed_form()
    {
        await using var rig = await CreateAsync();
        var (errno, bytes) = await CallAsync(
            rig, RequestBuffers, (0, 3U), (4, V4l2.BufferType.Capture), (8, (uint)Vb2Memory.Mmap));
        Assert.Equal((Errno.None, 3U), (errno, Get(bytes, 0)));
        Assert.NotEqual(0U, Get(bytes, 12));
        for (var index = 0U; index < 3; index++)
        {
            (errno, bytes) = await CallAsync(rig, QueryBuffer, (0, index), (4, V4l2.BufferType.Capture));
            Assert.Equal(Errno.None, errno);
            var (_, typed) = await TypedAsync(
                rig, V4l2.QueryBuffer, new V4l2Buffer { Index = index, Type = V4l2.BufferType.Capture });
            var plane = Assert.Single(typed.Planes);
            Assert.Equal((typed.Index, typed.Type, typed.Memory), (Get(bytes, 0), Get(bytes, 4), Get(bytes, 60)));
            Assert.Equal((typed.Flags, typed.Field, typed.Sequence), (Get(bytes, 12), Get(bytes, 16), Get(bytes, 56)));
            Assert.Equal((plane.Offset, plane.Length), (Get(bytes, 64), Get(bytes, 72)));
        }

        Assert.Equal(
            Errno.EINVAL, (await CallAsync(rig, QueryBuffer, (0, 3U), (4, V4l2.BufferType.Capture))).Errno);
        (errno, _) = await CallAsync(
            rig, RequestBuffers, (4, V4l2.BufferType.Capture), (8, (uint)Vb2Memory.Mmap));
        Assert.Equal(Errno.None, errno);
    }

    [Fact]
    public async Task A_frame_is_captured_by_number_into_memory_of_the_application()
    {
        await using var rig = await CreateAsync();
        var (_, format) = await CallAsync(rig, GetFormat, (0, V4l2.BufferType.Capture));
        var size = Get(format, 28);
        await daemon.MapAsync(rig.SpaceName, At, 512);
        Assert.Equal(Errno.None, (await CallAsync(
            rig, RequestBuffers, (0, 2U), (4, V4l2.BufferType.Capture), (8, (uint)Vb2Memory.UserPtr))).Errno);
        for (var index = 0U; index < 2; index++)
            Assert.Equal(Errno.None, (await CallAsync(
                rig, QueueBuffer, (0, index), (4, V4l2.BufferType.Capture), (60, (uint)Vb2Memory.UserPtr),
                (64, (uint)At + (index * 0x10_0000)), (72, size))).Errno);
        Assert.Equal(Errno.None, (await CallAsync(rig, StreamOn, (0, V4l2.BufferType.Capture))).Errno);
        var (errno, bytes) = await CallAsync(
            rig, DequeueBuffer, (4, V4l2.BufferType.Capture), (60, (uint)Vb2Memory.UserPtr));
        Assert.Equal((Errno.None, size), (errno, Get(bytes, 8)));
        Assert.Equal((uint)At + (Get(bytes, 0) * 0x10_0000), Get(bytes, 64));
        Assert.NotEqual(0, rig.Sum(Get(bytes, 64)));
        Assert.Equal(Errno.None, (await CallAsync(rig, StreamOff, (0, V4l2.BufferType.Capture))).Errno);
    }

    [Fact]
    public async Task An_unknown_number_answers_ENOTTY_and_bytes_of_another_length_EFAULT()
    {
        await using var rig = await CreateAsync();
        var (errno, bytes) = await CallAsync(rig, Unknown, (0, 7U));
        Assert.Equal((Errno.ENOTTY, 7U), (errno, Get(bytes, 0)));
        var cut = await rig.Device.File.UapiIoctlAsync(
            rig.SpaceName, GetFormat, new byte[100], cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal((Errno.EFAULT, 0U), (cut.Errno, cut.Value));
    }

    [Fact]
    public async Task Planes_lie_in_the_callers_memory_and_are_checked_first()
    {
        var options = new VividOptions { FramesPerSecond = 0, IsMultiplanar = true };
        await using var rig = await VividRig.CreateAsync(daemon, "6.12", options);
        await daemon.MapAsync(rig.SpaceName, At, 1);
        const uint type = V4l2.BufferType.CaptureMplane;
        Assert.Equal(Errno.None, (await CallAsync(
            rig, RequestBuffers, (0, 2U), (4, type), (8, (uint)Vb2Memory.Mmap))).Errno);
        // More planes than there can be, before they are looked at; none; memory that is not mapped.
        Assert.Equal(Errno.EINVAL, (await CallAsync(rig, QueryBuffer, (4, type), (64, 0x5000_0000), (72, 9U))).Errno);
        Assert.Equal(Errno.EINVAL, (await CallAsync(rig, QueryBuffer, (4, type), (64, 0x5000_0000))).Errno);
        Assert.Equal(Errno.EFAULT, (await CallAsync(rig, QueryBuffer, (4, type), (64, 0x5000_0000), (72, 1U))).Errno);
        // The second of the two planes that the caller has room for stays as it was.
        var planes = Enumerable.Repeat((byte)0xff, 128).ToArray();
        var memory = new FramePin.Client.RemoteFrameMemory(daemon.Client);
        await memory.WriteAsync(rig.SpaceName, At, planes);
        var (errno, bytes) = await CallAsync(rig, QueryBuffer, (0, 1U), (4, type), (64, (uint)At), (72, 2U));
        Assert.Equal((Errno.None, 1U, (uint)At), (errno, Get(bytes, 72), Get(bytes, 64)));
        await memory.ReadAsync(rig.SpaceName, At, planes);
        Assert.Equal((0U, 460_928U, 0x8000U), (Get(planes, 0), Get(planes, 4), Get(planes, 8)));
        Assert.Equal((0U, uint.MaxValue), (Get(planes, 60), Get(planes, 64)));
        Assert.Equal(
            Errno.None, (await CallAsync(rig, RequestBuffers, (4, type), (8, (uint)Vb2Memory.Mmap))).Errno);
    }

    [Fact]
    public async Task A_dma_bufs_descriptor_is_the_number_of_its_frame_vector()
    {
        await using var rig = await CreateAsync();
        await rig.ServeAsync("video1", new VividOptions { FramesPerSecond = 0 });
        await using var importer = await rig.OpenAsync("video1", rig.SpaceName);
        await CallAsync(rig, RequestBuffers, (0, 2U), (4, 1U), (8, (uint)Vb2Memory.Mmap));
        var (errno, export) = await CallAsync(rig, ExportBuffer, (0, 1U), (4, 1U), (20, 7U));
        var fd = Get(export, 16);
        Assert.Equal((Errno.None, 0U), (errno, Get(export, 20)));
        Assert.NotEqual(0U, fd);
        await importer.RequestBuffersAsync(2, (uint)Vb2Memory.DmaBuf);
        foreach (var (given, wanted) in new[]
        {
            (fd, Errno.None), (fd + 1000, Errno.EINVAL), (uint.MaxValue, Errno.EINVAL),
        })
        {
            var (answer, bytes) = await CallAsync(
                importer, rig.SpaceName, QueueBuffer, (4, 1U), (60, (uint)Vb2Memory.DmaBuf), (64, given));
            Assert.Equal(wanted, answer);
            if (wanted == Errno.None) Assert.Equal(fd, Get(bytes, 64));
            await importer.StreamOffAsync();
        }

        await importer.RequestBuffersAsync(0, (uint)Vb2Memory.DmaBuf);
        await rig.Daemon.Client.Pinning.UnpinAsync(
            new UnpinRequest { FrameVector = $"{rig.MachineName}/frameVectors/{fd}" });
    }

    [Fact]
    public async Task Buffers_are_created_and_removed_by_number()
    {
        await using var rig = await CreateAsync();
        var (_, format) = await CallAsync(rig, GetFormat, (0, 1U));
        var fields = Enumerable.Range(0, 14).Select(i => (16 + (i * 4), Get(format, i * 4)));
        // priv and what follows it mean nothing without the magic number; reserved fields are cleared.
        (int, uint)[] argument =
            [(4, 3U), (8, (uint)Vb2Memory.Mmap), .. fields, (52, 1U), (56, 7U), (236, 9U)];
        var (errno, bytes) = await CallAsync(rig, CreateBuffers, argument);
        Assert.Equal((Errno.None, 0U, 3U), (errno, Get(bytes, 0), Get(bytes, 4)));
        Assert.Equal((0xfeed_cafeU, 0U, 0U), (Get(bytes, 52), Get(bytes, 56), Get(bytes, 236)));
        Assert.Equal((0x19fU, 64U), (Get(bytes, 224), Get(bytes, 232)));
        (errno, bytes) = await CallAsync(rig, RemoveBuffers, (0, 1U), (4, 1U), (8, 1U), (12, 5U));
        Assert.Equal((Errno.None, 0U), (errno, Get(bytes, 12)));
        Assert.Equal(Errno.EINVAL, (await CallAsync(rig, QueryBuffer, (0, 1U), (4, 1U))).Errno);
    }

    [Fact]
    public async Task A_call_in_both_forms_or_in_none_is_refused_before_the_driver_sees_it()
    {
        await using var rig = await CreateAsync();
        foreach (var (command, request) in new[] { ("", 0U), (V4l2.QueryCapabilities, QueryCapabilities) })
        {
            var call = new IoctlRequest
            {
                File = rig.Device.File.File,
                Command = command,
                Request = request,
                Argument = ByteString.Empty,
                AddressSpace = rig.SpaceName,
            };
            var refusal = FramePin.Client.FramePinException.From(
                await Assert.ThrowsAsync<RpcException>(() => daemon.Client.Drivers.IoctlAsync(call).ResponseAsync));
            Assert.Equal((StatusCode.InvalidArgument, "BAD_FIELD"), (refusal.StatusCode, refusal.Reason));
            Assert.Equal("request", refusal.Metadata["field"]);
        }
    }

    private Task<VividRig> CreateAsync() =>
        VividRig.CreateAsync(daemon, "6.12", new VividOptions { FramesPerSecond = 0 });

    private static async Task SameFormatAsync(VividRig rig, byte[] bytes)
    {
        var (_, typed) = await TypedAsync(rig, V4l2.GetFormat, new V4l2Format { Type = V4l2.BufferType.Capture });
        var plane = Assert.Single(typed.Planes);
        Assert.Equal(
            (typed.Type, typed.Width, typed.Height, typed.PixelFormat),
            (Get(bytes, 0), Get(bytes, 8), Get(bytes, 12), Get(bytes, 16)));
        Assert.Equal((plane.BytesPerLine, plane.SizeImage), (Get(bytes, 24), Get(bytes, 28)));
    }

    private static async Task<(Errno Errno, T Answer)> TypedAsync<T>(VividRig rig, string command, T argument)
        where T : IMessage<T>, new() =>
        await rig.Device.File.IoctlAsync(
            rig.SpaceName, command, argument, cancellationToken: TestContext.Current.CancellationToken);

    /// <summary>Calls with a structure whose fields at these offsets are set, and whose others are zero.</summary>
    private static Task<(Errno Errno, byte[] Bytes)> CallAsync(
        VividRig rig, uint request, params (int At, uint Value)[] fields) =>
        CallAsync(rig.Device, rig.SpaceName, request, fields);

    private static async Task<(Errno Errno, byte[] Bytes)> CallAsync(
        V4l2Device device, string space, uint request, params (int At, uint Value)[] fields)
    {
        // _IOC_SIZE: bits 16 to 29.
        var bytes = new byte[(request >> 16) & 0x3fff];
        foreach (var (at, value) in fields) BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(at), value);
        var answer = await device.File.UapiIoctlAsync(
            space, request, bytes, cancellationToken: TestContext.Current.CancellationToken);
        return (answer.Errno, answer.Argument.ToArray());
    }

    private static uint Get(byte[] bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(at));

    private static string Text(byte[] bytes, int at, int length) =>
        Encoding.ASCII.GetString(bytes, at, length).TrimEnd('\0');
}
