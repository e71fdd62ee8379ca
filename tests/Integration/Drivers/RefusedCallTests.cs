using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Tests.Support;
using FramePin.V1;
using Google.Protobuf;
using Xunit;
using DeviceMapping = FramePin.Core.Backing.DeviceMapping;
using DmaDirection = FramePin.Drivers.VideoBuf2.DmaDirection;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// What a driver holds when one of its calls is refused on the way: each call of each path is refused once. Nothing
/// stays behind, and no frame is lost. Entries R22 and R23.
/// </summary>
public sealed class RefusedCallTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const uint Type = V4l2.BufferType.CaptureMplane;
    private const uint Mmap = (uint)Vb2Memory.Mmap;
    private const uint DmaBuf = (uint)Vb2Memory.DmaBuf;

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task R22_buffers_of_a_refused_REQBUFS_and_CREATE_BUFS_go(bool isLocal)
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        await using var calls = await RefusedCalls.OpenAsync(rig, isLocal);
        using var queue = CreateQueue(calls);
        var request = new V4l2RequestBuffers { Count = 2, Type = Type, Memory = Mmap };
        await EachRefusedAsync(rig, calls, () => RunAsync(queue, V4l2.RequestBuffers, request), async () =>
        {
            Assert.Equal((0, Vb2Memory.Unknown), (queue.Count, queue.Memory));
            await AuditAsync(queue);
        }, () => queue.ReleaseAsync(this));
        var format = new V4l2Format { Type = Type };
        for (var i = 0; i < 2; i++) format.Planes.Add(new V4l2PlaneFormat { SizeImage = 8192 });
        var create = new V4l2CreateBuffers { Count = 2, Memory = Mmap, Format = format };
        Assert.Equal(Errno.None, (await RunAsync(queue, V4l2.CreateBuffers, create)).Errno);
        await EachRefusedAsync(rig, calls, () => RunAsync(queue, V4l2.CreateBuffers, create), async () =>
        {
            Assert.Equal((2, Vb2Memory.Mmap), (queue.Count, queue.Memory));
            await AuditAsync(queue);
        }, () => Task.CompletedTask);
        await queue.ReleaseAsync(this);
    }

    [Theory]
    [InlineData("6.1", true)]
    [InlineData("6.12", true)]
    [InlineData("6.12", false)]
    public async Task R22_references_of_a_refused_import_go(string profile, bool isLocal)
    {
        await using var rig = await KernelRig.CreateAsync(daemon, profile);
        await using var calls = await RefusedCalls.OpenAsync(rig, isLocal);
        var buffers = new List<KernelBuffer>();
        var import = new V4l2Buffer { Type = Type, Memory = DmaBuf, Length = 2 };
        for (var i = 0; i < 2; i++)
        {
            buffers.Add((await rig.Kernel.AllocateAsync(4096, isPfnMapped: false, "/dev/video"))!);
            import.Planes.Add(new V4l2Plane { DmaBuf = await rig.Kernel.ExportAsync(buffers[i], rig.Kernel.Lease) });
        }

        using var queue = CreateQueue(calls);
        await RunAsync(queue, V4l2.RequestBuffers, new V4l2RequestBuffers { Count = 1, Type = Type, Memory = DmaBuf });
        await EachRefusedAsync(
            rig, calls, () => RunAsync(queue, V4l2.QueueBuffer, import), () => AuditAsync(queue),
            () => queue.ReleaseAsync(this));
        foreach (var plane in import.Planes) await rig.Kernel.CloseDmaBufAsync(plane.DmaBuf);
        foreach (var buffer in buffers) await rig.Kernel.FreeAsync(buffer);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task R22_frames_of_a_refused_USERPTR_go(bool isLocal)
    {
        // PFNs, so that the driver converts them by a call, and no pin holds them for its view.
        await using var rig = await KernelRig.CreateAsync(daemon, "4.3");
        await using var calls = await RefusedCalls.OpenAsync(rig, isLocal);
        rig.Lab.Device(At, 2, DeviceMapping.PfnMap, isRam: true);
        foreach (Vb2MemOps ops in new Vb2MemOps[]
        {
            new VmallocMemOps(calls.Kernel), new DmaSgMemOps(calls.Kernel), new DmaContigMemOps(calls.Kernel),
        })
        {
            Vb2PlaneMemory? memory = null;
            await EachRefusedAsync(rig, calls, async () =>
            {
                (var errno, memory) = await ops.GetUserPtrAsync(rig.SpaceName, At, 8192, DmaDirection.FromDevice);
                return new IoctlResult(errno);
            }, () => Task.CompletedTask, () => memory!.PutAsync());
        }
    }

    // R23: the flag MAPPED is a call, which is made before the buffer is taken.
    [Fact]
    public async Task R23_a_frame_stays_when_the_call_of_its_flags_is_refused()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        await using var calls = await RefusedCalls.OpenAsync(rig, isLocal: false);
        var driver = new TwoPlanes { Finishes = true };
        using var queue = CreateQueue(calls, driver);
        await RunAsync(queue, V4l2.RequestBuffers, new V4l2RequestBuffers { Count = 2, Type = Type, Memory = Mmap });
        var (_, exported) = await RunAsync(queue, V4l2.ExportBuffer, new V4l2ExportBuffer { Type = Type });
        var argument = new V4l2Buffer { Type = Type, Memory = Mmap, Length = 2 };
        for (var i = 0; i < 2; i++) argument.Planes.Add(new V4l2Plane());
        await RefusedAsync(V4l2.PrepareBuffer, new Vb2Books(2, 0, 0, 0, 0, []));
        await RefusedAsync(V4l2.QueueBuffer, new Vb2Books(2, 0, 0, 0, 0, []));
        await RunAsync(queue, V4l2.StreamOn, new V4l2Stream { Type = Type });
        Assert.Equal(Errno.None, (await RunAsync(queue, V4l2.QueueBuffer, argument)).Errno);
        await RefusedAsync(V4l2.DequeueBuffer, new Vb2Books(1, 0, 0, 0, 1, []));
        await RefusedAsync(V4l2.QueryBuffer, new Vb2Books(1, 0, 0, 0, 1, []));
        var (errno, taken) = await RunAsync(queue, V4l2.DequeueBuffer, argument);
        Assert.Equal(
            (Errno.None, V4l2.FlagMapped | V4l2.FlagTimestampMonotonic), (errno, ((V4l2Buffer)taken!).Flags));
        await rig.Kernel.CloseDmaBufAsync(((V4l2ExportBuffer)exported!).DmaBuf);
        await queue.ReleaseAsync(this);

        async Task RefusedAsync(string command, Vb2Books wanted)
        {
            calls.RefuseAfter(0);
            await Assert.ThrowsAsync<FramePinException>(() => RunAsync(queue, command, argument));
            Assert.Equal("GetDevice", calls.Refused);
            var books = await queue.AuditAsync();
            Assert.Empty(books.Findings);
            Assert.Equal(wanted with { Findings = books.Findings }, books);
        }
    }

    /// <summary>
    /// Refuses each call of <paramref name="run"/> once, until it ends without a refusal. The machine is as before, and
    /// <paramref name="check"/> holds, after each.
    /// </summary>
    private async Task EachRefusedAsync(
        KernelRig rig, RefusedCalls calls, Func<Task<IoctlResult>> run, Func<Task> check, Func<Task> undo)
    {
        var before = await StateAsync();
        for (var step = 0; ; step++)
        {
            calls.RefuseAfter(step);
            try
            {
                Assert.Equal(Errno.None, (await run()).Errno);
            }
            catch (FramePinException) when (calls.Refused is not null)
            {
                // The driver's caller is answered EIO.
            }

            calls.RefuseNone();
            if (calls.Refused is null)
            {
                Assert.True(step > 0, "no call was refused");
                await undo();
                return;
            }

            Assert.Equal((calls.Refused, before), (calls.Refused, await StateAsync()));
            await check();
        }

        async Task<(int Vectors, int Devices)> StateAsync() => (rig.Vectors, (await daemon.Client.Devices
            .ListDevicesAsync(new ListDevicesRequest { Parent = rig.MachineName })).Devices.Count);
    }

    private static async Task AuditAsync(Vb2Queue queue) => Assert.Empty((await queue.AuditAsync()).Findings);

    private static Vb2Queue CreateQueue(RefusedCalls calls, TwoPlanes? driver = null) => new(
        new Vb2QueueOptions
        {
            Type = Type,
            Direction = DmaDirection.FromDevice,
            MaxBuffers = 64,
            SupportsRemove = true,
        },
        new VmallocMemOps(calls.Kernel), driver ?? new TwoPlanes());

    private async Task<IoctlResult> RunAsync(Vb2Queue queue, string command, IMessage argument) =>
        (await queue.TryIoctlAsync(this, new IoctlContext(
            command, argument.ToByteString(), "", IsNonBlocking: true)))!.Value;

    /// <summary>Buffers of two planes, which are done as soon as they are queued.</summary>
    private sealed class TwoPlanes : IVb2Driver
    {
        public bool Finishes { get; init; }

        public Errno QueueSetup(Vb2Queue queue, ref uint count, ref ulong[] sizes)
        {
            if (sizes.Length == 0) sizes = [4096, 4096];
            return Errno.None;
        }

        public Errno StartStreaming(Vb2Queue queue, uint count) => Errno.None;

        public Task StopStreamingAsync(Vb2Queue queue, CancellationToken cancellationToken = default) =>
            Task.CompletedTask;

        public void BufQueue(Vb2Buffer buffer)
        {
            if (Finishes) buffer.Queue.BufferDone(buffer, Vb2State.Done);
        }
    }
}
