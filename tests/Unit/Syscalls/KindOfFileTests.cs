using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Inspection;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>
/// Devices and secret memory are files of their own kind: faults A4, A5, A10 and A11 of the list of faults found from
/// outside.
/// </summary>
public sealed class KindOfFileTests
{
    private const ulong At = 0x2000_0000;
    private const ulong Page = Lab.Page;
    private const Prot Rw = Prot.Read | Prot.Write;

    /// <summary>A4: pagemap passes over VM_PFNMAP; what has pages shows them.</summary>
    [Theory]
    [InlineData(DeviceMapping.PfnMap, true, false)]
    [InlineData(DeviceMapping.PfnMap, false, false)]
    [InlineData(DeviceMapping.PfnMapLazy, true, false)]
    [InlineData(DeviceMapping.PfnMapLazy, false, false)]
    [InlineData(DeviceMapping.IoPages, true, true)]
    [InlineData(DeviceMapping.MixedPages, true, true)]
    [InlineData(DeviceMapping.MixedPfns, false, true)]
    [InlineData(DeviceMapping.FaultPages, true, true)]
    public void A4_pagemap_of_a_device(DeviceMapping mapping, bool isRam, bool isShown)
    {
        using var lab = new Lab();
        lab.Device(At, 4, mapping, isRam);
        lab.Load(At, 4);
        var entries = lab.Machine.Query<PagemapQuery, ulong[]>(new(lab.Space.Id, At, 4));
        Assert.All(entries, entry => Assert.Equal(isShown, entry != 0));
    }

    /// <summary>A4: a private copy in such an area is passed over with the rest of it.</summary>
    [Fact]
    public void A4_pagemap_of_a_private_copy_of_a_device()
    {
        using var lab = new Lab();
        lab.Device(At, 2, DeviceMapping.PfnMap, isRam: true, isPrivate: true);
        lab.Poke(At, 1);
        Assert.Equal([0UL, 0UL], lab.Machine.Query<PagemapQuery, ulong[]>(new(lab.Space.Id, At, 2)));
    }

    /// <summary>A5: a store to private MMIO makes a page of the program's own, of what a load would read.</summary>
    [Theory]
    [InlineData(DeviceMapping.PfnMap)]
    [InlineData(DeviceMapping.PfnMapLazy)]
    [InlineData(DeviceMapping.IoPages)]
    [InlineData(DeviceMapping.MixedPfns)]
    public void A5_a_store_to_private_mmio_copies(DeviceMapping mapping)
    {
        using var lab = new Lab();
        lab.Device(At, 2, mapping, isRam: false, isPrivate: true);
        lab.Poke(At, 7);
        Assert.Equal((7, 0xff, 0xff), (lab.Peek(At), lab.Peek(At + 1), lab.Peek(At + Page)));
        var child = lab.Fork();
        var parent = lab.Space;
        lab.Space = child;
        lab.Poke(At, 8);
        lab.Poke(At + Page, 9);
        Assert.Equal((8, 9), (lab.Peek(At), lab.Peek(At + Page)));
        lab.Space = parent;
        Assert.Equal((7, 0xff), (lab.Peek(At), lab.Peek(At + Page)));
    }

    /// <summary>A5: so does a pin for writing, where get_user_pages takes the area at all.</summary>
    [Fact]
    public void A5_a_write_pin_of_private_mixed_mmio_copies()
    {
        using var lab = new Lab();
        lab.Device(At, 1, DeviceMapping.MixedPfns, isRam: false, isPrivate: true);
        var outcome = lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.Write | GupFlags.LongTerm, out var vector);
        Assert.Equal(1, outcome.Result.Raw);
        Assert.Equal(0xff, lab.PeekFrame(vector));
        lab.Poke(At, 3);
        Assert.Equal(3, lab.PeekFrame(vector));
        lab.Drop(vector);
    }

    /// <summary>A5, sister: a fault method that has no page to give is SIGBUS, and no exception.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A5_a_fault_method_without_pages_is_sigbus(bool isPrivate)
    {
        using var lab = new Lab();
        lab.Device(At, 1, DeviceMapping.FaultPages, isRam: false, isPrivate: isPrivate);
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(lab.Space, At, isWrite: true));
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(lab.Space, At, isWrite: false));
    }

    /// <summary>A10: a device has no fsync, which MS_SYNC asks of every shared mapping.</summary>
    [Theory]
    [InlineData(DeviceMapping.PfnMap, false)]
    [InlineData(DeviceMapping.PfnMapLazy, true)]
    [InlineData(DeviceMapping.IoPages, true)]
    [InlineData(DeviceMapping.MixedPages, true)]
    [InlineData(DeviceMapping.MixedPfns, false)]
    [InlineData(DeviceMapping.FaultPages, true)]
    [InlineData(DeviceMapping.P2PPages, true)]
    public void A10_msync_over_a_device(DeviceMapping mapping, bool isRam)
    {
        using var lab = new Lab();
        lab.Device(At, 1, mapping, isRam);
        Assert.Equal(Errno.EINVAL, lab.Machine.Msync(lab.Space, At, Page, MsyncFlags.Sync).Error);
        Assert.Equal(
            Errno.EINVAL, lab.Machine.Msync(lab.Space, At, Page, MsyncFlags.Sync | MsyncFlags.Invalidate).Error);
        Assert.Equal(Errno.None, lab.Machine.Msync(lab.Space, At, Page, MsyncFlags.Async).Error);
        Assert.Equal(Errno.None, lab.Machine.Msync(lab.Space, At, Page, MsyncFlags.None).Error);
        // What comes before it is written back; a private mapping is not asked.
        lab.File(At - Page, 1, FileKind.Disk, MapFlags.Shared, Rw);
        var partial = lab.Machine.Msync(lab.Space, At - Page, 2 * Page, MsyncFlags.Sync);
        Assert.Equal((Errno.EINVAL, true), (partial.Error, partial.IsPartial));
    }

    [Fact]
    public void A10_msync_over_a_private_mapping_of_a_device_asks_nothing()
    {
        using var lab = new Lab();
        lab.Device(At, 1, DeviceMapping.PfnMap, isRam: true, isPrivate: true);
        Assert.Equal(Errno.None, lab.Machine.Msync(lab.Space, At, Page, MsyncFlags.Sync).Error);
    }

    /// <summary>A10, sister: fsync of each kind of file.</summary>
    [Theory]
    [InlineData(FileKind.Shmem, Errno.None)]
    [InlineData(FileKind.Disk, Errno.None)]
    [InlineData(FileKind.FsDax, Errno.None)]
    [InlineData(FileKind.HugeTlb, Errno.None)]
    [InlineData(FileKind.Secret, Errno.EINVAL)]
    public void A10_fsync_by_kind_of_file(FileKind kind, Errno expected)
    {
        using var lab = new Lab(configure: options => options with { HugePages2M = 2 });
        var order = kind == FileKind.HugeTlb ? PageGeometry.PmdOrder : 0;
        var file = lab.Machine.CreateFile("/file", kind, 0, order)!;
        Assert.Equal(expected, lab.Machine.Call(new FsyncCall(new FileId(file.Id))).Error);
    }

    /// <summary>A11: secret memory gets its size once, has no read and no write, and no seals.</summary>
    [Fact]
    public void A11_secret_memory_is_sized_once_and_never_read()
    {
        using var lab = new Lab();
        var file = lab.Machine.CreateFile("/secretmem (deleted)", FileKind.Secret, 0)!;
        Assert.Equal(Errno.None, lab.Machine.Truncate(file, 0));
        Assert.Equal(Errno.None, lab.Machine.Truncate(file, 2 * Page));
        foreach (var size in new ulong[] { 0, Page, 2 * Page, 4 * Page, 1UL << 62 })
            Assert.Equal(Errno.EINVAL, lab.Machine.Truncate(file, size));
        Assert.Equal(2 * Page, file.Size);
        foreach (var offset in new ulong[] { 0, Page, 3 * Page })
        {
            var read = lab.Machine.Call(new ReadFileCall(new FileId(file.Id), offset, new byte[1]));
            Assert.Equal(Errno.ESPIPE, read.Error);
            Assert.Equal(Errno.ESPIPE, lab.Machine.Execute<WriteFileCall, WriteFileResult>(
                new(new FileId(file.Id), offset, new byte[1])).Error);
        }

        Assert.Equal(Errno.EOPNOTSUPP, lab.Machine.PunchHole(file, 0, Page));
        Assert.Equal(Errno.EINVAL, lab.Machine.SealWrite(file));
    }

    [Theory]
    [InlineData("5.12", Errno.ENOSYS)]
    [InlineData("4.3", Errno.ENOSYS)]
    [InlineData("5.17", Errno.None)]
    [InlineData("6.18", Errno.None)]
    public void A11_secret_memory_exists_since_5_14(string profile, Errno expected)
    {
        using var lab = new Lab(profile);
        Assert.Equal(expected, lab.Machine.Call(new CreateFileCall("/secretmem", FileKind.Secret, 0)).Error);
    }

    [Theory]
    [InlineData(FileKind.Shmem, Errno.None)]
    [InlineData(FileKind.HugeTlb, Errno.None)]
    [InlineData(FileKind.Disk, Errno.EINVAL)]
    [InlineData(FileKind.FsDax, Errno.EINVAL)]
    public void A11_seals_by_kind_of_file(FileKind kind, Errno expected)
    {
        using var lab = new Lab(configure: options => options with { HugePages2M = 2 });
        var order = kind == FileKind.HugeTlb ? PageGeometry.PmdOrder : 0;
        Assert.Equal(expected, lab.Machine.SealWrite(lab.Machine.CreateFile("/file", kind, 0, order)!));
    }
}
