using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using Grpc.Core;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>How long a vector is a dma-buf, and how long a dma-buf lives: entries R8 and R9.</summary>
public sealed class DmaBufTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const uint Mmap = (uint)Vb2Memory.Mmap;
    private const uint DmaBuf = (uint)Vb2Memory.DmaBuf;
    private const uint Monotonic = V4l2.FlagTimestampMonotonic;

    // R9: vb2_buffer_in_use counts the dma-buf, which an attachment keeps behind its descriptor.
    [Theory]
    [InlineData("4.3")]
    [InlineData("6.18")]
    public async Task R9_a_buffer_is_MAPPED_as_long_as_an_importer_holds_its_dma_buf(string profile)
    {
        await using var rig = await VividRig.CreateAsync(daemon, profile, new VividOptions { FramesPerSecond = 0 });
        await rig.ServeAsync("video1", new VividOptions { FramesPerSecond = 0 });
        await using var importer = await rig.OpenAsync("video1", rig.SpaceName);
        await rig.Device.RequestBuffersAsync(2, Mmap);
        Assert.Equal(Monotonic, await FlagsAsync());
        var export = (await rig.Device.ExportAsync(0)).Answer.DmaBuf;
        Assert.Equal(Monotonic | V4l2.FlagMapped, await FlagsAsync());
        await importer.RequestBuffersAsync(2, DmaBuf);
        var argument = new V4l2Buffer { Memory = DmaBuf, Planes = { new V4l2Plane { DmaBuf = export } } };
        for (argument.Index = 0; argument.Index < 2; argument.Index++)
            Assert.Equal(Errno.None, (await importer.QueueAsync(argument)).Errno);
        var device = (await daemon.Client.Pinning.GetFrameVectorAsync(
            new GetFrameVectorRequest { Name = export })).Device;
        Assert.Equal(4UL, await ExportsAsync(device));
        await rig.Kernel.CloseDmaBufAsync(export);
        Assert.Equal(3UL, await ExportsAsync(device));
        Assert.Equal(Monotonic | V4l2.FlagMapped, await FlagsAsync());
        // The other buffer was neither mapped nor exported.
        Assert.Equal(Monotonic, await FlagsAsync(1));
        await importer.RequestBuffersAsync(0, DmaBuf);
        Assert.Equal(1UL, await ExportsAsync(device));
        Assert.Equal(Monotonic, await FlagsAsync());
        await rig.Device.RequestBuffersAsync(0, Mmap);

        async Task<uint> FlagsAsync(uint index = 0) => (await rig.Device.QueryAsync(index)).Buffer.Flags;
    }

    // R8: what an exported vector holds once its pages were put is not the device's.
    [Theory]
    [InlineData("4.3")]
    [InlineData("6.18")]
    public async Task R8_a_vector_whose_pages_were_put_is_no_dma_buf(string profile)
    {
        await using var rig = await KernelRig.CreateAsync(daemon, profile);
        rig.Lab.Anon(At, 2);
        var buffer = (await rig.Kernel.AllocateAsync(8192, isPfnMapped: false, "/dev/video"))!;
        var export = await rig.Kernel.ExportAsync(buffer, rig.Kernel.Lease);
        var import = (await rig.Kernel.ImportDmaBufAsync(export))!;
        Assert.Equal((3UL, buffer.Device, ""), (
            await ExportsAsync(buffer.Device), await DeviceOfAsync(export), await DeviceOfAsync(import.Name)));
        await PutAsync(export);
        Assert.Equal((2UL, ""), (await ExportsAsync(buffer.Device), await DeviceOfAsync(export)));
        await PutAsync(import.Name);
        foreach (var name in new[] { export, import.Name })
        {
            // Putting it again changes nothing.
            await PutAsync(name);
            Assert.Equal(1UL, await ExportsAsync(buffer.Device));
            Assert.Equal(2UL, (await daemon.Client.Pinning.GetVaddrFramesAsync(new GetVaddrFramesRequest
            {
                FrameVector = name,
                AddressSpace = rig.SpaceName,
                Start = At,
                Pages = 2,
            })).Frames);
            Assert.Equal("", await DeviceOfAsync(name));
            var refused = await Assert.ThrowsAsync<RpcException>(() => daemon.Client.Pinning.ImportDmaBufAsync(
                new ImportDmaBufRequest { Name = name }).ResponseAsync);
            Assert.Equal("NOT_A_DMA_BUF", FramePinException.From(refused).Reason);
            Assert.Null(await rig.Kernel.SizeOfDmaBufAsync(name));
            await rig.Kernel.CloseDmaBufAsync(name);
            Assert.Equal(1UL, await ExportsAsync(buffer.Device));
        }

        await rig.Kernel.FreeAsync(buffer);

        async Task<string> DeviceOfAsync(string vector) =>
            (await daemon.Client.Pinning.GetFrameVectorAsync(new GetFrameVectorRequest { Name = vector })).Device;

        async Task PutAsync(string vector) => await daemon.Client.Pinning.PutVaddrFramesAsync(
            new PutVaddrFramesRequest { FrameVector = vector });
    }

    private async Task<ulong> ExportsAsync(string device) =>
        (await daemon.Client.Devices.GetDeviceAsync(new GetDeviceRequest { Name = device })).Exports;
}
