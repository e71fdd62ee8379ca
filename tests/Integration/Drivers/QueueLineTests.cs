using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.Tests.Support;
using FramePin.V1;
using Xunit;
using DmaDirection = FramePin.Drivers.VideoBuf2.DmaDirection;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Lines of Semantics 6.1 and 6.5 that have no row of their own: states, requests, read and write, shared
/// attachments, limits.
/// </summary>
public sealed class QueueLineTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const uint Size = 230_400;
    private const int Pages = 57;
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;
    private const uint Mmap = (uint)Vb2Memory.Mmap;
    private const uint DmaBuf = (uint)Vb2Memory.DmaBuf;
    private const uint InRequest = V4l2.FlagInRequest | V4l2.FlagRequestFd | V4l2.FlagTimestampMonotonic;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    // 6.1: memory kinds.
    [Theory]
    [InlineData(0U)]
    [InlineData(3U)]
    [InlineData(5U)]
    public async Task A_kind_of_memory_that_there_is_not_is_EINVAL(uint memory)
    {
        await using var rig = await CreateAsync();
        Assert.Equal(Errno.EINVAL, (await rig.Device.RequestBuffersAsync(2, memory)).Errno);
        Assert.Equal(
            Errno.EINVAL, (await rig.Device.IoctlAsync(
                V4l2.RequestBuffers, new V4l2RequestBuffers { Count = 2, Memory = Mmap, Type = 2 })).Errno);
    }

    // 6.1: buffer states.
    [Fact]
    public async Task Completion_is_for_active_buffers_and_an_unknown_state_is_an_error()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        var driver = new IdleDriver();
        using var queue = CreateQueue(rig, driver);
        await RunAsync(queue, V4l2.RequestBuffers, new V4l2RequestBuffers { Count = 4, Type = 1, Memory = Mmap });
        await RunAsync(queue, V4l2.QueueBuffer, new V4l2Buffer { Index = 0, Type = 1, Memory = Mmap });
        await RunAsync(queue, V4l2.QueueBuffer, new V4l2Buffer { Index = 1, Type = 1, Memory = Mmap });
        await RunAsync(queue, V4l2.StreamOn, new V4l2Stream { Type = 1 });
        var (first, second) = (driver.Queued[0], driver.Queued[1]);
        Assert.Equal(Vb2State.Active, first.State);
        Assert.True(queue.BufferDone(first, (Vb2State)77));
        Assert.Equal(Vb2State.Error, first.State);
        Assert.False(queue.BufferDone(first, Vb2State.Done));
        Assert.Equal(Vb2State.Error, first.State);
        // Completing with QUEUED gives it back to the queue: nobody can dequeue it.
        Assert.True(queue.BufferDone(second, Vb2State.Queued));
        Assert.Equal(Vb2State.Queued, second.State);
        Assert.False(queue.BufferDone(second, Vb2State.Done));
        var (errno, taken) = await RunAsync(queue, V4l2.DequeueBuffer, new V4l2Buffer { Type = 1, Memory = Mmap });
        Assert.Equal((Errno.None, 0U, V4l2.FlagError | V4l2.FlagTimestampMonotonic), (errno, taken.Index, taken.Flags));
        Assert.Equal(Errno.EAGAIN,
            (await RunAsync(queue, V4l2.DequeueBuffer, new V4l2Buffer { Type = 1, Memory = Mmap })).Errno);
        // Streamoff returns everything.
        await RunAsync(queue, V4l2.StreamOff, new V4l2Stream { Type = 1 });
        Assert.Equal([Vb2State.Dequeued, Vb2State.Dequeued], driver.Queued.Select(buffer => buffer.State));
        await queue.ReleaseAsync(this);
    }

    // 6.1: "After PREPARE_BUF the later QBUF ignores a differing userptr."
    [Fact]
    public async Task What_PREPARE_BUF_pinned_is_used_whatever_QBUF_says()
    {
        await using var rig = await CreateAsync();
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        var before = rig.Pins;
        Assert.Equal(Errno.None, (await rig.Device.PrepareAsync(User(0, At))).Errno);
        Assert.Equal(Pages, rig.Pins.Acquired - before.Acquired);
        Assert.Equal(Errno.EINVAL, (await rig.Device.PrepareAsync(User(0, At))).Errno);
        Assert.Equal(V4l2.FlagPrepared | V4l2.FlagTimestampMonotonic, (await rig.Device.QueryAsync(0)).Buffer.Flags);
        Assert.Equal(Errno.None, (await rig.Device.QueueAsync(User(0, 0xdead_0000))).Errno);
        Assert.Equal(Pages, rig.Pins.Acquired - before.Acquired);
        await rig.Device.StreamOnAsync();
        await rig.Device.DequeueAsync(UserPtr).WaitAsync(Patience);
        Assert.Equal(9824, rig.Sum(At));
        await rig.Device.StreamOffAsync();
        await rig.Device.RequestBuffersAsync(0, UserPtr);
    }

    // 6.1, checks: an index that is not allocated, another type or memory.
    [Fact]
    public async Task QBUF_wants_the_queues_type_and_memory_and_a_buffer_that_is_there()
    {
        await using var rig = await CreateAsync();
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        Assert.Equal(Errno.EINVAL, (await rig.Device.QueueAsync(User(2, At))).Errno);
        Assert.Equal(Errno.EINVAL, (await rig.Device.QueueAsync(new V4l2Buffer { Index = 0, Memory = Mmap })).Errno);
        var other = User(0, At);
        other.Type = V4l2.BufferType.Output;
        Assert.Equal(Errno.EINVAL, (await rig.Device.QueueAsync(other)).Errno);
        Assert.Equal((0, 0), Counts(rig));
    }

    // 6.1: a queue that requires requests; vb2_queue_or_prepare_buf.
    [Fact]
    public async Task A_queue_that_requires_requests_takes_no_other_buffers_and_one_without_takes_none_of_them()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        foreach (var (requires, supports, flags, wanted) in new[]
        {
            (true, true, 0U, Errno.EBADR), (false, false, V4l2.FlagRequestFd, Errno.EBADR),
            (true, true, V4l2.FlagRequestFd, Errno.EINVAL),
        })
        {
            using var queue = CreateQueue(rig, new IdleDriver(), requires, supports);
            await RunAsync(queue, V4l2.RequestBuffers, new V4l2RequestBuffers { Count = 2, Type = 1, Memory = Mmap });
            Assert.Equal(
                wanted,
                (await RunAsync(queue, V4l2.QueueBuffer,
                new V4l2Buffer { Type = 1, Memory = Mmap, Flags = flags, RequestFd = 9 })).Errno);
            await queue.ReleaseAsync(this);
        }
    }

    // 6.1: "mixing requests and direct → -EBUSY"; states with a request.
    [Fact]
    public async Task A_request_binds_buffers_queues_them_together_and_is_complete_when_the_last_is_done()
    {
        await using var rig = await CreateAsync();
        await rig.Device.RequestBuffersAsync(4, UserPtr);
        var request = (await rig.Device.IoctlAsync(V4l2.AllocateRequest, new MediaRequest())).Answer;
        Assert.Equal(Errno.ENOENT, await QueueAsync(rig, request));
        Assert.Equal(Errno.EINVAL, await QueueAsync(rig, new MediaRequest { Fd = 99 }));
        Assert.Equal(Errno.EINVAL, (await rig.Device.PrepareAsync(User(0, At, request))).Errno);
        var (errno, bound) = await rig.Device.QueueAsync(User(0, At, request));
        Assert.Equal((Errno.None, InRequest, request.Fd), (errno, bound.Flags, bound.RequestFd));
        // Nothing is pinned before the request is queued.
        Assert.Equal((0, 0), Counts(rig));
        Assert.Equal(Errno.EINVAL, (await rig.Device.QueueAsync(User(0, At, request))).Errno);
        Assert.Equal(Errno.EBUSY, (await rig.Device.QueueAsync(User(1, At))).Errno);
        Assert.Equal(Errno.None, (await rig.Device.QueueAsync(User(1, At, request))).Errno);
        Assert.Equal(Errno.None, await QueueAsync(rig, request));
        Assert.Equal((2 * Pages, 0), Counts(rig));
        Assert.Equal(Errno.EBUSY, await QueueAsync(rig, request));
        Assert.Equal(Errno.EBUSY, await ReinitAsync(rig, request));
        Assert.Equal(Errno.EBUSY, (await rig.Device.QueueAsync(User(2, At, request))).Errno);
        await rig.Device.StreamOnAsync();
        for (var i = 0U; i < 2; i++)
            Assert.Equal(i, (await rig.Device.DequeueAsync(UserPtr).WaitAsync(Patience)).Buffer.Index);
        Assert.Equal(Errno.None, await ReinitAsync(rig, request));
        // Used again, then undone before it is queued.
        Assert.Equal(Errno.None, (await rig.Device.QueueAsync(User(0, At, request))).Errno);
        Assert.Equal(Errno.None, await ReinitAsync(rig, request));
        Assert.Equal(V4l2.FlagTimestampMonotonic, (await rig.Device.QueryAsync(0)).Buffer.Flags);
        // After STREAMOFF buffers may be queued directly, and then not with a request.
        await rig.Device.StreamOffAsync();
        Assert.Equal(Errno.None, (await rig.Device.QueueAsync(User(0, At))).Errno);
        Assert.Equal(Errno.EBUSY, (await rig.Device.QueueAsync(User(1, At, request))).Errno);
        await rig.Device.RequestBuffersAsync(0, UserPtr);
    }

    [Fact]
    public async Task A_request_whose_buffer_cannot_be_pinned_stays_idle_with_it()
    {
        await using var rig = await CreateAsync();
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        var request = (await rig.Device.IoctlAsync(V4l2.AllocateRequest, new MediaRequest())).Answer;
        await rig.Device.QueueAsync(User(0, 0x7000_0000, request));
        Assert.Equal(Errno.EFAULT, await QueueAsync(rig, request));
        Assert.Equal(InRequest, (await rig.Device.QueryAsync(0)).Buffer.Flags);
        await rig.Device.StreamOffAsync();
        Assert.Equal(V4l2.FlagTimestampMonotonic, (await rig.Device.QueryAsync(0)).Buffer.Flags);
        Assert.Equal((0, 0), Counts(rig));
        await rig.Device.RequestBuffersAsync(0, UserPtr);
    }

    // 6.1: read()/write() emulation active → -EBUSY; 6.5: vivid has read and write.
    [Fact]
    public async Task Read_gives_frames_and_keeps_the_queue_to_itself()
    {
        await using var rig = await CreateAsync();
        // A frame and a half: the second read begins the next frame only when the first one is read to its end.
        Assert.Equal((Errno.None, 1000UL), await rig.Device.File.ReadAsync(rig.SpaceName, At, 1000));
        Assert.Equal(9824, rig.Sum(At));
        Assert.Equal((Errno.None, Size - 1000UL),
            await rig.Device.File.ReadAsync(rig.SpaceName, At + 1000, Size).WaitAsync(Patience));
        Assert.Equal((Errno.None, (ulong)Size),
            await rig.Device.File.ReadAsync(rig.SpaceName, At, Size + 1).WaitAsync(Patience));
        Assert.Equal(Errno.EBUSY, (await rig.Device.RequestBuffersAsync(2, UserPtr)).Errno);
        Assert.Equal(Errno.EBUSY, (await rig.Device.QueueUserPtrAsync(0, At, Size)).Errno);
        Assert.Equal(Errno.EBUSY, (await rig.Device.PrepareAsync(User(0, At))).Errno);
        Assert.Equal(Errno.EBUSY, (await rig.Device.DequeueAsync(Mmap)).Errno);
        Assert.Equal(Errno.EBUSY, (await rig.Device.ExportAsync(0)).Errno);
        Assert.Equal(Errno.EBUSY, await rig.Device.StreamOnAsync());
        Assert.Equal(Errno.EBUSY, await rig.Device.StreamOffAsync());
        Assert.Equal(Errno.EBUSY, (await rig.Device.File.MapAsync(rig.SpaceName, Size, 3, 1, 0)).Errno);
        // To another file the queue is somebody else's; a bad kind is told before.
        await using var second = await rig.OpenAsync("video0", rig.SpaceName);
        Assert.Equal((Errno.EBUSY, 0UL), await second.File.ReadAsync(rig.SpaceName, At, Size));
        Assert.Equal(Errno.EINVAL, (await rig.Device.RequestBuffersAsync(2, 9)).Errno);
        // Nowhere to put it: the frame is not lost.
        Assert.Equal(
            (Errno.EFAULT, 0UL), await rig.Device.File.ReadAsync(rig.SpaceName, 0x7000_0000, 16).WaitAsync(Patience));
        Assert.Equal((Errno.EINVAL, 0UL), await rig.Device.File.ReadAsync(rig.SpaceName, 0, 16));
        Assert.Equal((0, 0), Counts(rig));
    }

    [Fact]
    public async Task Read_is_refused_beside_buffers_of_ones_own_where_planes_are_many_and_on_an_output()
    {
        await using var rig = await CreateAsync();
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        Assert.Equal((Errno.EBUSY, 0UL), await rig.Device.File.ReadAsync(rig.SpaceName, At, Size));
        Assert.Equal((Errno.EINVAL, 0UL), await rig.Device.File.WriteAsync(rig.SpaceName, At, Size));
        await rig.ServeAsync("video1", new VividOptions { FramesPerSecond = 0, IsMultiplanar = true });
        // The buffers of an attempt to read are given back.
        await using var planes = await rig.OpenAsync("video1", rig.SpaceName);
        await planes.SetFormatAsync("NM12", 640, 360);
        Assert.Equal((Errno.EBUSY, 0UL), await planes.File.ReadAsync(rig.SpaceName, At, Size));
        Assert.Equal(Errno.None, (await planes.RequestBuffersAsync(2, UserPtr)).Errno);
        await rig.ServeAsync("video2", new VividOptions { FramesPerSecond = 0, IsOutput = true });
        await using var output = await rig.OpenAsync("video2", rig.SpaceName);
        Assert.Equal((Errno.EINVAL, 0UL), await output.File.ReadAsync(rig.SpaceName, At, Size));
        await rig.Device.RequestBuffersAsync(0, UserPtr);
    }

    [Fact]
    public async Task Write_fills_frames_that_the_output_shows()
    {
        await using var rig = await CreateAsync();
        var shown = await rig.ServeAsync("video1", new VividOptions { FramesPerSecond = 0, IsOutput = true });
        await using var output = await rig.OpenAsync("video1", rig.SpaceName);
        await output.SetFormatAsync("YUYV", 320, 360);
        // Two buffers to fill at first, then each that has been shown.
        for (var frame = 0; frame < 5; frame++)
        {
            var (errno, bytes) = await output.File.WriteAsync(rig.SpaceName, At, 100_000).WaitAsync(Patience);
            Assert.Equal((Errno.None, 100_000UL), (errno, bytes));
            Assert.Equal((Errno.None, Size - 100_000UL),
                await output.File.WriteAsync(rig.SpaceName, At, Size).WaitAsync(Patience));
        }

        Assert.True(shown.Frames >= 3);
        Assert.Equal(Errno.EBUSY, (await output.QueueUserPtrAsync(0, At, Size)).Errno);
        Assert.Equal(
            (Errno.EFAULT, 0UL), await output.File.WriteAsync(rig.SpaceName, 0x7000_0000, 16).WaitAsync(Patience));
    }

    [Fact]
    public async Task A_read_without_a_frame_does_not_wait_when_told_not_to_and_ends_by_a_signal()
    {
        await using var rig = await VividRig.CreateAsync(daemon, "6.12", new VividOptions { FramesPerSecond = 0.001 });
        rig.Lab.Anon(At, Pages);
        Assert.Equal(
            (Errno.EAGAIN, 0UL), await rig.Device.File.ReadAsync(rig.SpaceName, At, Size, isNonBlocking: true));
        using var signal = new CancellationTokenSource();
        var waiting = rig.Device.File.ReadAsync(rig.SpaceName, At, Size, cancellationToken: signal.Token);
        // Until it waits, another one is told EAGAIN; then it is in the way.
        while ((await rig.Device.File.ReadAsync(rig.SpaceName, At, Size, isNonBlocking: true)).Errno == Errno.EAGAIN)
            await Task.Yield();
        Assert.Equal((Errno.EBUSY, 0UL), await rig.Device.File.ReadAsync(rig.SpaceName, At, Size, isNonBlocking: true));
        await signal.CancelAsync();
        await Assert.ThrowsAsync<OperationCanceledException>(() => waiting);
    }

    // 6.1, REQBUFS: raised to the least, capped at the most, -EBUSY while streaming or while somebody waits.
    [Theory]
    [InlineData("6.1", 32U)]
    [InlineData("6.12", 64U)]
    public async Task REQBUFS_keeps_between_the_least_and_the_most(string profile, uint most)
    {
        await using var rig = await VividRig.CreateAsync(daemon, profile, new VividOptions { FramesPerSecond = 0.001 });
        rig.Lab.Anon(At, Pages);
        Assert.Equal(2U, (await rig.Device.RequestBuffersAsync(1, UserPtr)).Answer.Count);
        Assert.Equal(most, (await rig.Device.RequestBuffersAsync(1000, UserPtr)).Answer.Count);
        Assert.Equal(Errno.EINVAL, (await rig.Device.DequeueAsync(UserPtr)).Errno);
        Assert.Equal(Errno.None, await rig.Device.StreamOnAsync());
        Assert.Equal(Errno.None, await rig.Device.StreamOnAsync());
        Assert.Equal(Errno.EBUSY, (await rig.Device.RequestBuffersAsync(2, UserPtr)).Errno);
        Assert.Equal(Errno.EBUSY, (await rig.Device.RequestBuffersAsync(0, UserPtr)).Errno);
        await rig.Device.StreamOffAsync();
        await rig.Device.RequestBuffersAsync(0, UserPtr);
        Assert.Equal(Errno.EINVAL, await rig.Device.StreamOnAsync());
    }

    [Fact]
    public async Task Fewer_buffers_than_a_driver_needs_are_ENOMEM_and_too_few_do_not_stream()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12", memoryBytes: 8UL << 20);
        using var queue = CreateQueue(rig, new IdleDriver { PlaneBytes = 2 << 20 }, minQueued: 6);
        // Seven of 2 MiB do not fit into 8 MiB: those that do are given back.
        Assert.Equal(
            Errno.ENOMEM, (await RunAsync(
                queue, V4l2.RequestBuffers, new V4l2RequestBuffers { Count = 1, Type = 1, Memory = Mmap })).Errno);
        Assert.Equal(0, queue.Count);
        using var huge = CreateQueue(rig, new IdleDriver { PlaneBytes = 64 << 20 });
        Assert.Equal(
            Errno.ENOMEM, (await RunAsync(
                huge, V4l2.RequestBuffers, new V4l2RequestBuffers { Count = 1, Type = 1, Memory = Mmap })).Errno);
        using var slow = CreateQueue(rig, new IdleDriver(), minQueued: 2);
        var (_, asked) = await RunAsync(
            slow, V4l2.RequestBuffers, new V4l2RequestBuffers { Count = 1, Type = 1, Memory = UserPtr });
        Assert.Equal(3U, asked.Count);
        await slow.ReleaseAsync(this);
    }

    // 6.1, EXPBUF.
    [Fact]
    public async Task EXPBUF_wants_an_MMAP_buffer_of_the_queue_and_known_flags()
    {
        await using var rig = await CreateAsync();
        await rig.Device.RequestBuffersAsync(2, Mmap);
        const uint closeOnExec = 0x8_0000;
        foreach (var (type, index, plane, flags, wanted) in new[]
        {
            (1U, 0U, 0U, closeOnExec | 2, Errno.None), (2U, 0U, 0U, 0U, Errno.EINVAL), (1U, 2U, 0U, 0U, Errno.EINVAL),
            (1U, 0U, 1U, 0U, Errno.EINVAL),
            (1U, 0U, 0U, 0x800U, Errno.EINVAL),
        })
        {
            var (errno, answer) = await rig.Device.IoctlAsync(
                V4l2.ExportBuffer, new V4l2ExportBuffer { Type = type, Index = index, Plane = plane, Flags = flags });
            Assert.Equal(wanted, errno);
            if (errno == Errno.None)
                await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = answer.DmaBuf });
        }

        await rig.Device.RequestBuffersAsync(0, Mmap);
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        Assert.Equal(Errno.EINVAL, (await rig.Device.ExportAsync(0)).Errno);
        await rig.Device.RequestBuffersAsync(0, UserPtr);
    }

    // 6.1, DMABUF prepare: "several planes naming the same dma-buf share one attachment" (since 6.12).
    [Theory]
    [InlineData("6.1", false)]
    [InlineData("6.12", true)]
    public async Task Planes_that_name_one_dma_buf_share_its_attachment(string profile, bool isShared)
    {
        await using var rig = await KernelRig.CreateAsync(daemon, profile);
        var driver = new IdleDriver { Planes = 2 };
        using var queue = CreateQueue(rig, driver, type: V4l2.BufferType.CaptureMplane);
        var first = await ExportAsync(rig);
        var second = await ExportAsync(rig);
        await RunAsync(queue, V4l2.RequestBuffers, new V4l2RequestBuffers { Count = 2, Type = 9, Memory = DmaBuf });
        Assert.Equal(Errno.None, await ImportAsync(first, first));
        await RunAsync(queue, V4l2.StreamOn, new V4l2Stream { Type = 9 });
        var planes = driver.Queued[0].Planes;
        Assert.Equal((false, isShared), (planes[0].SharesAttachment, planes[1].SharesAttachment));
        Assert.Equal(isShared, ReferenceEquals(planes[0].Memory, planes[1].Memory));
        var kept = planes[0].Memory;
        await RunAsync(queue, V4l2.StreamOff, new V4l2Stream { Type = 9 });
        // The same again: nothing is attached anew.
        Assert.Equal(Errno.None, await ImportAsync(first, first));
        Assert.Same(kept, planes[0].Memory);
        await RunAsync(queue, V4l2.StreamOff, new V4l2Stream { Type = 9 });
        // Another second plane: from 6.12 on the first one is attached anew too.
        Assert.Equal(Errno.None, await ImportAsync(first, second));
        Assert.Equal(!isShared, ReferenceEquals(kept, planes[0].Memory));
        Assert.False(planes[1].SharesAttachment);
        await RunAsync(queue, V4l2.StreamOff, new V4l2Stream { Type = 9 });
        Assert.Equal(Errno.EINVAL, await ImportAsync(first, $"{rig.MachineName}/frameVectors/99999"));
        Assert.Null(planes[0].Memory);
        await queue.ReleaseAsync(this);
        foreach (var export in new[] { first, second })
            await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = export });

        async Task<Errno> ImportAsync(string one, string two) => (await RunAsync(queue, V4l2.QueueBuffer, new V4l2Buffer
        {
            Type = 9,
            Memory = DmaBuf,
            Length = 2,
            Planes = { new V4l2Plane { DmaBuf = one }, new V4l2Plane { DmaBuf = two } },
        })).Errno;
    }

    // 6.5: formats cannot change under buffers; a smaller plane than the picture is -EINVAL.
    [Fact]
    public async Task The_format_stays_while_there_are_buffers_and_a_picture_has_to_fit()
    {
        await using var rig = await CreateAsync();
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        Assert.Equal(Errno.EBUSY, (await rig.Device.SetFormatAsync("YUYV", 640, 480)).Errno);
        await rig.Device.RequestBuffersAsync(0, UserPtr);
        await rig.ServeAsync("video1", new VividOptions { FramesPerSecond = 0, IsOutput = true });
        await using var output = await rig.OpenAsync("video1", rig.SpaceName);
        await output.SetFormatAsync("YUYV", 320, 360);
        await output.RequestBuffersAsync(2, UserPtr);
        // Fewer bytes of payload than a picture has: pinned, refused by the driver, given back.
        Assert.Equal(Errno.EINVAL, (await output.QueueUserPtrAsync(0, At, Size, bytesUsed: Size - 1)).Errno);
        Assert.Equal((Pages, Pages), Counts(rig));
        await output.RequestBuffersAsync(0, UserPtr);
    }

    private static async Task<string> ExportAsync(KernelRig rig)
    {
        var buffer = (await rig.Kernel.AllocateAsync(4096, isPfnMapped: false, "/dev/video"))!;
        var name = await rig.Kernel.ExportAsync(buffer, "");
        await rig.Kernel.FreeAsync(buffer);
        return name;
    }

    private static Task<Errno> QueueAsync(VividRig rig, MediaRequest request) =>
        CallAsync(rig, V4l2.QueueRequest, request);

    private static Task<Errno> ReinitAsync(VividRig rig, MediaRequest request) =>
        CallAsync(rig, V4l2.ReinitRequest, request);

    private static async Task<Errno> CallAsync(VividRig rig, string command, MediaRequest request) =>
        (await rig.Device.IoctlAsync(command, request)).Errno;

    private static V4l2Buffer User(uint index, ulong address, MediaRequest? request = null) => new()
    {
        Index = index,
        Memory = UserPtr,
        Flags = request is null ? 0 : V4l2.FlagRequestFd,
        RequestFd = request?.Fd ?? 0,
        Planes = { new V4l2Plane { UserPointer = address, Length = Size } },
    };

    private static (int Acquired, int Released) Counts(KernelRig rig) =>
        ((int)rig.Pins.Acquired, (int)rig.Pins.Released);

    private static Vb2Queue CreateQueue(
        KernelRig rig, IVb2Driver driver, bool requiresRequests = false, bool supportsRequests = false,
        uint minQueued = 0, uint type = V4l2.BufferType.Capture)
    {
        var options = new Vb2QueueOptions
        {
            Type = type,
            Direction = DmaDirection.FromDevice,
            RequiresRequests = requiresRequests,
            SupportsRequests = supportsRequests,
            MinQueued = minQueued,
        };
        return new Vb2Queue(options, new VmallocMemOps(rig.Kernel), driver);
    }

    private async Task<(Errno Errno, T Answer)> RunAsync<T>(Vb2Queue queue, string command, T argument)
        where T : Google.Protobuf.IMessage<T>
    {
        var context = new IoctlContext(
            command, Google.Protobuf.MessageExtensions.ToByteString(argument), "", IsNonBlocking: true);
        var result = (await queue.TryIoctlAsync(this, context, default))!.Value;
        return (result.Errno, result.Argument is T answer ? answer : argument);
    }

    private async Task<VividRig> CreateAsync()
    {
        var rig = await VividRig.CreateAsync(daemon, "6.12", new VividOptions { FramesPerSecond = 0 });
        await rig.Device.SetFormatAsync("YUYV", 320, 360);
        rig.Lab.Anon(At, Pages);
        return rig;
    }

    /// <summary>A driver that takes buffers and does nothing with them.</summary>
    private sealed class IdleDriver : IVb2Driver
    {
        public List<Vb2Buffer> Queued { get; } = [];

        public ulong PlaneBytes { get; init; } = 4096;

        public int Planes { get; init; } = 1;

        public Errno QueueSetup(Vb2Queue queue, ref uint count, ref ulong[] sizes)
        {
            if (sizes.Length == 0) sizes = [.. Enumerable.Repeat(PlaneBytes, Planes)];
            return Errno.None;
        }

        public Errno StartStreaming(Vb2Queue queue, uint count) => Errno.None;

        public Task StopStreamingAsync(Vb2Queue queue, CancellationToken cancellationToken = default)
        {
            foreach (var buffer in Queued) queue.BufferDone(buffer, Vb2State.Error);
            return Task.CompletedTask;
        }

        public void BufQueue(Vb2Buffer buffer) => Queued.Add(buffer);
    }
}
