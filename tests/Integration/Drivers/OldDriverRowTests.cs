using FramePin.Client;
using FramePin.Core.Backing;
using FramePin.Drivers;
using FramePin.Drivers.ExynosG2d;
using FramePin.Drivers.OmapVout;
using FramePin.Drivers.VideoBuf2;
using FramePin.Tests.Support;
using FramePin.V1;
using Xunit;
using DeviceMapping = FramePin.Core.Backing.DeviceMapping;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// The other drivers that the series converted: omap_vout (rows 103, 104) and exynos g2d (rows 105 to 110).
/// </summary>
public sealed class OldDriverRowTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const ulong Bad = 0x5000_0000;
    private const uint Picture = 64 * 64 * 2;

    [Theory]
    [InlineData("4.3")]
    [InlineData("4.9")]
    public async Task Row_103_104_omap_looks_at_one_page_and_takes_kernel_addresses_at_their_word(string profile)
    {
        await using var rig = await KernelRig.CreateAsync(daemon, profile);
        var driver = new OmapVoutDriver(rig.Kernel);
        await rig.ServeAsync("video1", driver);
        await using var file = await rig.OpenHandleAsync("video1");
        await SetUpAsync(rig, file);
        Assert.Equal(Errno.EINVAL, await QueueAsync(rig, file, 0, Bad));
        rig.Lab.Anon(At, 4, FramePin.Core.Abi.Prot.Read, written: false);
        Assert.Equal(Errno.EINVAL, await QueueAsync(rig, file, 0, At));
        rig.Lab.Device(At + 0x10_0000, 4, DeviceMapping.PfnMap, isRam: false);
        Assert.Equal(Errno.None, await QueueAsync(rig, file, 0, At + 0x10_0000));
        Assert.Equal(0, rig.Vectors - 1);

        // Only the first page is held, whatever lies behind it; the place in it is lost.
        rig.Lab.Anon(At + 0x20_0000, 4, written: false);
        rig.Lab.Write(At + 0x20_0000 + (2 * Lab.Page), 1);
        rig.Lab.Write(At + 0x20_0000, 1);
        Assert.Equal(Errno.None, await QueueAsync(rig, file, 1, At + 0x20_0000 + 52));
        var first = rig.Frames(At + 0x20_0000, 1)[0];
        Assert.Equal(first.Value << 12, driver.PhysicalAddressOf(1));
        Assert.Equal(2, rig.Machine.ViewPage(first).RefCount);
        Assert.Equal(1UL, driver.ScatteredBuffers);

        // A kernel address: nothing pinned, nothing checked.
        var vectors = rig.Vectors;
        Assert.Equal(Errno.None, await QueueAsync(rig, file, 2, OmapVoutDriver.PageOffset + 0x123_4000));
        Assert.Equal((0x123_4000UL, 1UL), (driver.PhysicalAddressOf(2), driver.UncheckedAddresses));
        Assert.Equal(vectors, rig.Vectors);
    }

    [Fact]
    public async Task Omap_puts_its_pages_when_the_stream_ends_and_when_its_file_closes()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "4.3");
        var driver = new OmapVoutDriver(rig.Kernel);
        await rig.ServeAsync("video1", driver);
        rig.Lab.Anon(At, 8);
        await using (var file = await rig.OpenHandleAsync("video1"))
        {
            await SetUpAsync(rig, file);
            for (var i = 0U; i < 3; i++) Assert.Equal(Errno.None, await QueueAsync(rig, file, i, At + (i * Lab.Page)));
            Assert.Equal(Errno.None, (await file.IoctlAsync("", V4l2.StreamOn, new V4l2Stream())).Errno);
            Assert.Equal(0U, (await file.IoctlAsync("", V4l2.DequeueBuffer, new V4l2Buffer())).Answer.Index);
            Assert.Equal(1U, (await file.IoctlAsync("", V4l2.DequeueBuffer, new V4l2Buffer())).Answer.Index);
            Assert.Equal(Errno.EAGAIN, (await file.IoctlAsync("", V4l2.DequeueBuffer, new V4l2Buffer())).Errno);
            Assert.Equal(3, rig.Vectors);
            Assert.Equal(Errno.None, (await file.IoctlAsync("", V4l2.StreamOff, new V4l2Stream())).Errno);
            Assert.Equal(0, rig.Vectors);
            Assert.Equal(Errno.None, await QueueAsync(rig, file, 0, At));
            Assert.Equal(1, rig.Vectors);
        }

        Assert.Equal(0, rig.Vectors);
    }

    [Fact]
    public async Task Omap_is_gone_from_newer_kernels()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.1");
        await rig.ServeAsync("video1", new OmapVoutDriver(rig.Kernel));
        Assert.Equal(
            Errno.ENODEV, (await DriverHandle.OpenAsync(daemon.Client, $"{rig.MachineName}/drivers/video1")).Errno);
    }

    [Theory]
    [InlineData("4.3")]
    [InlineData("5.12")]
    [InlineData("6.12")]
    public async Task Row_105_106_g2d_refuses_nothing_and_counts_one_pin_for_one_pointer(string profile)
    {
        await using var rig = await KernelRig.CreateAsync(daemon, profile);
        await using var file = await ServeG2dAsync(rig);
        rig.Lab.Anon(At, 4);
        Assert.Equal(Errno.EFAULT, await SetAsync(rig, file, At, 0, At, Picture));
        Assert.Equal(Errno.EFAULT, await SetAsync(rig, file, Bad, Picture, At, Picture));
        Assert.Equal(Errno.EPERM, (await file.IoctlAsync(rig.SpaceName, G2dDriver.Execute, new G2dExecute())).Errno);
        var vectors = rig.Vectors;
        // Source and destination are one buffer, in two lists.
        Assert.Equal(Errno.None, await SetAsync(rig, file, At, Picture, At, Picture));
        Assert.Equal(Errno.None, await SetAsync(rig, file, At, Picture, At, Picture));
        Assert.True(rig.Vectors - vectors <= 1, $"{rig.Vectors - vectors} vectors for one pointer");
        Assert.Equal(Errno.None, (await file.IoctlAsync(rig.SpaceName, G2dDriver.Execute, new G2dExecute())).Errno);
    }

    [Fact]
    public async Task Row_107_a_new_size_displaces_the_old_entry_which_is_freed_after_its_use_or_never()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        await using var file = await ServeG2dAsync(rig, out var driver);
        rig.Lab.Anon(At, 8);
        await SetAsync(rig, file, At, Picture, At, Picture);
        Assert.Equal(1, rig.Vectors);
        // In use: the old one is released once its list has run.
        await SetAsync(rig, file, At, 2 * Picture, At, 2 * Picture);
        Assert.Equal(2, rig.Vectors);
        await file.IoctlAsync(rig.SpaceName, G2dDriver.Execute, new G2dExecute());
        Assert.Equal((1, 0), (rig.Vectors, driver.LeakedEntries));
        // Idle in the pool: nobody releases it any more, in Linux neither.
        await SetAsync(rig, file, At, Picture, At, Picture);
        await file.IoctlAsync(rig.SpaceName, G2dDriver.Execute, new G2dExecute());
        Assert.Equal((2, 1), (rig.Vectors, driver.LeakedEntries));
        rig.ExpectedLeaks = 1;
    }

    [Fact]
    public async Task Row_108_109_the_pool_takes_less_than_64_MiB_and_keeps_until_close()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12", memoryBytes: 256UL << 20);
        await using (var file = await ServeG2dAsync(rig, out var driver))
        {
            const ulong most = 64UL << 20;
            // All but two pages of the pool, then one: pooled. Then one that would reach the limit exactly: not.
            var pages = (int)((most >> 12) - 2);
            rig.Lab.Anon(At, pages + 4);
            Assert.Equal(Errno.None, await SetAsync(rig, file, At, (ulong)pages << 12, At, (ulong)pages << 12));
            Assert.Equal(Errno.None, await SetAsync(rig, file, At + 4096, 4096, At + 4096, 4096, side: 16));
            Assert.Equal(most - 4096, driver.CurrentPool);
            Assert.Equal(Errno.None, await SetAsync(rig, file, At + 8192, 4096, At + 8192, 4096, side: 16));
            Assert.Equal(most - 4096, driver.CurrentPool);
            Assert.Equal(3, rig.Vectors);
            await file.IoctlAsync(rig.SpaceName, G2dDriver.Execute, new G2dExecute());
            // The pooled ones stay pinned when they are idle; the other went with its use.
            Assert.Equal(2, rig.Vectors);
            Assert.Equal(pages + 1, rig.Pins.Acquired - rig.Pins.Released);
        }

        Assert.Equal(0, rig.Vectors);
    }

    [Theory]
    [InlineData("4.3")]
    [InlineData("6.12")]
    public async Task Row_110_a_partial_pin_is_EFAULT_and_nothing_is_held(string profile)
    {
        await using var rig = await KernelRig.CreateAsync(daemon, profile);
        await using var file = await ServeG2dAsync(rig);
        rig.Lab.Anon(At, 1);
        Assert.Equal(Errno.EFAULT, await SetAsync(rig, file, At, Picture, At, Picture));
        Assert.Equal(0, rig.Vectors);
        // Device memory has no pages to convert to.
        rig.Lab.Device(At + 0x10_0000, 2, DeviceMapping.PfnMap, isRam: false);
        Assert.Equal(Errno.EFAULT, await SetAsync(rig, file, At + 0x10_0000, Picture, At + 0x10_0000, Picture));
        Assert.Equal(0, rig.Vectors);
    }

    [Fact]
    public async Task G2d_checks_rectangles_registers_and_its_supply_of_lists()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        await using var file = await ServeG2dAsync(rig);
        rig.Lab.Anon(At, 4);
        // The last byte has to lie in the buffer; the rectangle has 1 to 8000 pixels each way.
        Assert.Equal(Errno.EFAULT, await SetAsync(rig, file, At, Picture - 1, At, Picture));
        Assert.Equal(Errno.EFAULT, await SetAsync(rig, file, At, Picture, At, Picture, side: 0));
        foreach (var offset in new uint[] { 0x100, 0x884, 0x106, G2dRegisters.SourceBase })
        {
            var list = new G2dCommandList { Commands = { new G2dRegister { Offset = offset } } };
            Assert.Equal(Errno.EINVAL, (await file.IoctlAsync(rig.SpaceName, G2dDriver.SetCommandList, list)).Errno);
        }

        var big = new G2dCommandList();
        for (var i = 0; i < 509; i++) big.Commands.Add(new G2dRegister { Offset = G2dRegisters.ForegroundColor });
        Assert.Equal(Errno.EINVAL, (await file.IoctlAsync(rig.SpaceName, G2dDriver.SetCommandList, big)).Errno);
        for (var i = 0; i < G2dDriver.MaxLists; i++)
            Assert.Equal(Errno.None, await SetAsync(rig, file, At, Picture, At, Picture));
        Assert.Equal(Errno.ENOMEM, await SetAsync(rig, file, At, Picture, At, Picture));
    }

    [Fact]
    public async Task G2d_copies_and_fills_rectangles_and_leaves_the_pages_dirty()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        rig.Lab.Anon(At, 2);
        rig.Lab.Anon(At + 0x10_0000, 2);
        rig.Fill(At, 2, 0x11);
        var frames = rig.Frames(At + 0x10_0000, 2);
        await using (var file = await ServeG2dAsync(rig, out var driver))
        {
            Assert.Equal(Errno.None, await SetAsync(rig, file, At, Picture, At + 0x10_0000, Picture, left: 8));
            var fill = List(At, Picture, At, Picture, side: 64, left: 60);
            fill.Commands.Add(new G2dRegister { Offset = G2dRegisters.SourceSelect, Value = 1 });
            fill.Commands.Add(new G2dRegister { Offset = G2dRegisters.ForegroundColor, Value = 0xbbaa });
            Assert.Equal(Errno.None, (await file.IoctlAsync(rig.SpaceName, G2dDriver.SetCommandList, fill)).Errno);
            Assert.Equal(Errno.None, (await file.IoctlAsync(rig.SpaceName, G2dDriver.Execute, new G2dExecute())).Errno);
            Assert.Equal(2UL, driver.Blits);
        }

        // The copy begins at pixel 8 of each row, the fill at pixel 60.
        Assert.Equal((0, 0x11), (rig.Lab.Peek(At + 0x10_0000 + 15), rig.Lab.Peek(At + 0x10_0000 + 16)));
        Assert.Equal((0x11, 0xaa, 0xbb), (rig.Lab.Peek(At + 119), rig.Lab.Peek(At + 120), rig.Lab.Peek(At + 121)));
        Assert.Equal(2, rig.Dirty(frames));
    }

    private static async Task SetUpAsync(KernelRig rig, DriverHandle file)
    {
        var format = new V4l2Format
        {
            Type = V4l2.BufferType.Output,
            Width = 64,
            Height = 64,
            PixelFormat = V4l2.FourCc("YUYV")
        };
        Assert.Equal(Errno.None, (await file.IoctlAsync(rig.SpaceName, V4l2.SetFormat, format)).Errno);
        var request = new V4l2RequestBuffers
        {
            Count = 3,
            Type = V4l2.BufferType.Output,
            Memory = (uint)Vb2Memory.UserPtr
        };
        Assert.Equal(3U, (await file.IoctlAsync(rig.SpaceName, V4l2.RequestBuffers, request)).Answer.Count);
    }

    private static async Task<Errno> QueueAsync(KernelRig rig, DriverHandle file, uint index, ulong address)
    {
        var buffer = new V4l2Buffer
        {
            Index = index,
            Type = V4l2.BufferType.Output,
            Memory = (uint)Vb2Memory.UserPtr,
            Planes = { new V4l2Plane { UserPointer = address, Length = Picture } },
        };
        return (await file.IoctlAsync(rig.SpaceName, V4l2.QueueBuffer, buffer)).Errno;
    }

    private static Task<DriverHandle> ServeG2dAsync(KernelRig rig) => ServeG2dAsync(rig, out _);

    private static Task<DriverHandle> ServeG2dAsync(KernelRig rig, out G2dDriver driver)
    {
        var made = driver = new G2dDriver(rig.Kernel);
        return OpenAsync();

        async Task<DriverHandle> OpenAsync()
        {
            await rig.ServeAsync("g2d", made);
            return await rig.OpenHandleAsync("g2d");
        }
    }

    private static async Task<Errno> SetAsync(
        KernelRig rig, DriverHandle file, ulong source, ulong sourceSize, ulong destination, ulong destinationSize,
        int side = 64, int left = 0) =>
        (await file.IoctlAsync(
            rig.SpaceName, G2dDriver.SetCommandList, List(
                source, sourceSize, destination, destinationSize, side, left))).Errno;

    /// <summary>A square of 16-bit pixels from one buffer to another, from column <paramref name="left"/> on.</summary>
    private static G2dCommandList List(
        ulong source, ulong sourceSize, ulong destination, ulong destinationSize, int side, int left)
    {
        var list = new G2dCommandList();
        foreach (var first in new[] { G2dRegisters.SourceBase, G2dRegisters.DestinationBase })
        {
            list.Commands.Add(new G2dRegister { Offset = first + 4, Value = (uint)side * 2 });
            list.Commands.Add(new G2dRegister { Offset = first + 8, Value = 2 });
            list.Commands.Add(new G2dRegister { Offset = first + 0xc, Value = G2dRegisters.Point(left, 0) });
            list.Commands.Add(new G2dRegister { Offset = first + 0x10, Value = G2dRegisters.Point(side, side) });
        }

        list.Buffers.Add(
            new G2dBufferRegister
            {
                Offset = G2dRegisters.SourceBase | G2dRegisters.UserPointer,
                UserPointer = source,
                Size = sourceSize
            });
        list.Buffers.Add(new G2dBufferRegister
        {
            Offset = G2dRegisters.DestinationBase | G2dRegisters.UserPointer,
            UserPointer = destination,
            Size = destinationSize,
        });
        return list;
    }
}
