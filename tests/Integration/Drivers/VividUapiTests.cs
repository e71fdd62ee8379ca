using System.Buffers.Binary;
using FramePin.Drivers;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Ioctls of a vivid node by number, with the bytes of linux/videodev2.h on x86-64. Vivid speaks the typed form alone
/// and answers ENOTTY to every number, which takes nothing from the typed form. SampleTests has a driver that speaks
/// both forms, and compares them.
/// </summary>
public sealed class VividUapiTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const uint QueryCapabilities = 0x8068_5600;
    private const uint GetFormat = 0xc0d0_5604;
    private const uint RequestBuffers = 0xc014_5608;
    private const uint QueryBuffer = 0xc058_5609;
    private const uint StreamOn = 0x4004_5612;
    private const uint Unknown = 0xc020_56ff;

    public static TheoryData<uint> Numbers =>
        [QueryCapabilities, GetFormat, RequestBuffers, QueryBuffer, StreamOn, Unknown];

    [Theory]
    [MemberData(nameof(Numbers))]
    public async Task An_ioctl_by_number_answers_ENOTTY_and_leaves_its_bytes(uint request)
    {
        await using var rig = await VividRig.CreateAsync(daemon, "6.12", new VividOptions { FramesPerSecond = 0 });
        var cancelled = TestContext.Current.CancellationToken;
        // _IOC_SIZE: bits 16 to 29. The first field that an application fills is its type: V4L2_BUF_TYPE_VIDEO_CAPTURE.
        var bytes = new byte[(request >> 16) & 0x3fff];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, V4l2.BufferType.Capture);
        var before = await FormatAsync(rig);
        var answer = await rig.Device.File.UapiIoctlAsync(
            rig.SpaceName, request, bytes, cancellationToken: cancelled);
        Assert.Equal((Errno.ENOTTY, 0U), (answer.Errno, answer.Value));
        Assert.Equal(bytes, answer.Argument.ToArray());
        // REQBUFS made no buffers and STREAMON started nothing.
        Assert.Equal(before, await FormatAsync(rig));
        var query = new V4l2Buffer { Type = V4l2.BufferType.Capture };
        Assert.Equal(
            Errno.EINVAL,
            (await rig.Device.File.IoctlAsync(
                rig.SpaceName, V4l2.QueryBuffer, query, cancellationToken: cancelled)).Errno);
        Assert.Equal(0UL, rig.Driver.Frames);
    }

    [Fact]
    public async Task A_call_in_both_forms_or_in_none_is_refused_before_the_driver_sees_it()
    {
        await using var rig = await VividRig.CreateAsync(daemon, "6.12", new VividOptions { FramesPerSecond = 0 });
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

    private static async Task<V4l2Format> FormatAsync(VividRig rig)
    {
        var (errno, format) = await rig.Device.File.IoctlAsync(
            rig.SpaceName, V4l2.GetFormat, new V4l2Format { Type = V4l2.BufferType.Capture },
            cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal(Errno.None, errno);
        return format;
    }
}
