using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>Rows 111 to 137 of Semantics 8: mmap and its kin.</summary>
public sealed class SyscallRowTests
{
    private const ulong At = 0x10000;
    private const ulong Page = Lab.Page;
    private const Prot Rw = Prot.Read | Prot.Write;
    private const MapFlags PrivateAnon = MapFlags.Private | MapFlags.Anonymous;

    [Fact]
    public void Row_111_mmap_of_nothing()
    {
        using var lab = new Lab();
        Assert.Equal(Errno.EINVAL, lab.Map(0, 0, Rw, PrivateAnon).Error);
    }

    [Fact]
    public void Row_112_fixed_noreplace_over_a_mapping()
    {
        using var lab = new Lab();
        lab.Anon(At, 2);
        Assert.Equal(Errno.EEXIST, lab.Map(At + Page, 1, Rw, PrivateAnon | MapFlags.FixedNoReplace).Error);
        Assert.Equal(At + (2 * Page), lab.Map(At + (2 * Page), 1, Rw, PrivateAnon | MapFlags.FixedNoReplace).Value);
    }

    [Fact]
    public void Row_113_map_locked_above_the_limit()
    {
        using var lab = new Lab();
        lab.Machine.SetTask(lab.Space, lab.Space.Task with { RlimitMemlock = 2 * Page });
        Assert.True(lab.Map(0, 2, Rw, PrivateAnon | MapFlags.Locked).IsOk);
        Assert.Equal(Errno.EAGAIN, lab.Map(0, 1, Rw, PrivateAnon | MapFlags.Locked).Error);
        lab.Machine.SetTask(lab.Space, lab.Space.Task with { RlimitMemlock = 0 });
        Assert.Equal(Errno.EPERM, lab.Map(0, 1, Rw, PrivateAnon | MapFlags.Locked).Error);
    }

    [Fact]
    public void Row_114_shared_write_on_a_read_only_descriptor()
    {
        using var lab = new Lab();
        var file = lab.Machine.CreateFile("/f", FileKind.Shmem, Page)!;
        var request = new MmapRequest
        {
            Length = Page,
            Prot = Rw,
            Flags = MapFlags.Shared,
            File = file,
            OpenedForWrite = false
        };
        Assert.Equal(Errno.EACCES, lab.Machine.Mmap(lab.Space, request).Error);
        Assert.Equal(
            Errno.EACCES, lab.Machine.Mmap(
                lab.Space, request with { Flags = MapFlags.Private, OpenedForRead = false }).Error);
    }

    [Fact]
    public void Row_115_munmap_of_nothing()
    {
        using var lab = new Lab();
        Assert.Equal(0, lab.Machine.Munmap(lab.Space, At, Page).Raw);
        Assert.Equal(Errno.EINVAL, lab.Machine.Munmap(lab.Space, At, 0).Error);
        Assert.Equal(Errno.EINVAL, lab.Machine.Munmap(lab.Space, At + 1, Page).Error);
    }

    [Fact]
    public void Row_116_a_hole_in_the_middle_at_the_map_limit()
    {
        using var lab = new Lab(configure: options => options with { AuditsEachCommand = false });
        const ulong start = 0x1_0000_0000;
        // Alternating protections keep neighbours apart; three pages each, so that one can be cut in the middle.
        for (var i = 0; i < PageGeometry.MaxMapCount; i++)
        {
            var prot = i % 2 == 0 ? Rw : Prot.Read;
            Assert.True(lab.Map(start + ((ulong)i * 3 * Page), 3, prot, PrivateAnon | MapFlags.Fixed).IsOk);
        }

        Assert.Equal(Errno.ENOMEM, lab.Machine.Munmap(lab.Space, start + Page, Page).Error);
        Assert.True(lab.Machine.Munmap(lab.Space, start, Page).IsOk);
        Assert.True(lab.Map(0, 1, Rw, MapFlags.Shared | MapFlags.Anonymous).IsOk);
        Assert.Equal(Errno.ENOMEM, lab.Map(0, 1, Rw, MapFlags.Shared | MapFlags.Anonymous).Error);
    }

    [Fact]
    public void Row_117_munmap_over_a_sealed_part_changes_nothing()
    {
        using var lab = new Lab();
        lab.Anon(At, 3);
        Assert.True(lab.Machine.Mseal(lab.Space, At + Page, Page, 0).IsOk);
        Assert.Equal(Errno.EPERM, lab.Machine.Munmap(lab.Space, At, 3 * Page).Error);
        Assert.Equal(Errno.EPERM, lab.Machine.Mprotect(lab.Space, At + Page, Page, Prot.Read).Error);
        Assert.Equal(Errno.EPERM, lab.Map(At, 3, Rw, PrivateAnon | MapFlags.Fixed).Error);
        Assert.Equal(Errno.EPERM, lab.Machine.Mremap(lab.Space, At + Page, Page, 2 * Page, MremapFlags.MayMove).Error);
        lab.Write(At, 3);
        Assert.Equal(3, lab.Get(At, 3, out var vector).Raw);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_118_mprotect_into_a_hole_keeps_the_first_part_changed()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        Assert.Equal(Errno.ENOMEM, lab.Machine.Mprotect(lab.Space, At, 2 * Page, Prot.Read).Error);
        Assert.Equal(UserSignal.SigSegvAccErr, lab.Machine.Touch(lab.Space, At, isWrite: true));
    }

    [Fact]
    public void Row_119_mprotect_write_on_a_shared_read_only_file()
    {
        using var lab = new Lab();
        lab.File(At, 1, FileKind.Shmem, MapFlags.Shared, Prot.Read, openWrite: false);
        Assert.Equal(Errno.EACCES, lab.Machine.Mprotect(lab.Space, At, Page, Rw).Error);
    }

    [Fact]
    public void Row_120_mprotect_splits_and_merges_back()
    {
        using var lab = new Lab();
        lab.Anon(At, 4);
        Assert.True(lab.Machine.Mprotect(lab.Space, At + (2 * Page), 2 * Page, Prot.Read).IsOk);
        Assert.Equal(2, lab.Machine.Maps(lab.Space).Count);
        Assert.True(lab.Machine.Mprotect(lab.Space, At + (2 * Page), 2 * Page, Rw).IsOk);
        Assert.Single(lab.Machine.Maps(lab.Space));
    }

    [Fact]
    public void Row_121_mremap_does_not_grow_a_dontexpand_mapping()
    {
        using var lab = new Lab();
        lab.Device(At, 2, DeviceMapping.PfnMap, isRam: false);
        Assert.Equal(Errno.EFAULT, lab.Machine.Mremap(lab.Space, At, 2 * Page, 4 * Page, MremapFlags.MayMove).Error);
        Assert.Equal(At, lab.Machine.Mremap(lab.Space, At, 2 * Page, Page, MremapFlags.None).Value);
    }

    [Fact]
    public void Row_122_mremap_without_room_and_without_maymove()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        lab.SharedAnon(At + Page, 1);
        Assert.Equal(Errno.ENOMEM, lab.Machine.Mremap(lab.Space, At, Page, 2 * Page, MremapFlags.None).Error);
    }

    [Fact]
    public void Mremap_with_an_old_length_past_user_space_changes_nothing()
    {
        using var lab = new Lab();
        lab.Anon(At, 4);
        var shrunk = lab.Machine.Mremap(lab.Space, At, unchecked((ulong)-4096L), Page, MremapFlags.MayMove);
        Assert.Equal(Errno.EINVAL, shrunk.Error);
        Assert.Equal(4 * Page, lab.Machine.Maps(lab.Space)[0].Range.Length);
    }

    [Fact]
    public void Row_123_mremap_of_old_length_0()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        lab.SharedAnon(0x20000, 1);
        lab.Poke(0x20000, 4);
        Assert.Equal(Errno.EINVAL, lab.Machine.Mremap(lab.Space, At, 0, Page, MremapFlags.MayMove).Error);
        var copy = lab.Machine.Mremap(lab.Space, 0x20000, 0, Page, MremapFlags.MayMove);
        Assert.True(copy.IsOk);
        Assert.Equal(4, lab.Peek(copy.Value));
        Assert.Equal(lab.Machine.Translate(lab.Space, 0x20000), lab.Machine.Translate(lab.Space, copy.Value));
    }

    [Fact]
    public void Row_124_dontunmap_of_a_pfnmap()
    {
        using var lab = new Lab();
        lab.Device(At, 1, DeviceMapping.PfnMap, isRam: false);
        var flags = MremapFlags.MayMove | MremapFlags.DontUnmap;
        Assert.Equal(Errno.EINVAL, lab.Machine.Mremap(lab.Space, At, Page, Page, flags).Error);
    }

    [Theory]
    [InlineData(Advice.DontNeed)]
    [InlineData(Advice.DontNeedLocked)]
    [InlineData(Advice.Free)]
    [InlineData(Advice.WipeOnFork)]
    [InlineData(Advice.Cold)]
    [InlineData(Advice.PageOut)]
    [InlineData(Advice.PopulateRead)]
    [InlineData(Advice.PopulateWrite)]
    public void Row_125_madvise_on_a_pfnmap(Advice advice)
    {
        using var lab = new Lab();
        lab.Device(At, 1, DeviceMapping.PfnMap, isRam: false);
        Assert.Equal(Errno.EINVAL, lab.Machine.Madvise(lab.Space, At, Page, advice).Error);
    }

    [Fact]
    public void Row_126_madvise_over_a_hole_does_the_rest()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        lab.Anon(At + (2 * Page), 1);
        lab.Poke(At + (2 * Page), 1);
        Assert.Equal(Errno.ENOMEM, lab.Machine.Madvise(lab.Space, At, 3 * Page, Advice.DontNeed).Error);
        Assert.Equal(0, lab.Peek(At + (2 * Page)));
    }

    [Fact]
    public void Row_127_populate_write_on_a_read_only_vma()
    {
        using var lab = new Lab();
        lab.Anon(At, 1, Prot.Read, written: false);
        Assert.Equal(Errno.EINVAL, lab.Machine.Madvise(lab.Space, At, Page, Advice.PopulateWrite).Error);
        Assert.Equal(Errno.ENOMEM, lab.Machine.Madvise(lab.Space, At, 2 * Page, Advice.PopulateRead).Error);
    }

    [Fact]
    public void Row_128_mlock_over_the_limit_and_on_a_hole()
    {
        using var lab = new Lab();
        lab.Machine.SetTask(lab.Space, lab.Space.Task with { RlimitMemlock = 2 * Page });
        lab.Anon(At, 3, written: false);
        Assert.Equal(Errno.ENOMEM, lab.Machine.Mlock(lab.Space, At, 3 * Page).Error);
        Assert.Equal(Errno.ENOMEM, lab.Machine.Mlock(lab.Space, At + (2 * Page), 2 * Page).Error);
    }

    [Fact]
    public void Row_129_mlock_passes_a_pfnmap_over()
    {
        using var lab = new Lab();
        lab.Device(At, 1, DeviceMapping.PfnMap, isRam: false);
        Assert.Equal(0, lab.Machine.Mlock(lab.Space, At, Page).Raw);
        Assert.False(lab.Machine.Maps(lab.Space)[0].Flags.HasFlag(VmFlags.Locked));
    }

    [Fact]
    public void Row_130_mseal_over_a_hole_seals_nothing()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        Assert.Equal(Errno.ENOMEM, lab.Machine.Mseal(lab.Space, At, 2 * Page, 0).Error);
        Assert.True(lab.Machine.Munmap(lab.Space, At, Page).IsOk);
    }

    [Fact]
    public void Row_131_brk_above_the_data_limit_gives_the_old_break()
    {
        using var lab = new Lab();
        var start = lab.Machine.Brk(lab.Space, 0).Value;
        lab.Machine.SetTask(lab.Space, lab.Space.Task with { RlimitData = 4 * Page });
        Assert.Equal(start + (2 * Page), lab.Machine.Brk(lab.Space, start + (2 * Page)).Value);
        Assert.Equal(start + (2 * Page), lab.Machine.Brk(lab.Space, start + (8 * Page)).Value);
        Assert.Equal(start, lab.Machine.Brk(lab.Space, start).Value);
    }

    [Fact]
    public void Row_132_a_stack_does_not_grow_into_the_guard_gap()
    {
        using var lab = new Lab();
        const ulong stack = 0x4000_0000;
        Assert.True(lab.Map(stack, 1, Rw, PrivateAnon | MapFlags.GrowsDown | MapFlags.Fixed).IsOk);
        lab.Anon(stack - (300 * Page), 1);
        Assert.Equal(UserSignal.None, lab.Machine.Touch(lab.Space, stack - (40 * Page), isWrite: true));
        Assert.Equal(UserSignal.SigSegvMapErr, lab.Machine.Touch(lab.Space, stack - (50 * Page), isWrite: true));
    }

    [Fact]
    public void Row_133_beyond_the_end_of_a_file()
    {
        using var lab = new Lab();
        lab.File(At, 2, FileKind.Disk, MapFlags.Private, Rw, filePages: 1);
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(lab.Space, At + Page, isWrite: false));
        Assert.Equal(-(long)Errno.EFAULT, lab.Get(At + Page, 1, out var vector).Raw);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_134_a_guard_region()
    {
        using var lab = new Lab();
        lab.Anon(At, 2);
        Assert.True(lab.Machine.Madvise(lab.Space, At, Page, Advice.GuardInstall).IsOk);
        Assert.Equal(UserSignal.SigSegvMapErr, lab.Machine.Touch(lab.Space, At, isWrite: false));
        Assert.Equal(-(long)Errno.EFAULT, lab.Get(At, 1, out var vector).Raw);
        Assert.True(lab.Machine.Madvise(lab.Space, At, 2 * Page, Advice.GuardRemove).IsOk);
        lab.Write(At, 2);
        using var old = new Lab("6.12");
        old.Anon(At, 1);
        Assert.Equal(Errno.EINVAL, old.Machine.Madvise(old.Space, At, Page, Advice.GuardInstall).Error);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_55_peer_to_peer_memory_wants_its_flag()
    {
        using var lab = new Lab();
        lab.Device(At, 2, DeviceMapping.P2PPages, isRam: true);
        Assert.Equal(-(long)Errno.EREMOTEIO,
            lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.None, out var without).Result.Raw);
        Assert.Equal(1, lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.PciP2PDma, out var with).Result.Raw);
        lab.Drop(without, with);
    }

    [Fact]
    public void Row_135_an_empty_entry_of_a_device_without_fault_method()
    {
        using var lab = new Lab();
        var device = lab.Machine.CreateDevice(
            "/dev/x", DeviceMapping.MixedPages, 1, isRam: true, hasClose: false, isWritable: true)!;
        Assert.True(lab.MapDevice(At, 1, device).IsOk);
        lab.Write(At, 1);
        Assert.True(lab.Machine.Madvise(lab.Space, At, Page, Advice.DontNeed).IsOk);
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(lab.Space, At, isWrite: false));
    }

    [Fact]
    public void Row_136_vm_insert_page_on_a_taken_entry_and_outside()
    {
        using var lab = new Lab();
        var device = lab.Machine.CreateDevice(
            "/dev/x", DeviceMapping.MixedPages, 2, isRam: true, hasClose: false, isWritable: true)!;
        Assert.True(lab.MapDevice(At, 2, device).IsOk);
        lab.Anon(0x40000, 1);
        var anon = lab.Machine.Translate(lab.Space, 0x40000)!.Value;
        var vma = lab.Space.Vmas.Find(At)!;
        Assert.Equal(Errno.EBUSY,
            FramePin.Core.Faults.FaultHandler.InsertPage(lab.Machine.Context, lab.Space, vma, At, device.First));
        Assert.Equal(Errno.EFAULT,
            FramePin.Core.Faults.FaultHandler.InsertPage(lab.Machine.Context, lab.Space, vma, vma.End, device.First));
        Assert.Equal(
            Errno.EINVAL, FramePin.Core.Faults.FaultHandler.InsertPage(lab.Machine.Context, lab.Space, vma, At, anon));
    }

    [Fact]
    public void Row_137_remap_pfn_range_of_a_part_of_a_copy_on_write_area()
    {
        using var lab = new Lab();
        var whole = lab.Machine.CreateDevice(
            "/dev/whole", DeviceMapping.PfnMap, 2, isRam: true, hasClose: false, isWritable: true)!;
        var parts = lab.Machine.CreateDevice(
            "/dev/parts", DeviceMapping.PfnMap, 2, isRam: true, hasClose: false, isWritable: true,
            remapsInParts: true)!;
        Assert.True(lab.MapDevice(At, 2, whole, isPrivate: true).IsOk);
        Assert.Equal(Errno.EINVAL, lab.MapDevice(0x40000, 2, parts, isPrivate: true).Error);
        Assert.Null(lab.Machine.Translate(lab.Space, 0x40000));
        // Shared areas, read-only private ones that stay so, and a part that is the whole may be remapped so.
        Assert.True(lab.MapDevice(0x40000, 2, parts).IsOk);
        Assert.True(lab.MapDevice(0x50000, 1, parts, isPrivate: true).IsOk);
    }

    [Fact]
    public void Mappings_with_a_close_method_never_merge()
    {
        using var lab = new Lab();
        var device = lab.Machine.CreateDevice(
            "/dev/v", DeviceMapping.FaultPages, 4, isRam: true, hasClose: true, isWritable: true)!;
        Assert.True(lab.MapDevice(At, 2, device).IsOk);
        Assert.True(lab.Machine.Mmap(lab.Space, new MmapRequest
        {
            Address = At + (2 * Page),
            Length = 2 * Page,
            Prot = Rw,
            Flags = MapFlags.Shared | MapFlags.Fixed,
            Device = device,
            Offset = 2 * Page,
        }).IsOk);
        Assert.Equal(2, lab.Machine.Maps(lab.Space).Count);
    }

    [Theory]
    [InlineData(0x1000UL, Prot.Read | Prot.Write, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed, Errno.EPERM)]
    [InlineData(
        0x10001UL, Prot.Read | Prot.Write, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed, Errno.EINVAL)]
    [InlineData(0x7FFF_FFFF_F000UL, Prot.Read | Prot.Write, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed,
        Errno.ENOMEM)]
    [InlineData(0UL, Prot.Read, MapFlags.Anonymous, Errno.EINVAL)]
    [InlineData(0UL, Prot.Read, MapFlags.Anonymous | MapFlags.SharedValidate, Errno.EINVAL)]
    [InlineData(0UL, Prot.Read, MapFlags.Anonymous | MapFlags.Shared | MapFlags.GrowsDown, Errno.EINVAL)]
    [InlineData(0UL, Prot.Read, MapFlags.Anonymous | MapFlags.Droppable | MapFlags.Locked, Errno.EINVAL)]
    public void Mmap_arguments_are_checked_as_4_2_lists_them(ulong address, Prot prot, MapFlags flags, Errno expected)
    {
        using var lab = new Lab();
        Assert.Equal(expected, lab.Map(address, 1, prot, flags).Error);
    }

    [Fact]
    public void Hugetlb_without_a_page_in_its_pool_is_refused_when_the_old_mapping_is_gone()
    {
        using var lab = new Lab();
        const ulong huge = 0x4000_0000;
        const MapFlags flags = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed | MapFlags.HugeTlb;
        lab.Anon(huge, 1);
        Assert.Equal(Errno.ENOMEM, lab.Map(huge, 512, Rw, flags).Error);
        Assert.Equal(UserSignal.SigSegvMapErr, lab.Machine.Touch(lab.Space, huge, isWrite: false));
        Assert.True(lab.Map(huge, 512, Rw, flags | MapFlags.NoReserve).IsOk);
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(lab.Space, huge, isWrite: false));
    }

    [Fact]
    public void Truncate_takes_pages_from_mappings_but_not_from_pins()
    {
        using var lab = new Lab();
        var file = lab.Machine.CreateFile("/f", FileKind.Shmem, 2 * Page)!;
        lab.MapFile(At, 2, file, MapFlags.Shared, Rw);
        lab.Poke(At + Page, 6);
        Assert.Equal(1, lab.Get(At + Page, 1, out var vector).Raw);
        lab.Machine.Truncate(file, Page);
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(lab.Space, At + Page, isWrite: false));
        Assert.Equal(6, lab.PeekFrame(vector));
        lab.Machine.Truncate(file, 2 * Page);
        Assert.Equal(0, lab.Peek(At + Page));
        lab.Drop(vector);
    }

    [Fact]
    public void A_write_seal_waits_for_pins()
    {
        using var lab = new Lab();
        var file = lab.Machine.CreateFile("/f", FileKind.Shmem, Page)!;
        lab.MapFile(At, 1, file, MapFlags.Shared, Rw);
        Assert.Equal(1, lab.Get(At, 1, out var vector).Raw);
        Assert.True(lab.Machine.Munmap(lab.Space, At, Page).IsOk);
        Assert.Equal(Errno.EBUSY, lab.Machine.SealWrite(file));
        lab.Drop(vector);
        Assert.Equal(Errno.None, lab.Machine.SealWrite(file));
    }

    [Fact]
    public void Msync_makes_a_disk_page_clean_and_the_next_store_dirty()
    {
        using var lab = new Lab();
        lab.File(At, 1, FileKind.Disk, MapFlags.Shared, Rw);
        lab.Write(At, 1);
        Assert.True(lab.ViewAt(At).Flags.HasFlag(FramePin.Core.Frames.FrameFlags.Dirty));
        Assert.True(lab.Machine.Msync(lab.Space, At, Page, MsyncFlags.Sync).IsOk);
        Assert.False(lab.ViewAt(At).Flags.HasFlag(FramePin.Core.Frames.FrameFlags.Dirty));
        lab.Write(At, 1);
        Assert.True(lab.ViewAt(At).Flags.HasFlag(FramePin.Core.Frames.FrameFlags.Dirty));
    }

    [Fact]
    public void Mincore_tells_what_is_resident()
    {
        using var lab = new Lab();
        lab.Anon(At, 2, written: false);
        lab.Write(At, 1);
        Span<byte> residency = stackalloc byte[2];
        Assert.True(lab.Machine.Mincore(lab.Space, At, 2 * Page, residency).IsOk);
        Assert.Equal([1, 0], residency.ToArray());
        Assert.Equal(Errno.ENOMEM, lab.Machine.Mincore(lab.Space, At, 3 * Page, new byte[3]).Error);
    }

    [Fact]
    public void Unpin_dirty_marks_every_page_before_the_reference_goes()
    {
        using var lab = new Lab();
        lab.File(At, 2, FileKind.Shmem, MapFlags.Shared, Rw);
        lab.Load(At, 2);
        Assert.Equal(2, lab.Gup(GupCall.PinUserPagesFast, At, 2, GupFlags.Write, out var vector).Result.Raw);
        lab.Machine.PutVaddrFramesDirty(vector);
        Assert.True(lab.ViewAt(At + Page).Flags.HasFlag(FramePin.Core.Frames.FrameFlags.Dirty));
        lab.Drop(vector);
    }

    [Fact]
    public void Fork_shares_wipes_and_skips_as_advised()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        lab.Anon(0x20000, 1);
        lab.Anon(0x30000, 1);
        lab.Poke(At, 1);
        lab.Poke(0x20000, 1);
        Assert.True(lab.Machine.Madvise(lab.Space, 0x20000, Page, Advice.WipeOnFork).IsOk);
        Assert.True(lab.Machine.Madvise(lab.Space, 0x30000, Page, Advice.DontFork).IsOk);
        var child = lab.Fork();
        Assert.Equal(1, lab.Peek(At, child));
        Assert.Equal(0, lab.Peek(0x20000, child));
        Assert.Equal(UserSignal.SigSegvMapErr, lab.Machine.Touch(child, 0x30000, isWrite: false));
        lab.Poke(At, 2);
        Assert.Equal(1, lab.Peek(At, child));
    }
}
