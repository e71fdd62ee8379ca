using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.Tests.Support;
using FramePin.V1;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>The videobuf2 queue: rows 87 to 101 of Semantics 8, and the lines of Semantics 6.1 beside them.</summary>
public sealed class QueueRowTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const ulong Step = 0x100_0000;
    private const uint Size = 230_400;
    private const int Pages = 57;
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;
    private const uint Mmap = (uint)Vb2Memory.Mmap;
    private const uint DmaBuf = (uint)Vb2Memory.DmaBuf;
    private const uint Shared = 1;
    private const uint Private = 2;
    private const uint ReadWrite = 3;

    [Fact]
    public async Task Row_87_88_89_the_same_pointer_keeps_its_pages_and_another_length_pins_anew()
    {
        await using var rig = await CreateAsync();
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        Assert.Equal((Errno.None, Pages, 0), await QueueAsync(rig, 0, At, Size));
        await CycleAsync(rig);
        Assert.Equal((Errno.None, 0, 0), await QueueAsync(rig, 0, At, Size));
        await CycleAsync(rig);
        // Other memory at the same address: the old pages are used on.
        rig.Machine.Munmap(rig.Lab.Space, At, Pages * Lab.Page);
        rig.Lab.Anon(At, Pages + 1);
        Assert.Equal((Errno.None, 0, 0), await QueueAsync(rig, 0, At, Size));
        await CycleAsync(rig);
        Assert.Equal((Errno.None, Pages + 1, Pages), await QueueAsync(rig, 0, At, Size + 4096));
        await rig.Device.StreamOffAsync();
        await rig.Device.RequestBuffersAsync(0, UserPtr);
    }

    [Fact]
    public async Task Row_90_a_length_below_the_minimum_releases_what_the_buffer_had()
    {
        await using var rig = await CreateAsync();
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        Assert.Equal((Errno.None, Pages, 0), await QueueAsync(rig, 0, At, Size));
        await rig.Device.StreamOffAsync();
        Assert.Equal((Errno.EINVAL, 0, Pages), await QueueAsync(rig, 0, At, Size - 1));
        Assert.Equal((Errno.None, Pages, 0), await QueueAsync(rig, 0, At, Size));
        await rig.Device.RequestBuffersAsync(0, UserPtr);
    }

    [Fact]
    public async Task Row_91_97_a_bad_second_plane_gives_the_first_one_back_and_the_array_is_checked()
    {
        await using var rig = await VividRig.CreateAsync(
            daemon, "6.12", new VividOptions { IsMultiplanar = true, FramesPerSecond = 0 });
        var format = (await rig.Device.SetFormatAsync("NM12", 320, 240)).Format;
        Assert.Equal([76_800U, 38_400U], format.Planes.Select(plane => plane.SizeImage));
        rig.Lab.Anon(At, 19);
        rig.Lab.Anon(At + Step, 10);
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        var before = rig.Pins;
        Assert.Equal(Errno.EFAULT, (await rig.Device.QueueAsync(Planes(0, At, 0x5000_0000))).Errno);
        Assert.Equal((19L, 19L), (rig.Pins.Acquired - before.Acquired, rig.Pins.Released - before.Released));
        var none = Planes(0, At, At + Step);
        none.Planes.Clear();
        Assert.Equal(Errno.EFAULT, (await rig.Device.QueueAsync(none)).Errno);
        none.Length = 0;
        Assert.Equal(Errno.EINVAL, (await rig.Device.QueueAsync(none)).Errno);
        var many = Planes(0, At, At + Step);
        many.Length = 9;
        Assert.Equal(Errno.EINVAL, (await rig.Device.QueueAsync(many)).Errno);
        var few = Planes(0, At, At + Step);
        few.Length = 1;
        Assert.Equal(Errno.EINVAL, (await rig.Device.QueueAsync(few)).Errno);
        Assert.Equal(Errno.None, (await rig.Device.QueueAsync(Planes(0, At, At + Step))).Errno);
        Assert.Equal(Errno.None, await rig.Device.StreamOnAsync());
        var (errno, buffer) = await rig.Device.DequeueAsync(UserPtr).WaitAsync(TimeSpan.FromSeconds(20));
        Assert.Equal(Errno.None, errno);
        Assert.Equal([76_800U, 38_400U], buffer.Planes.Select(plane => plane.BytesUsed));
        Assert.NotEqual(0, rig.Sum(At + Step));
        await rig.Device.StreamOffAsync();
        await rig.Device.RequestBuffersAsync(0, UserPtr);
    }

    [Fact]
    public async Task Row_92_93_94_95_a_queued_buffer_is_not_queued_again_and_pages_stay_until_REQBUFS_0_or_close()
    {
        await using var rig = await CreateAsync();
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        await QueueAsync(rig, 0, At, Size);
        Assert.Equal((Errno.EINVAL, 0, 0), await QueueAsync(rig, 0, At, Size));
        var held = rig.Pins;
        await CycleAsync(rig);
        Assert.Equal(held, rig.Pins);
        await rig.Device.StreamOnAsync();
        Assert.Equal(Errno.EBUSY, (await rig.Device.RequestBuffersAsync(4, UserPtr)).Errno);
        Assert.Equal(Errno.EBUSY, (await rig.Device.RequestBuffersAsync(0, UserPtr)).Errno);
        await rig.Device.StreamOffAsync();
        Assert.Equal(held, rig.Pins);
        await rig.Device.RequestBuffersAsync(0, UserPtr);
        Assert.Equal(held.Acquired, rig.Pins.Released);

        // The same by close.
        await using (var other = await rig.OpenAsync("video0", rig.SpaceName))
        {
            await other.RequestBuffersAsync(2, UserPtr);
            Assert.Equal(Errno.None, (await other.QueueUserPtrAsync(0, At, Size)).Errno);
            Assert.Equal(Pages, rig.Pins.Acquired - rig.Pins.Released);
        }

        Assert.Equal(rig.Pins.Acquired, rig.Pins.Released);
    }

    [Fact]
    public async Task Row_96_a_queue_without_USERPTR_refuses_it()
    {
        await using var rig = await VividRig.CreateAsync(
            daemon, "6.12", new VividOptions { Allocator = VividAllocator.DmaContig, FramesPerSecond = 0 });
        Assert.Equal(Errno.EINVAL, (await rig.Device.RequestBuffersAsync(2, UserPtr)).Errno);
        Assert.Equal(Errno.None, (await rig.Device.RequestBuffersAsync(2, Mmap)).Errno);
    }

    [Fact]
    public async Task Row_98_output_cannot_use_more_bytes_than_there_are()
    {
        await using var rig = await VividRig.CreateAsync(
            daemon, "6.12", new VividOptions { IsOutput = true, FramesPerSecond = 0 });
        await rig.Device.SetFormatAsync("YUYV", 320, 360);
        rig.Lab.Anon(At, Pages);
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        Assert.Equal(Errno.EINVAL, (await rig.Device.QueueUserPtrAsync(0, At, Size, Size + 1)).Errno);
        // Fewer than the picture has are vivid's to refuse; none means all.
        Assert.Equal(Errno.EINVAL, (await rig.Device.QueueUserPtrAsync(0, At, Size, Size - 1)).Errno);
        Assert.Equal(Errno.None, (await rig.Device.QueueUserPtrAsync(0, At, Size)).Errno);
    }

    [Theory]
    [InlineData(VividAllocator.Vmalloc)]
    [InlineData(VividAllocator.DmaContig)]
    public async Task Row_99_100_mmap_wants_a_shared_readable_mapping_of_a_buffer_that_is_there(
        VividAllocator allocator)
    {
        await using var rig = await VividRig.CreateAsync(
            daemon, "6.12", new VividOptions { Allocator = allocator, FramesPerSecond = 0 });
        await rig.Device.SetFormatAsync("YUYV", 320, 360);
        var file = rig.Device.File;
        Assert.Equal(Errno.EINVAL, (await file.MapAsync(rig.SpaceName, Size, ReadWrite, Shared, 0)).Errno);
        await rig.Device.RequestBuffersAsync(2, Mmap);
        Assert.Equal(1U << 15, (await rig.Device.QueryAsync(1)).Buffer.Planes[0].Offset);
        Assert.Equal(Errno.EINVAL, (await file.MapAsync(rig.SpaceName, Size, ReadWrite, Private, 0)).Errno);
        Assert.Equal(Errno.EINVAL, (await file.MapAsync(rig.SpaceName, Size, 2, Shared, 0)).Errno);
        Assert.Equal(Errno.EINVAL, (await file.MapAsync(rig.SpaceName, Size, ReadWrite, Shared, 7 << 15)).Errno);
        Assert.Equal(Errno.EINVAL, (await file.MapAsync(rig.SpaceName, Size + 4096, ReadWrite, Shared, 0)).Errno);
        var (errno, address) = await file.MapAsync(rig.SpaceName, Size, ReadWrite, Shared, 1 << 15);
        Assert.Equal(Errno.None, errno);
        // The driver's picture is in the mapping. An orphan keeps it.
        await rig.Device.QueueAsync(new V4l2Buffer { Index = 0, Memory = Mmap });
        await rig.Device.QueueAsync(new V4l2Buffer { Index = 1, Memory = Mmap });
        await rig.Device.StreamOnAsync();
        await rig.Device.DequeueAsync(Mmap).WaitAsync(TimeSpan.FromSeconds(20));
        await rig.Device.DequeueAsync(Mmap).WaitAsync(TimeSpan.FromSeconds(20));
        await rig.Device.StreamOffAsync();
        Assert.Equal(9824, rig.Sum(address));
        var free = rig.Machine.Statistics().FreeFrames;
        Assert.Equal(Errno.None, (await rig.Device.RequestBuffersAsync(0, Mmap)).Errno);
        Assert.Equal(9824, rig.Sum(address));
        rig.Machine.Munmap(rig.Lab.Space, address, Pages * Lab.Page);
        // Both buffers, of 64 frames each.
        Assert.Equal(free + 128, rig.Machine.Statistics().FreeFrames);
    }

    [Theory]
    [InlineData(VividAllocator.Vmalloc)]
    [InlineData(VividAllocator.DmaContig)]
    public async Task Row_101_an_exported_buffer_outlives_REQBUFS_0_and_another_queue_fills_it(VividAllocator allocator)
    {
        await using var rig = await VividRig.CreateAsync(
            daemon, "6.12", new VividOptions { Allocator = allocator, FramesPerSecond = 0 });
        await rig.Device.SetFormatAsync("YUYV", 320, 360);
        await rig.ServeAsync("video1", new VividOptions { FramesPerSecond = 0 });
        await using var importer = await rig.OpenAsync("video1", rig.SpaceName);
        await importer.SetFormatAsync("YUYV", 320, 360);
        Assert.Equal(Errno.EINVAL, (await rig.Device.ExportAsync(0)).Errno);
        await rig.Device.RequestBuffersAsync(2, Mmap);
        Assert.Equal(Errno.EINVAL, (await rig.Device.ExportAsync(9)).Errno);
        Assert.Equal(Errno.EINVAL, (await rig.Device.ExportAsync(0, plane: 1)).Errno);
        var (_, export) = await rig.Device.ExportAsync(0);
        Assert.Equal(Errno.None, (await rig.Device.RequestBuffersAsync(0, Mmap)).Errno);
        await importer.RequestBuffersAsync(2, DmaBuf);
        Assert.Equal(
            Errno.EINVAL, (await importer.QueueAsync(Import(0, $"{rig.MachineName}/frameVectors/999999", 0))).Errno);
        Assert.Equal(Errno.EINVAL, (await importer.QueueAsync(Import(0, export.DmaBuf, Size - 1))).Errno);
        Assert.Equal(Errno.EFAULT, (await importer.QueueAsync(Import(0, export.DmaBuf, 1 << 20))).Errno);
        Assert.Equal(Errno.None, (await importer.QueueAsync(Import(0, export.DmaBuf, 0))).Errno);
        await importer.StreamOnAsync();
        Assert.Equal(Errno.None, (await importer.DequeueAsync(DmaBuf).WaitAsync(TimeSpan.FromSeconds(20))).Errno);
        await importer.StreamOffAsync();
        await importer.RequestBuffersAsync(0, DmaBuf);
        var seen = new byte[64];
        await new RemoteFrameMemory(daemon.Client).ReadAsync(export.DmaBuf, 0, seen);
        Assert.Equal(9824, seen.Sum(one => one));
        await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = export.DmaBuf });
    }

    [Fact]
    public async Task Errors_that_are_injected_come_out_where_they_belong()
    {
        await using var rig = await CreateAsync();
        await rig.Device.SetControlAsync("inject_queue_setup_error", 1);
        Assert.Equal(Errno.EINVAL, (await rig.Device.RequestBuffersAsync(2, UserPtr)).Errno);
        Assert.Equal(2U, (await rig.Device.RequestBuffersAsync(1, UserPtr)).Answer.Count);
        await rig.Device.SetControlAsync("inject_buf_prepare_error", 1);
        // Pinned, then refused by the driver: everything is given back.
        Assert.Equal((Errno.EINVAL, Pages, Pages), await QueueAsync(rig, 0, At, Size));
        Assert.Equal((Errno.None, Pages, 0), await QueueAsync(rig, 0, At, Size));
        await rig.Device.SetControlAsync("inject_start_streaming_error", 1);
        Assert.Equal(Errno.EINVAL, await rig.Device.StreamOnAsync());
        Assert.Equal(V4l2.FlagQueued | V4l2.FlagTimestampMonotonic, (await rig.Device.QueryAsync(0)).Buffer.Flags);
        await rig.Device.SetControlAsync("inject_dqbuf_error", 1);
        Assert.Equal(Errno.None, await rig.Device.StreamOnAsync());
        var (_, marked) = await rig.Device.DequeueAsync(UserPtr).WaitAsync(TimeSpan.FromSeconds(20));
        Assert.Equal(V4l2.FlagError | V4l2.FlagTimestampMonotonic, marked.Flags);
        await rig.Device.SetControlAsync("inject_fatal_error", 1);
        Assert.Equal(Errno.EIO, (await rig.Device.DequeueAsync(UserPtr)).Errno);
        Assert.Equal(Errno.EIO, (await rig.Device.QueueUserPtrAsync(1, At, Size)).Errno);
        Assert.Equal(Errno.None, await rig.Device.StreamOffAsync());
        await rig.Device.RequestBuffersAsync(0, UserPtr);
    }

    [Fact]
    public async Task Who_waits_in_DQBUF_is_alone_and_a_signal_or_STREAMOFF_ends_the_wait()
    {
        await using var rig = await CreateAsync();
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        await rig.Device.StreamOnAsync();
        using var signal = new CancellationTokenSource();
        var waiting = rig.Device.DequeueAsync(UserPtr, cancellationToken: signal.Token);
        // Until it waits, a second one gets EAGAIN: nothing is queued.
        while ((await rig.Device.DequeueAsync(UserPtr, isNonBlocking: true)).Errno == Errno.EAGAIN) await Task.Yield();
        Assert.Equal(Errno.EBUSY, (await rig.Device.DequeueAsync(UserPtr)).Errno);
        await signal.CancelAsync();
        await Assert.ThrowsAsync<OperationCanceledException>(() => waiting);
        while ((await rig.Device.DequeueAsync(UserPtr, isNonBlocking: true)).Errno == Errno.EBUSY) await Task.Yield();
        var again = rig.Device.DequeueAsync(UserPtr);
        while ((await rig.Device.DequeueAsync(UserPtr, isNonBlocking: true)).Errno == Errno.EAGAIN) await Task.Yield();
        Assert.Equal(Errno.None, await rig.Device.StreamOffAsync());
        Assert.Equal(Errno.EINVAL, (await again.WaitAsync(TimeSpan.FromSeconds(20))).Errno);
        await rig.Device.RequestBuffersAsync(0, UserPtr);
    }

    [Fact]
    public async Task Behind_the_last_buffer_of_a_stream_there_is_EPIPE_until_STREAMOFF()
    {
        await using var rig = await CreateAsync();
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        await rig.Device.StreamOnAsync();
        rig.Driver.Queue.SetLastBufferDequeued();
        Assert.Equal(Errno.EPIPE, (await rig.Device.DequeueAsync(UserPtr)).Errno);
        await rig.Device.StreamOffAsync();
        await rig.Device.StreamOnAsync();
        Assert.Equal(Errno.EAGAIN, (await rig.Device.DequeueAsync(UserPtr, isNonBlocking: true)).Errno);
    }

    [Fact]
    public async Task Buffers_are_created_behind_others_and_removed_where_the_kernel_can()
    {
        await using var rig = await CreateAsync();
        var format = (await rig.Device.GetFormatAsync()).Format;
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        var (_, created) = await rig.Device.IoctlAsync(
            V4l2.CreateBuffers, new V4l2CreateBuffers { Count = 3, Memory = UserPtr, Format = format });
        Assert.Equal((2U, 3U), (created.Index, created.Count));
        Assert.Equal(
            Errno.EINVAL, (await rig.Device.IoctlAsync(
                V4l2.CreateBuffers, new V4l2CreateBuffers { Count = 1, Memory = Mmap, Format = format })).Errno);
        var small = format.Clone();
        small.Planes[0].SizeImage--;
        Assert.Equal(
            Errno.EINVAL, (await rig.Device.IoctlAsync(
                V4l2.CreateBuffers, new V4l2CreateBuffers { Count = 1, Memory = UserPtr, Format = small })).Errno);
        await QueueAsync(rig, 4, At, Size);
        Assert.Equal(Errno.EBUSY, await RemoveAsync(rig, 3, 2));
        // D2: the range is walked from its front, where a buffer is queued.
        Assert.Equal(Errno.EBUSY, await RemoveAsync(rig, 4, 2));
        Assert.Equal(Errno.EINVAL, await RemoveAsync(rig, 5, 2));
        Assert.Equal(Errno.None, await RemoveAsync(rig, 2, 2));
        Assert.Equal(Errno.EINVAL, (await rig.Device.QueryAsync(2)).Errno);
        // The places of removed ones are taken again, where their row is long enough (D2).
        foreach (var (count, index, made) in new[] { (64U, 5U, 59U), (64U, 2U, 2U) })
        {
            (_, created) = await rig.Device.IoctlAsync(
                V4l2.CreateBuffers, new V4l2CreateBuffers { Count = count, Memory = UserPtr, Format = format });
            Assert.Equal((index, made), (created.Index, created.Count));
        }

        Assert.Equal(
            Errno.ENOBUFS, (await rig.Device.IoctlAsync(
                V4l2.CreateBuffers, new V4l2CreateBuffers { Count = 1, Memory = UserPtr, Format = format })).Errno);
    }

    private static async Task<Errno> RemoveAsync(VividRig rig, uint index, uint count) =>
        (await rig.Device.IoctlAsync(
            V4l2.RemoveBuffers, new V4l2RemoveBuffers { Index = index, Count = count, Type = rig.Device.Type })).Errno;

    private static V4l2Buffer Import(uint index, string dmaBuf, uint length) =>
        new() { Index = index, Memory = DmaBuf, Planes = { new V4l2Plane { DmaBuf = dmaBuf, Length = length } } };

    private static V4l2Buffer Planes(uint index, ulong first, ulong second) => new()
    {
        Index = index,
        Memory = UserPtr,
        Length = 2,
        Planes = { new V4l2Plane { UserPointer = first, Length = 76_800 },
            new V4l2Plane { UserPointer = second, Length = 38_400 } },
    };

    private async Task<VividRig> CreateAsync()
    {
        var rig = await VividRig.CreateAsync(daemon, "6.12", new VividOptions { FramesPerSecond = 0 });
        await rig.Device.SetFormatAsync("YUYV", 320, 360);
        rig.Lab.Anon(At, Pages);
        return rig;
    }

    private static async Task<(Errno Errno, int Acquired, int Released)> QueueAsync(
        VividRig rig, uint index, ulong address, uint length)
    {
        var before = rig.Pins;
        var (errno, _) = await rig.Device.QueueUserPtrAsync(index, address, length);
        return (errno, (int)(rig.Pins.Acquired - before.Acquired), (int)(rig.Pins.Released - before.Released));
    }

    /// <summary>A frame comes, and the stream ends.</summary>
    private static async Task CycleAsync(VividRig rig)
    {
        Assert.Equal(Errno.None, await rig.Device.StreamOnAsync());
        Assert.Equal(Errno.None, (await rig.Device.DequeueAsync(UserPtr).WaitAsync(TimeSpan.FromSeconds(20))).Errno);
        Assert.Equal(Errno.None, await rig.Device.StreamOffAsync());
    }
}
