using FramePin.Core.Abi;
using FramePin.Core.Backing;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Tests.Support;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// The three allocators on top of the frame helper: rows 78 to 86, 102 and the table of Semantics 6.2.
/// </summary>
public sealed class MemOpsRowTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const ulong Huge = 0x4000_0000;
    private const ulong Bad = 0x5000_0000;
    private const int Pages = 8;

    [Theory]
    [InlineData("4.3")]
    [InlineData("4.9")]
    [InlineData("6.1")]
    [InlineData("6.12")]
    public async Task Row_78_79_a_bad_pointer_is_ENOMEM_for_dma_sg_and_EFAULT_for_the_others(string profile)
    {
        await using var rig = await KernelRig.CreateAsync(daemon, profile);
        Assert.Equal(Errno.ENOMEM, await GetAsync(rig, new DmaSgMemOps(rig.Kernel), Bad, 4096));
        Assert.Equal(Errno.EFAULT, await GetAsync(rig, new VmallocMemOps(rig.Kernel), Bad, 4096));
        Assert.Equal(Errno.EFAULT, await GetAsync(rig, new DmaContigMemOps(rig.Kernel), Bad, 4096));
        // A hole behind some pages is the same, and what was taken is put.
        rig.Lab.Anon(At, 3);
        Assert.Equal(Errno.ENOMEM, await GetAsync(rig, new DmaSgMemOps(rig.Kernel), At, 4 * 4096));
        Assert.Equal(Errno.EFAULT, await GetAsync(rig, new VmallocMemOps(rig.Kernel), At, 4 * 4096));
        Assert.Equal(0, rig.Vectors);
    }

    [Theory]
    [InlineData("4.3")]
    [InlineData("6.12")]
    public async Task Row_80_scattered_pages_without_an_IOMMU_are_EFAULT_for_dma_contig_and_say_so(string profile)
    {
        await using var rig = await KernelRig.CreateAsync(daemon, profile);
        Scatter(rig, At, Pages);
        var said = new List<string>();
        var ops = new DmaContigMemOps(rig.Kernel, log: said.Add);
        Assert.Equal(Errno.EFAULT, await GetAsync(rig, ops, At, Pages * 4096));
        Assert.Equal(["contiguous mapping is too small 4096/32768"], said);
        // The other two do not mind, nor does dma-contig behind an IOMMU, or for what lies in one page.
        Assert.Equal(Errno.None, await GetAsync(rig, new DmaSgMemOps(rig.Kernel), At, Pages * 4096));
        Assert.Equal(Errno.None, await GetAsync(rig, new VmallocMemOps(rig.Kernel), At, Pages * 4096));
        Assert.Equal(
            Errno.None, await GetAsync(rig, new DmaContigMemOps(rig.Kernel, hasIommu: true), At, Pages * 4096));
        Assert.Equal(Errno.None, await GetAsync(rig, ops, At, 4096));
    }

    [Fact]
    public async Task Pages_that_follow_each_other_are_one_piece_for_dma_contig_and_keep_the_place_in_the_first()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        MakeHuge(rig);
        var ops = new DmaContigMemOps(rig.Kernel);
        var (errno, memory) = await ops.GetUserPtrAsync(rig.SpaceName, Huge + 100, 3 * 4096, DmaDirection.FromDevice);
        Assert.Equal(Errno.None, errno);
        Assert.Equal((rig.Frames(Huge, 1)[0].Value << 12) + 100, memory!.DmaAddress);
        Assert.Equal(100UL, memory.Offset);
        await memory.PutAsync();
    }

    [Fact]
    public async Task Row_81_82_dma_contig_wants_aligned_and_non_empty_buffers()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        rig.Lab.Anon(At, 2);
        var said = new List<string>();
        var ops = new DmaContigMemOps(rig.Kernel, alignment: 64, log: said.Add);
        var before = rig.Pins;
        Assert.Equal(Errno.EINVAL, await GetAsync(rig, ops, At + 1, 4096));
        Assert.Equal(Errno.EINVAL, await GetAsync(rig, ops, At, 4095));
        Assert.Equal(Errno.EINVAL, await GetAsync(rig, ops, At, 0));
        Assert.Equal(
            ["user data must be aligned to 64 bytes", "user data must be aligned to 64 bytes", "size is zero"], said);
        Assert.Equal(before, rig.Pins);
        Assert.Equal(Errno.None, await GetAsync(rig, ops, At + 64, 1024));
    }

    [Fact]
    public async Task Row_83_84_device_memory_in_the_series_kernel_is_taken_in_one_piece_or_not_at_all()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "4.3");
        // Four pages of one device, then two of another: PFNs with a gap between them.
        rig.Lab.Device(At, 4, DeviceMapping.PfnMap, isRam: false);
        rig.Lab.Device(At + (4 * Lab.Page), 2, DeviceMapping.PfnMap, isRam: false);
        var contig = new DmaContigMemOps(rig.Kernel);
        var vmalloc = new VmallocMemOps(rig.Kernel);
        Assert.Equal(Errno.None, await GetAsync(rig, contig, At, 4 * 4096));
        Assert.Equal(Errno.EINVAL, await GetAsync(rig, contig, At, 6 * 4096));
        Assert.Equal(Errno.None, await GetAsync(rig, vmalloc, At, 4 * 4096));
        Assert.Equal(Errno.ENOMEM, await GetAsync(rig, vmalloc, At, 6 * 4096));
        Assert.Equal(Errno.ENOMEM, await GetAsync(rig, new DmaSgMemOps(rig.Kernel), At, 4 * 4096));
        // The place within the first page is not added for device memory.
        var (_, memory) = await contig.GetUserPtrAsync(rig.SpaceName, At + 256, 4096, DmaDirection.ToDevice);
        Assert.Equal(0UL, memory!.DmaAddress & 4095);
        await memory.PutAsync();
    }

    [Theory]
    [InlineData("4.9")]
    [InlineData("6.1")]
    [InlineData("6.12")]
    public async Task Row_85_86_a_capture_buffer_leaves_every_page_dirty_and_an_output_buffer_none(string profile)
    {
        await using var rig = await KernelRig.CreateAsync(daemon, profile);
        MakeHuge(rig);
        (Vb2MemOps Ops, bool IsContig)[] all =
            [(new VmallocMemOps(rig.Kernel), false), (new DmaSgMemOps(rig.Kernel), false),
                (new DmaContigMemOps(rig.Kernel), true)];
        var place = 0UL;
        foreach (var (ops, isContig) in all)
        {
            foreach (var direction in Enum.GetValues<DmaDirection>())
            {
                // Small pages of their own for each; dma-contig gets what follows each other, if need be one page.
                var pages = isContig ? 1 : Pages;
                var address = At + (place++ * 0x10_0000);
                rig.Lab.Anon(address, pages);
                var frames = rig.Frames(address, pages);
                Assert.Equal(0, rig.Dirty(frames));
                Assert.Equal(Errno.None, await GetAsync(rig, ops, address, (ulong)pages * 4096, direction));
                var isDirtied = direction != DmaDirection.ToDevice || (isContig && profile == "4.9");
                Assert.Equal(isDirtied ? pages : 0, rig.Dirty(frames));
            }
        }
    }

    [Theory]
    [InlineData("4.3", true)]
    [InlineData("6.1", false)]
    [InlineData("6.12", false)]
    public async Task Row_102_another_devices_buffer_is_pages_or_bare_PFNs_by_its_allocator(
        string profile, bool takesPfns)
    {
        await using var rig = await KernelRig.CreateAsync(daemon, profile);
        rig.Lab.Device(At, Pages, DeviceMapping.PfnMap, isRam: true);
        rig.Lab.Device(Huge, Pages, DeviceMapping.MixedPages, isRam: true);
        var expected = takesPfns ? Errno.None : Errno.EFAULT;
        Assert.Equal(expected, await GetAsync(rig, new VmallocMemOps(rig.Kernel), At, Pages * 4096));
        Assert.Equal(expected, await GetAsync(rig, new DmaContigMemOps(rig.Kernel), At, Pages * 4096));
        Assert.Equal(Errno.None, await GetAsync(rig, new VmallocMemOps(rig.Kernel), Huge, Pages * 4096));
        Assert.Equal(Errno.None, await GetAsync(rig, new DmaSgMemOps(rig.Kernel), Huge, Pages * 4096));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task What_a_driver_stores_through_its_mapping_is_in_the_pages_local_or_remote(bool isLocal)
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12", isLocal);
        rig.Lab.Anon(At, 3);
        var (_, memory) = await new VmallocMemOps(rig.Kernel).GetUserPtrAsync(
            rig.SpaceName, At + 100, 2 * 4096, DmaDirection.FromDevice);
        await memory!.Mapping!.WriteAsync(memory.Offset, new byte[] { 1, 2, 3 });
        Assert.Equal(isLocal, memory.Mapping.TryGetBytes(out _));
        Assert.Equal((1, 3), (rig.Lab.Peek(At + 100), rig.Lab.Peek(At + 102)));
        rig.Lab.Poke(At + 101, 77);
        var seen = new byte[3];
        Assert.Equal(3, await memory.Mapping.ReadAsync(memory.Offset, seen));
        Assert.Equal([1, 77, 3], seen);
        await memory.PutAsync();
    }

    private static async Task<Errno> GetAsync(
        KernelRig rig, Vb2MemOps ops, ulong address, ulong size, DmaDirection direction = DmaDirection.FromDevice)
    {
        var (errno, memory) = await ops.GetUserPtrAsync(rig.SpaceName, address, size, direction);
        Assert.Equal(errno == Errno.None, memory is not null);
        if (memory is not null) await memory.PutAsync();
        return errno;
    }

    /// <summary>Pages whose frames run backwards.</summary>
    private static void Scatter(KernelRig rig, ulong address, int pages)
    {
        rig.Lab.Anon(address, pages, written: false);
        for (var i = pages - 1; i >= 0; i--) rig.Lab.Write(address + ((ulong)i * Lab.Page), 1);
    }

    private static void MakeHuge(KernelRig rig)
    {
        rig.Lab.Anon(Huge, 512, written: false);
        rig.Machine.Madvise(rig.Lab.Space, Huge, 512 * Lab.Page, Advice.HugePage);
        rig.Lab.Write(Huge, 1);
    }
}
