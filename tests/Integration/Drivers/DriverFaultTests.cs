using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using Grpc.Core;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Faults between applications, the daemon and drivers: entries D13 (dma-bufs), D14 (answers that nobody takes, and
/// poll) and D17 (drivers that are frozen).
/// </summary>
public sealed class DriverFaultTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const uint Size = 230_400;
    private const int Pages = 57;
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;
    private const uint Mmap = (uint)Vb2Memory.Mmap;
    private const uint DmaBuf = (uint)Vb2Memory.DmaBuf;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    [Theory]
    [InlineData(true, VividAllocator.Vmalloc)]
    [InlineData(false, VividAllocator.Vmalloc)]
    [InlineData(false, VividAllocator.DmaContig)]
    public async Task D13_an_import_keeps_the_pages_of_a_dma_buf_that_its_exporter_closed(
        bool isLocal, VividAllocator allocator)
    {
        await using var rig = await VividRig.CreateAsync(
            daemon, "6.12", new VividOptions { FramesPerSecond = 0, Allocator = allocator }, isLocal);
        await rig.Device.SetFormatAsync("YUYV", 320, 360);
        await rig.ServeAsync("video1", new VividOptions { FramesPerSecond = 0, Allocator = allocator });
        await using var importer = await rig.OpenAsync("video1", rig.SpaceName);
        await importer.SetFormatAsync("YUYV", 320, 360);
        var free = rig.Machine.Statistics().FreeFrames;
        await rig.Device.RequestBuffersAsync(2, Mmap);
        var exports = new List<string>();
        for (var i = 0U; i < 2; i++) exports.Add((await rig.Device.ExportAsync(i)).Answer.DmaBuf);
        await importer.RequestBuffersAsync(2, DmaBuf);
        for (var i = 0; i < 2; i++)
            Assert.Equal(Errno.None, (await importer.QueueAsync(Import((uint)i, exports[i]))).Errno);
        foreach (var export in exports)
            await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = export });
        Assert.Equal(Errno.None, (await rig.Device.RequestBuffersAsync(0, Mmap)).Errno);
        // Memory of others, which a freed frame would become.
        rig.Lab.Anon(At, 4 * Pages);
        Assert.Equal(Errno.None, await importer.StreamOnAsync());
        for (var i = 0; i < 2; i++)
        {
            var (errno, frame) = await importer.DequeueAsync(DmaBuf).WaitAsync(Patience);
            Assert.Equal((Errno.None, 0U), (errno, frame.Flags & V4l2.FlagError));
        }

        // The name is closed, although the pages live.
        await importer.StreamOffAsync();
        Assert.Equal(Errno.EINVAL, (await importer.QueueAsync(Import(0, exports[0]))).Errno);
        await importer.RequestBuffersAsync(0, DmaBuf);
        rig.Machine.Munmap(rig.Lab.Space, At, 4 * Pages * 4096UL);
        Assert.Equal(free, rig.Machine.Statistics().FreeFrames);
    }

    [Fact]
    public async Task D13_a_vector_of_pins_is_no_dma_buf()
    {
        await using var rig = await CreateAsync();
        var pin = await daemon.Client.Pinning.PinAsync(
            new PinRequest { AddressSpace = rig.SpaceName, Start = At, Pages = Pages, Write = true });
        await rig.Device.RequestBuffersAsync(2, DmaBuf);
        Assert.Equal(Errno.EINVAL, (await rig.Device.QueueAsync(Import(0, pin.FrameVector))).Errno);
        var refused = await Assert.ThrowsAsync<RpcException>(() => daemon.Client.Pinning.ImportDmaBufAsync(
            new ImportDmaBufRequest { Name = pin.FrameVector }).ResponseAsync);
        var refusal = FramePinException.From(refused);
        Assert.Equal((StatusCode.FailedPrecondition, "NOT_A_DMA_BUF"), (refusal.StatusCode, refusal.Reason));
        await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector });
    }

    // D14: the frame of a DQBUF whose caller gave up is dequeued by the next.
    [Fact]
    public async Task D14_a_frame_whose_taker_gave_up_stays()
    {
        await using var rig = await CreateAsync();
        var gate = new GatedDriver(rig.Driver);
        await rig.ServeAsync("gated", gate);
        await using var device = await rig.OpenAsync("gated", rig.SpaceName);
        await device.RequestBuffersAsync(3, UserPtr);
        for (var i = 0U; i < 3; i++) await device.QueueUserPtrAsync(i, At, Size);
        await device.StreamOnAsync();
        for (var i = 0; i < 3; i++)
        {
            using var signal = new CancellationTokenSource();
            var given = gate.HoldNext();
            var taking = GiveUpAsync(
                device, V4l2.DequeueBuffer, new V4l2Buffer { Type = 1, Memory = UserPtr }, signal.Token);
            // The frame is taken, and its answer is not out yet.
            await given.Taken.WaitAsync(Patience);
            await signal.CancelAsync();
            await Assert.ThrowsAsync<RpcException>(() => taking);
            await given.Interrupted.WaitAsync(Patience);
            given.Release();
            var (errno, frame) = await device.DequeueAsync(UserPtr).WaitAsync(Patience);
            Assert.Equal((Errno.None, (uint)i), (errno, frame.Sequence));
        }

        await device.StreamOffAsync();
        await device.RequestBuffersAsync(0, UserPtr);
    }

    [Fact]
    public async Task D14_frames_that_nobody_took_come_back_in_their_order_and_not_after_STREAMOFF()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        var kernel = rig.Kernel;
        await using var vivid = new VividDriver(kernel, new VividOptions { FramesPerSecond = 0 });
        var (_, file) = await vivid.OpenAsync();
        await CallAsync(V4l2.RequestBuffers, new V4l2RequestBuffers { Count = 3, Type = 1, Memory = Mmap });
        var taken = new List<IoctlResult>();
        for (var round = 0; round < 2; round++)
        {
            for (var i = 0U; i < 3; i++)
                await CallAsync(V4l2.QueueBuffer, new V4l2Buffer { Index = i, Type = 1, Memory = Mmap });
            await CallAsync(V4l2.StreamOn, new V4l2Stream { Type = 1 });
            taken.Clear();
            for (var i = 0; i < 3; i++) taken.Add(await TakeAsync());
            if (round == 1) break;
            foreach (var i in new[] { 1, 0, 2 }) await taken[i].TakeBack!();
            // A second time it does nothing: the frame may be somebody else's by then.
            await taken[1].TakeBack!();
            for (var i = 0U; i < 3; i++)
                Assert.Equal(i, Assert.IsType<V4l2Buffer>((await TakeAsync()).Argument).Sequence);
            await CallAsync(V4l2.StreamOff, new V4l2Stream { Type = 1 });
        }

        await CallAsync(V4l2.StreamOff, new V4l2Stream { Type = 1 });
        await taken[0].TakeBack!();
        Assert.Equal(
            Errno.EINVAL, (await CallAsync(V4l2.DequeueBuffer, new V4l2Buffer { Type = 1, Memory = Mmap })).Errno);
        await file!.ReleaseAsync();

        Task<IoctlResult> TakeAsync() => CallAsync(V4l2.DequeueBuffer, new V4l2Buffer { Type = 1, Memory = Mmap });

        async Task<IoctlResult> CallAsync(string command, Google.Protobuf.IMessage argument) =>
            await file!.IoctlAsync(new IoctlContext(
                command, Google.Protobuf.MessageExtensions.ToByteString(argument), "", IsNonBlocking: false));
    }

    [Fact]
    public async Task D14_a_dma_buf_whose_taker_gave_up_is_closed()
    {
        await using var rig = await CreateAsync();
        var gate = new GatedDriver(rig.Driver);
        await rig.ServeAsync("gated", gate);
        await using var device = await rig.OpenAsync("gated", rig.SpaceName);
        await device.RequestBuffersAsync(2, Mmap);
        var before = rig.Vectors;
        using var signal = new CancellationTokenSource();
        var given = gate.HoldNext();
        var taking = GiveUpAsync(
            device, V4l2.ExportBuffer, new V4l2ExportBuffer { Type = 1 }, signal.Token);
        await given.Taken.WaitAsync(Patience);
        Assert.Equal(before + 1, rig.Vectors);
        await signal.CancelAsync();
        await Assert.ThrowsAsync<RpcException>(() => taking);
        await given.Interrupted.WaitAsync(Patience);
        given.Release();
        // QUERYBUF runs behind the close only by chance: it is asked until it shows it.
        while ((await device.QueryAsync(0)).Buffer.Flags != V4l2.FlagTimestampMonotonic) await Task.Yield();
        Assert.Equal(before, rig.Vectors);
        await device.RequestBuffersAsync(0, Mmap);
    }

    // D14: vb2_core_poll.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task D14_poll_answers_as_the_queue_stands(bool isOutput)
    {
        await using var rig = await CreateAsync(isOutput);
        var device = rig.Device;
        var (mine, others) = isOutput ? (PollEvents.Out, PollEvents.In) : (PollEvents.In, PollEvents.Out);
        await device.RequestBuffersAsync(3, UserPtr);
        Assert.Equal(PollEvents.Error, await NowAsync(mine));
        // Who asks for the other direction alone is told nothing, not even an error.
        Assert.Equal(PollEvents.None, await NowAsync(others));
        await device.StreamOnAsync();
        Assert.Equal(isOutput ? PollEvents.None : PollEvents.Error, await NowAsync(mine));
        for (var i = 0U; i < 3; i++) await device.QueueUserPtrAsync(i, At, Size);
        Assert.Equal(mine, (await device.PollAsync(mine).WaitAsync(Patience)).Events);
        var both = PollEvents.In | PollEvents.Out | PollEvents.ReadNormal | PollEvents.WriteNormal;
        Assert.Equal(
            isOutput ? PollEvents.Out | PollEvents.WriteNormal : PollEvents.In | PollEvents.ReadNormal,
            await NowAsync(both));
        // An output shows its last picture on.
        for (var i = 0; i < (isOutput ? 2 : 3); i++) await device.DequeueAsync(UserPtr).WaitAsync(Patience);
        Assert.Equal(PollEvents.None, await NowAsync(mine));
        Assert.Equal(
            (Errno.None, PollEvents.None), await device.PollAsync(mine, TimeSpan.FromMilliseconds(1)));
        using var signal = new CancellationTokenSource();
        var signalled = device.PollAsync(mine, cancellationToken: signal.Token);
        await signal.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => signalled);
        var woken = device.PollAsync(mine);
        await device.StreamOffAsync();
        Assert.Equal((Errno.None, PollEvents.Error), await woken.WaitAsync(Patience));
        await device.RequestBuffersAsync(0, UserPtr);
        // Without buffers poll begins file I/O: an output can be written to at once.
        Assert.Equal(mine, (await device.PollAsync(mine).WaitAsync(Patience)).Events);
        Assert.Equal(Errno.EBUSY, (await device.RequestBuffersAsync(2, UserPtr)).Errno);
        await using var second = await rig.OpenAsync("video0", rig.SpaceName);
        Assert.Equal(Errno.EBUSY, await second.StreamOnAsync());

        async Task<PollEvents> NowAsync(PollEvents events)
        {
            var (errno, ready) = await device.PollAsync(events, TimeSpan.Zero);
            Assert.Equal(Errno.None, errno);
            return ready;
        }
    }

    [Fact]
    public async Task D14_a_file_of_a_driver_without_poll_is_always_ready_and_a_closed_one_is_invalid()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        await rig.ServeAsync("dev0", new FramePin.Drivers.ExynosG2d.G2dDriver(rig.Kernel));
        var file = await rig.OpenHandleAsync("dev0");
        Assert.Equal((Errno.None, PollEvents.In), await file.PollAsync(PollEvents.In | PollEvents.Priority));
        await file.DisposeAsync();
        Assert.Equal((Errno.ENODEV, PollEvents.Invalid), await file.PollAsync(PollEvents.In));
    }

    // D17: a process that is frozen sends no sign of life, and its stream stands on.
    [Fact]
    public async Task D17_a_driver_is_dead_for_all_when_its_lease_is()
    {
        var (machine, space) = await daemon.CreateAsync();
        var lease = await daemon.Client.Leases.OpenLeaseAsync(
            new OpenLeaseRequest { Parent = machine, Owner = "frozen" });
        using var frozen = daemon.Client.Drivers.ServeDriver();
        var register = new RegisterDriver { Machine = machine, Node = "dev0", Driver = "frozen", Lease = lease.Name };
        await frozen.RequestStream.WriteAsync(new DriverReply { Register = register });
        Assert.True(await frozen.ResponseStream.MoveNext(default));
        var opening = DriverHandle.OpenAsync(daemon.Client, $"{machine}/drivers/dev0");
        Assert.True(await frozen.ResponseStream.MoveNext(default));
        await frozen.RequestStream.WriteAsync(
            new DriverReply { Answer = new DriverAnswer { Call = frozen.ResponseStream.Current.Call } });
        var file = (await opening).File!;
        var hanging = file.IoctlAsync(space, "WAIT", new V4l2Control());
        Assert.True(await frozen.ResponseStream.MoveNext(default));
        // What its timer does when nothing was heard for the time to live.
        await daemon.Client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = lease.Name });
        Assert.Equal(Errno.ENODEV, (await hanging.WaitAsync(Patience)).Errno);
        Assert.Equal(Errno.ENODEV, (await file.IoctlAsync(space, "WAIT", new V4l2Control())).Errno);
        var ended = await Assert.ThrowsAsync<RpcException>(() => frozen.ResponseStream.MoveNext(default));
        Assert.Equal("LEASE_NOT_FOUND", FramePinException.From(ended).Reason);
        // The name is free, and a lease that has ended serves nothing.
        Assert.Empty((await daemon.Client.Drivers.ListDriversAsync(
            new ListDriversRequest { Parent = machine })).Drivers);
        using var late = daemon.Client.Drivers.ServeDriver();
        await late.RequestStream.WriteAsync(new DriverReply { Register = register });
        await Assert.ThrowsAsync<RpcException>(() => late.ResponseStream.MoveNext(default));
    }

    [Fact]
    public async Task D17_every_node_hangs_on_a_lease_the_drivers_or_one_of_its_own()
    {
        await using var rig = await CreateAsync();
        Assert.Equal(rig.Kernel.Lease, rig.Driver.Lease);
        using var stop = new CancellationTokenSource();
        var gate = new GatedDriver(rig.Driver);
        var before = await LeasesAsync();
        var ready = new TaskCompletionSource();
        var serving = DriverServer.RunAsync(
            daemon.Client, rig.MachineName, "other", gate, ready.SetResult, stop.Token);
        await ready.Task.WaitAsync(Patience, CancellationToken.None);
        var own = Assert.Single((await LeasesAsync()).Except(before));
        await daemon.Client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = own });
        var ended = await Assert.ThrowsAsync<FramePinException>(() => serving.WaitAsync(Patience));
        Assert.Equal("LEASE_NOT_FOUND", ended.Reason);

        async Task<List<string>> LeasesAsync() =>
            [.. (await daemon.Client.Leases.ListLeasesAsync(
                new ListLeasesRequest { Parent = rig.MachineName })).Leases.Select(lease => lease.Name)];
    }

    /// <summary>A caller whose call ends on the wire, as one whose connection breaks.</summary>
    private async Task GiveUpAsync(
        V4l2Device device, string command, Google.Protobuf.IMessage argument, CancellationToken signal) =>
        await daemon.Client.Drivers.IoctlAsync(
            new IoctlRequest
            {
                File = device.File.File,
                Command = command,
                Argument = Google.Protobuf.MessageExtensions.ToByteString(argument),
            }, cancellationToken: signal);

    private static V4l2Buffer Import(uint index, string dmaBuf) =>
        new() { Index = index, Memory = DmaBuf, Planes = { new V4l2Plane { DmaBuf = dmaBuf } } };

    private async Task<VividRig> CreateAsync(bool isOutput = false)
    {
        var rig = await VividRig.CreateAsync(
            daemon, "6.12", new VividOptions { FramesPerSecond = 0, IsOutput = isOutput });
        await rig.Device.SetFormatAsync("YUYV", 320, 360);
        rig.Lab.Anon(At, Pages);
        return rig;
    }
}
