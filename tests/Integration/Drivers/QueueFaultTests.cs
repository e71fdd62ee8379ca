using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.Tests.Support;
using FramePin.V1;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Faults of the queue that programs elsewhere met: entries D1 to D10. Each is a case of a rule, which the other ioctls
/// are held to beside it.
/// </summary>
public sealed class QueueFaultTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const uint Size = 230_400;
    private const int Pages = 57;
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;
    private const uint Mmap = (uint)Vb2Memory.Mmap;
    private const uint Monotonic = V4l2.FlagTimestampMonotonic;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    // D1, CVE-2025-40302: the buffers are those of read() and write().
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task D1_buffers_of_file_IO_are_neither_freed_nor_added_to(bool isOutput)
    {
        await using var rig = await CreateAsync(isOutput: isOutput);
        var file = rig.Device.File;
        Task<(Errno Errno, ulong Bytes)> TransferAsync() => isOutput
            ? file.WriteAsync(rig.SpaceName, At, 10).WaitAsync(Patience)
            : file.ReadAsync(rig.SpaceName, At, 10).WaitAsync(Patience);
        Assert.Equal((Errno.None, 10UL), await TransferAsync());
        var format = (await rig.Device.GetFormatAsync()).Format;
        Assert.Equal(Errno.EBUSY, await RemoveAsync(rig.Device, 0, 1));
        Assert.Equal(Errno.EBUSY, (await rig.Device.RequestBuffersAsync(0, Mmap)).Errno);
        Assert.Equal(Errno.EBUSY, (await CreateBuffersAsync(rig.Device, 1, Mmap, format)).Errno);
        // The type is told before, and what frees nothing is no conflict.
        Assert.Equal(Errno.EINVAL, await RemoveAsync(rig.Device, 0, 1, type: 99));
        Assert.Equal(Errno.None, await RemoveAsync(rig.Device, 0, 0));
        Assert.Equal(Errno.None, (await CreateBuffersAsync(rig.Device, 0, Mmap, format)).Errno);
        Assert.Equal((Errno.None, 10UL), await TransferAsync());
    }

    // D2: the answer says which buffers were made.
    [Fact]
    public async Task D2_created_buffers_lie_in_one_row_of_free_places()
    {
        await using var rig = await CreateAsync();
        var format = (await rig.Device.GetFormatAsync()).Format;
        Assert.Equal((Errno.None, 0U, 4U), await MakeAsync(4));
        Assert.Equal(Errno.None, await RemoveAsync(rig.Device, 1, 2));
        Assert.Equal((Errno.None, 4U, 3U), await MakeAsync(3));
        Assert.Equal((Errno.None, 1U, 2U), await MakeAsync(2));
        // 0 to 6 are there: what is left is one row of 57.
        Assert.Equal((Errno.None, 7U, 57U), await MakeAsync(100));
        Assert.Equal(Errno.None, await RemoveAsync(rig.Device, 10, 2));
        Assert.Equal(Errno.None, await RemoveAsync(rig.Device, 20, 5));
        // No row holds 7: the longest is taken.
        Assert.Equal((Errno.None, 20U, 5U), await MakeAsync(7));
        Assert.Equal((Errno.None, 10U, 2U), await MakeAsync(9));
        // A refusal leaves the argument as it came.
        Assert.Equal((Errno.ENOBUFS, 77U, 1U), await MakeAsync(1));
        for (var index = 0U; index < 64; index++)
            Assert.Equal(Errno.None, (await rig.Device.QueryAsync(index)).Errno);
        // The range is walked from its front: a queued buffer before a missing one is EBUSY.
        await rig.Device.QueueAsync(User(5));
        Assert.Equal(Errno.None, await RemoveAsync(rig.Device, 6, 1));
        Assert.Equal(Errno.EBUSY, await RemoveAsync(rig.Device, 5, 2));
        Assert.Equal(Errno.EINVAL, await RemoveAsync(rig.Device, 6, 2));
        Assert.Equal(Errno.EINVAL, await RemoveAsync(rig.Device, uint.MaxValue, 2));

        async Task<(Errno, uint, uint)> MakeAsync(uint count)
        {
            var (errno, answer) = await CreateBuffersAsync(rig.Device, count, UserPtr, format, index: 77);
            return (errno, answer.Index, answer.Count);
        }
    }

    [Fact]
    public async Task D2_a_queue_whose_last_buffer_is_removed_takes_another_kind_of_memory()
    {
        await using var rig = await CreateAsync();
        var format = (await rig.Device.GetFormatAsync()).Format;
        Assert.Equal(Errno.None, (await CreateBuffersAsync(rig.Device, 2, UserPtr, format)).Errno);
        Assert.Equal(Errno.EINVAL, (await CreateBuffersAsync(rig.Device, 1, Mmap, format)).Errno);
        Assert.Equal(Errno.None, await RemoveAsync(rig.Device, 0, 2));
        Assert.Equal(Errno.None, (await CreateBuffersAsync(rig.Device, 1, Mmap, format)).Errno);
    }

    // D4: timestamps of a monotonic queue are the driver's, also for output.
    [Fact]
    public async Task D4_an_output_buffer_shows_the_drivers_clock_and_nothing_of_the_applications()
    {
        await using var rig = await CreateAsync(isOutput: true);
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        const uint keyFrame = 8;
        foreach (var given in new[] { 0UL, 123_456_789UL })
        {
            for (var index = 0U; index < 2; index++)
            {
                var argument = User(index);
                (argument.Timestamp, argument.Sequence, argument.Field) = (given, 99, 1);
                argument.Flags = keyFrame | V4l2.FlagDone | V4l2.FlagError | V4l2.FlagTimestampCopy | 0x1_1000;
                var (errno, queued) = await rig.Device.QueueAsync(argument);
                Assert.Equal((Errno.None, 0UL, 0U, 4U), (errno, queued.Timestamp, queued.Sequence, queued.Field));
                Assert.Equal(keyFrame | Monotonic | V4l2.FlagQueued, queued.Flags);
                Assert.Equal(queued, (await rig.Device.QueryAsync(index)).Buffer);
            }

            await rig.Device.StreamOnAsync();
            var shown = (await rig.Device.DequeueAsync(UserPtr).WaitAsync(Patience)).Buffer;
            Assert.NotEqual(0UL, shown.Timestamp);
            Assert.NotEqual(given, shown.Timestamp);
            Assert.Equal((4U, keyFrame | Monotonic), (shown.Field, shown.Flags));
            await rig.Device.StreamOffAsync();
        }

        var alternate = User(0);
        alternate.Field = 7;
        Assert.Equal(Errno.EINVAL, (await rig.Device.QueueAsync(alternate)).Errno);
    }

    [Fact]
    public async Task D4_a_queue_that_copies_timestamps_shows_the_applications()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        var options = new Vb2QueueOptions
        {
            Type = V4l2.BufferType.Output,
            Direction = FramePin.Drivers.VideoBuf2.DmaDirection.ToDevice,
            CopiesTimestamps = true,
        };
        using var queue = new Vb2Queue(options, new VmallocMemOps(rig.Kernel), new OnePage());
        await RunAsync(V4l2.RequestBuffers, new V4l2RequestBuffers { Count = 1, Type = 2, Memory = Mmap });
        var (errno, queued) = await RunAsync(
            V4l2.QueueBuffer, new V4l2Buffer { Type = 2, Memory = Mmap, Timestamp = 42, Flags = 0x1_0000 });
        Assert.Equal((Errno.None, 42UL), (errno, queued.Timestamp));
        Assert.Equal(V4l2.FlagTimestampCopy | 0x1_0000 | V4l2.FlagQueued, queued.Flags);
        await queue.ReleaseAsync(this);

        async Task<(Errno Errno, T Answer)> RunAsync<T>(string command, T argument)
            where T : Google.Protobuf.IMessage<T>
        {
            var context = new IoctlContext(
                command, Google.Protobuf.MessageExtensions.ToByteString(argument), "", IsNonBlocking: true);
            var result = (await queue.TryIoctlAsync(this, context))!.Value;
            return (result.Errno, result.Argument is T answer ? answer : argument);
        }
    }

    // D6: fields that programs decide by.
    [Theory]
    [InlineData("6.1")]
    [InlineData("6.12")]
    public async Task D6_a_buffer_shows_its_clock_its_field_and_whether_it_is_mapped_or_exported(string profile)
    {
        await using var rig = await CreateAsync(profile);
        await rig.Device.RequestBuffersAsync(2, Mmap);
        var fresh = (await rig.Device.QueryAsync(0)).Buffer;
        Assert.Equal((Monotonic, 0U, 0UL, 0U), (fresh.Flags, fresh.Field, fresh.Timestamp, fresh.Sequence));
        var (_, address) = await rig.Device.File.MapAsync(rig.SpaceName, Size, 3, 1, fresh.Planes[0].Offset);
        Assert.Equal(Monotonic | V4l2.FlagMapped, await FlagsAsync(rig, 0));
        Assert.Equal(Monotonic, await FlagsAsync(rig, 1));
        // A child's mapping counts too.
        var child = rig.Machine.Fork(rig.Lab.Space, "child", out _)!;
        rig.Machine.Munmap(rig.Lab.Space, address, Pages * Lab.Page);
        Assert.Equal(Monotonic | V4l2.FlagMapped, await FlagsAsync(rig, 0));
        rig.Machine.Exit(child);
        Assert.Equal(Monotonic, await FlagsAsync(rig, 0));
        var (_, export) = await rig.Device.ExportAsync(1);
        Assert.Equal(Monotonic | V4l2.FlagMapped, await FlagsAsync(rig, 1));
        var (_, queued) = await rig.Device.QueueAsync(new V4l2Buffer { Index = 1, Memory = Mmap });
        Assert.Equal(Monotonic | V4l2.FlagMapped | V4l2.FlagQueued, queued.Flags);
        await rig.Device.StreamOnAsync();
        var taken = (await rig.Device.DequeueAsync(Mmap).WaitAsync(Patience)).Buffer;
        Assert.Equal((Monotonic | V4l2.FlagMapped, 1U), (taken.Flags, taken.Field));
        await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = export.DmaBuf });
        Assert.Equal(Monotonic, await FlagsAsync(rig, 1));
        await rig.Device.StreamOffAsync();
    }

    [Theory]
    [InlineData("6.1", 0x1fU, 0U)]
    [InlineData("6.12", 0x19fU, 64U)]
    public async Task D6_CREATE_BUFS_says_how_many_buffers_a_queue_can_have(string profile, uint bits, uint most)
    {
        await using var rig = await CreateAsync(profile);
        var format = (await rig.Device.GetFormatAsync()).Format;
        foreach (var count in new[] { 0U, 2U })
        {
            var (errno, answer) = await CreateBuffersAsync(rig.Device, count, UserPtr, format);
            Assert.Equal((Errno.None, 0U, count), (errno, answer.Index, answer.Count));
            Assert.Equal((bits, most), (answer.Capabilities, answer.MaxNumBuffers));
        }

        Assert.Equal(bits & ~0x80U, (await rig.Device.RequestBuffersAsync(2, UserPtr)).Answer.Capabilities);
    }

    // D8: a queue has an owner, whom every ioctl asks for in its own way.
    [Theory]
    [InlineData(V4l2.RequestBuffers, Errno.EBUSY)]
    [InlineData(V4l2.CreateBuffers, Errno.EBUSY)]
    [InlineData(V4l2.RemoveBuffers, Errno.EBUSY)]
    [InlineData(V4l2.QueryBuffer, Errno.None)]
    [InlineData(V4l2.QueueBuffer, Errno.EBUSY)]
    [InlineData(V4l2.PrepareBuffer, Errno.EBUSY)]
    [InlineData(V4l2.DequeueBuffer, Errno.EBUSY)]
    [InlineData(V4l2.ExportBuffer, Errno.EBUSY)]
    [InlineData(V4l2.StreamOn, Errno.EBUSY)]
    [InlineData(V4l2.StreamOff, Errno.EBUSY)]
    [InlineData("read", Errno.EBUSY)]
    [InlineData("mmap", Errno.None)]
    [InlineData("poll", Errno.None)]
    public async Task D8_a_file_that_does_not_own_the_queue_is_refused_by_each_call_as_Linux_does(
        string call, Errno wanted)
    {
        await using var rig = await CreateAsync();
        await using var other = await rig.OpenAsync("video0", rig.SpaceName);
        await rig.Device.RequestBuffersAsync(2, Mmap);
        var format = (await rig.Device.GetFormatAsync()).Format;
        var errno = call switch
        {
            V4l2.RequestBuffers => (await other.RequestBuffersAsync(0, Mmap)).Errno,
            V4l2.CreateBuffers => (await CreateBuffersAsync(other, 1, Mmap, format)).Errno,
            V4l2.RemoveBuffers => await RemoveAsync(other, 0, 1),
            V4l2.QueryBuffer => (await other.QueryAsync(0)).Errno,
            V4l2.QueueBuffer => (await other.QueueAsync(new V4l2Buffer { Memory = Mmap })).Errno,
            V4l2.PrepareBuffer => (await other.PrepareAsync(new V4l2Buffer { Memory = Mmap })).Errno,
            V4l2.DequeueBuffer => (await other.DequeueAsync(Mmap, isNonBlocking: true)).Errno,
            V4l2.ExportBuffer => (await other.ExportAsync(0)).Errno,
            V4l2.StreamOn => await other.StreamOnAsync(),
            V4l2.StreamOff => await other.StreamOffAsync(),
            "read" => (await other.File.ReadAsync(rig.SpaceName, At, Size)).Errno,
            "mmap" => (await other.File.MapAsync(rig.SpaceName, Size, 3, 1, 0)).Errno,
            _ => (await other.PollAsync(PollEvents.In, TimeSpan.Zero)).Errno,
        };
        Assert.Equal(wanted, errno);
        // A type that the node does not have is told before the owner.
        Assert.Equal(Errno.EINVAL, (await other.QueueAsync(new V4l2Buffer { Type = 99, Memory = Mmap })).Errno);
    }

    // D10: an answer that has no room for the planes takes nothing.
    [Fact]
    public async Task D10_a_multi_planar_answer_needs_room_and_a_DQBUF_without_it_leaves_the_frame()
    {
        await using var rig = await VividRig.CreateAsync(
            daemon, "6.12", new VividOptions { IsMultiplanar = true, FramesPerSecond = 0 });
        await rig.Device.SetFormatAsync("NM12", 320, 240);
        await rig.Device.RequestBuffersAsync(2, Mmap);
        foreach (var (planes, length, wanted) in new[]
        {
            (0, 0U, Errno.EINVAL), (0, 2U, Errno.EFAULT), (1, 1U, Errno.EINVAL), (1, 2U, Errno.EFAULT),
            (2, 9U, Errno.EINVAL), (9, 9U, Errno.EINVAL), (2, 2U, Errno.None), (8, 8U, Errno.None),
        })
        {
            Assert.Equal(wanted, (await AskAsync(V4l2.QueryBuffer)).Errno);
            Assert.Equal(wanted, (await AskAsync(V4l2.QueueBuffer)).Errno);
            if (wanted == Errno.None) await rig.Device.StreamOffAsync();

            Task<(Errno Errno, V4l2Buffer Buffer)> AskAsync(string command) =>
                rig.Device.IoctlAsync(command, Argument(planes, length));
        }

        await rig.Device.QueueAsync(Argument(2, 2));
        await rig.Device.StreamOnAsync();
        Assert.Equal(
            PollEvents.In, (await rig.Device.PollAsync(PollEvents.In).WaitAsync(Patience)).Events);
        foreach (var (planes, length, wanted) in new[]
        {
            (0, 0U, Errno.EINVAL), (1, 1U, Errno.EINVAL), (0, 2U, Errno.EFAULT), (0, 9U, Errno.EINVAL),
        })
            Assert.Equal(
                wanted, (await rig.Device.IoctlAsync(V4l2.DequeueBuffer, Argument(planes, length))).Errno);
        var (errno, frame) = await rig.Device.IoctlAsync(V4l2.DequeueBuffer, Argument(2, 2));
        Assert.Equal((Errno.None, 2U, 0U), (errno, frame.Length, frame.Sequence));
        await rig.Device.StreamOffAsync();

        static V4l2Buffer Argument(int planes, uint length)
        {
            var argument = new V4l2Buffer { Type = V4l2.BufferType.CaptureMplane, Memory = Mmap, Length = length };
            for (var i = 0; i < planes; i++) argument.Planes.Add(new V4l2Plane());
            return argument;
        }
    }

    private static async Task<uint> FlagsAsync(VividRig rig, uint index) =>
        (await rig.Device.QueryAsync(index)).Buffer.Flags;

    private static async Task<Errno> RemoveAsync(V4l2Device device, uint index, uint count, uint type = 0)
    {
        var argument = new V4l2RemoveBuffers
        {
            Index = index,
            Count = count,
            Type = type == 0 ? device.Type : type,
        };
        return (await device.IoctlAsync(V4l2.RemoveBuffers, argument)).Errno;
    }

    private static Task<(Errno Errno, V4l2CreateBuffers Answer)> CreateBuffersAsync(
        V4l2Device device, uint count, uint memory, V4l2Format format, uint index = 0) =>
        device.IoctlAsync(V4l2.CreateBuffers, new V4l2CreateBuffers
        {
            Index = index,
            Count = count,
            Memory = memory,
            Format = format,
        });

    private static V4l2Buffer User(uint index) => new()
    {
        Index = index,
        Memory = UserPtr,
        Planes = { new V4l2Plane { UserPointer = At, Length = Size } },
    };

    private async Task<VividRig> CreateAsync(string profile = "6.12", bool isOutput = false)
    {
        var rig = await VividRig.CreateAsync(
            daemon, profile, new VividOptions { FramesPerSecond = 0, IsOutput = isOutput });
        await rig.Device.SetFormatAsync("YUYV", 320, 360);
        rig.Lab.Anon(At, Pages);
        return rig;
    }

    /// <summary>A driver of buffers of one page that does nothing with them.</summary>
    private sealed class OnePage : IVb2Driver
    {
        public Errno QueueSetup(Vb2Queue queue, ref uint count, ref ulong[] sizes)
        {
            if (sizes.Length == 0) sizes = [4096];
            return Errno.None;
        }

        public Errno StartStreaming(Vb2Queue queue, uint count) => Errno.None;

        public Task StopStreamingAsync(Vb2Queue queue, CancellationToken cancellationToken = default) =>
            Task.CompletedTask;

        public void BufQueue(Vb2Buffer buffer)
        {
        }
    }
}
