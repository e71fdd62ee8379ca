using FramePin.Core.Abi;
using FramePin.Core.Access;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Machines;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>
/// Calls over the areas of devices, as 6.18 answered them over the control page of a performance counter: what the live
/// comparison found when it learned to map one.
/// </summary>
public sealed class DeviceAreaTests
{
    private const ulong At = 0x2000_0000;
    private const ulong Page = Lab.Page;
    private const Prot Rw = Prot.Read | Prot.Write;

    /// <summary>vma_supports_mlock: MAP_LOCKED, MCL_FUTURE and mlock pass over special areas alike.</summary>
    [Theory]
    [InlineData(DeviceMapping.PfnMap, true)]
    [InlineData(DeviceMapping.PfnMapLazy, true)]
    [InlineData(DeviceMapping.IoPages, true)]
    [InlineData(DeviceMapping.MixedPages, true)]
    [InlineData(DeviceMapping.MixedPfns, true)]
    [InlineData(DeviceMapping.FaultPages, false)]
    public void A_special_area_is_never_called_locked(DeviceMapping mapping, bool isSpecial)
    {
        using var lab = new Lab();
        var asked = MapDevice(lab, At, mapping, MapFlags.Locked);
        Assert.Equal(isSpecial, (FlagsAt(lab, At) & VmFlags.Locked) == 0);
        Assert.True(asked.IsOk);
        const uint future = 2;
        Assert.True(lab.Machine.Call(new MlockAllCall(lab.Space.Id, future)).IsOk);
        Assert.True(MapDevice(lab, At + (16 * Page), mapping).IsOk);
        Assert.Equal(isSpecial, (FlagsAt(lab, At + (16 * Page)) & VmFlags.Locked) == 0);
    }

    /// <summary>vfs_fallocate: a device is no regular file. A mapping that may not be written is asked first.</summary>
    [Theory]
    [InlineData(DeviceMapping.PfnMap)]
    [InlineData(DeviceMapping.MixedPages)]
    [InlineData(DeviceMapping.FaultPages)]
    public void MADV_REMOVE_over_a_device(DeviceMapping mapping)
    {
        using var lab = new Lab();
        MapDevice(lab, At, mapping);
        Assert.Equal(Errno.ENODEV, Remove(lab));
        lab.Machine.Munmap(lab.Space, At, 4 * Page);
        lab.Device(At, 4, mapping, isRam: true, isPrivate: true);
        Assert.Equal(Errno.EACCES, Remove(lab));
    }

    /// <summary>can_do_mincore: of a file that is another's, and not to be written, all pages count as there.</summary>
    [Theory]
    [InlineData(true, true, 0)]
    [InlineData(true, false, 1)]
    [InlineData(false, false, 0)]
    public void Mincore_of_a_device_tells_its_owner_alone(bool isAnonymousInode, bool isAdmin, byte expected)
    {
        using var lab = new Lab();
        MapDevice(lab, Create(lab, DeviceMapping.PfnMap, isAnonymousInode), At, Rw);
        var task = new TaskState { IsAdmin = isAdmin };
        Assert.True(lab.Machine.Call(new SetTaskCall(lab.Space.Id, task)).IsOk);
        var residency = new byte[1];
        Assert.True(lab.Machine.Query<MincoreQuery, SyscallResult>(new(lab.Space.Id, At, Page, residency)).IsOk);
        Assert.Equal(expected, residency[0]);
    }

    /// <summary>path_noexec: PROT_EXEC is refused by mmap with EPERM and by mprotect with EACCES.</summary>
    [Fact]
    public void A_device_on_a_noexec_mount_is_not_executed()
    {
        using var lab = new Lab();
        var device = Create(lab, DeviceMapping.PfnMap, isAnonymousInode: true);
        Assert.Equal(Errno.EPERM, MapDevice(lab, device, At, Rw | Prot.Exec).Error);
        Assert.True(MapDevice(lab, device, At, Rw).IsOk);
        Assert.Equal(Errno.EACCES, lab.Machine.Call(new MprotectCall(lab.Space.Id, At, Page, Prot.Exec)).Error);
        Assert.True(MapDevice(lab, Create(lab, DeviceMapping.PfnMap), At, Rw | Prot.Exec).IsOk);
    }

    /// <summary>
    /// __access_remote_vm: memory without pages is reached by the area's access method, or not at all.
    /// </summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Proc_mem_reaches_raw_frames_by_the_access_method_alone(bool hasAccess)
    {
        using var lab = new Lab();
        MapDevice(lab, Create(lab, DeviceMapping.PfnMap, hasAccess: hasAccess), At, Rw);
        var bytes = new byte[16];
        foreach (var isWrite in (bool[])[false, true])
        {
            var result = lab.Machine.ProcMem(lab.Space.Id, At, bytes, isWrite);
            Assert.Equal(hasAccess ? Errno.None : Errno.EIO, result.Error);
        }
    }

    /// <summary>vma_multi_allowed: a device's area moves though the range goes on behind it.</summary>
    [Theory]
    [InlineData("6.18", Errno.None)]
    [InlineData("6.12", Errno.EFAULT)]
    public void A_device_area_moves_with_the_gap_behind_it(string profile, Errno expected)
    {
        using var lab = new Lab(profile);
        lab.Device(At, 1, DeviceMapping.PfnMap, isRam: true);
        const MremapFlags move = MremapFlags.MayMove | MremapFlags.Fixed;
        var moved = lab.Machine.Mremap(lab.Space, At, 8 * Page, 8 * Page, move, 2 * At);
        Assert.Equal(expected, moved.Error);
        // check_prep_vma comes first: what cannot stay behind is refused as such.
        var left = lab.Machine.Mremap(
            lab.Space, moved.IsOk ? 2 * At : At, Page, Page, move | MremapFlags.DontUnmap, 3 * At);
        Assert.Equal(Errno.EINVAL, left.Error);
    }

    /// <summary>shrink_vma: the part that a shrinking move leaves behind is unmapped by the rules of munmap.</summary>
    [Theory]
    [InlineData(0xffff_ffff_ffff_efffUL)]
    [InlineData(0xffff_ffff_ffff_f000UL)]
    [InlineData(PageGeometry.MapWindow)]
    public void E1_an_old_length_that_wraps_is_refused_by_a_move_too(ulong oldLength)
    {
        using var lab = new Lab();
        lab.Anon(At, 8);
        const MremapFlags move = MremapFlags.MayMove | MremapFlags.Fixed;
        var moved = lab.Machine.Mremap(lab.Space, At, oldLength, 2 * Page, move, At / 2);
        Assert.Equal(Errno.EINVAL, moved.Error);
        Assert.Equal(8 * Page, lab.Space.Vmas.Find(At)!.Range.Length);
    }

    /// <summary>
    /// E6: hugetlbfs_file_mmap makes a file as long as a writable mapping reaches, wherever that is; the cache reaches
    /// there too.
    /// </summary>
    [Theory]
    [InlineData(0x1_0000_0000_0000UL, MapFlags.Private)]
    [InlineData(0x1_0000_0000_0000UL, MapFlags.Shared)]
    [InlineData(0x7fff_ffff_ffc0_0000UL, MapFlags.Private)]
    [InlineData(0x7fff_ffff_ffc0_0000UL, MapFlags.Shared)]
    public void E6_a_huge_page_far_out_in_its_file(ulong offset, MapFlags type)
    {
        const ulong huge = PageGeometry.PmdSize;
        using var lab = new Lab(configure: options => options with { HugePages2M = 2 });
        var file = lab.Machine.CreateFile("/huge", FileKind.HugeTlb, huge, PageGeometry.PmdOrder)!;
        var request = new MmapRequest
        {
            Address = At,
            Length = huge,
            Prot = Rw,
            Flags = type | MapFlags.Fixed,
            File = file,
            Offset = offset,
        };
        Assert.True(lab.Machine.Mmap(lab.Space, request).IsOk);
        lab.Poke(At, 7);
        Assert.Equal(7, lab.Peek(At));
        Assert.Empty(lab.Machine.Audit());
        lab.Machine.Munmap(lab.Space, At, huge);
        Assert.True(lab.Machine.Mmap(lab.Space, request).IsOk);
        Assert.Equal(type == MapFlags.Shared ? 7 : 0, lab.Peek(At));
        Assert.True(lab.Machine.Call(new TruncateCall(new FileId(file.Id), huge)).IsOk);
        Assert.Empty(lab.Machine.Audit());
    }

    /// <summary>E3, E6: what a recording's maps say of a file is held to the rules of mmap.</summary>
    [Theory]
    [InlineData(FileKind.Disk, At, Page, ulong.MaxValue - 4095, Errno.EOVERFLOW)]
    [InlineData(FileKind.Disk, At, Page, (1UL << 63) - Page, Errno.EOVERFLOW)]
    [InlineData(FileKind.Disk, At, Page, (1UL << 63) - (2 * Page), Errno.None)]
    [InlineData(FileKind.HugeTlb, At + Page, PageGeometry.PmdSize, 0UL, Errno.EINVAL)]
    [InlineData(FileKind.HugeTlb, At, Page, 0UL, Errno.EINVAL)]
    [InlineData(FileKind.HugeTlb, At, PageGeometry.PmdSize, Page, Errno.EINVAL)]
    [InlineData(FileKind.HugeTlb, At, PageGeometry.PmdSize, PageGeometry.PmdSize, Errno.None)]
    public void An_installed_mapping_has_an_offset_that_mmap_takes(
        FileKind kind, ulong start, ulong length, ulong offset, Errno expected)
    {
        using var lab = new Lab(configure: options => options with { HugePages2M = 2 });
        var file = lab.Machine.CreateFile("/file", kind, 0, kind == FileKind.HugeTlb ? PageGeometry.PmdOrder : 0)!;
        var error = lab.Machine.Call(new InstallMappingCall(lab.Space.Id, new InstalledMapping
        {
            Range = new AddressRange(start, start + length),
            Prot = Prot.Read,
            File = new FileId(file.Id),
            Offset = offset,
        })).Error;
        Assert.Equal(expected, error);
    }

    /// <summary>
    /// E1: the length of a call is cut to what one call moves, since 6.4 before its range is checked.
    /// </summary>
    [Theory]
    [InlineData("6.18", 1UL << 47, Errno.None)]
    [InlineData("6.18", (1UL << 63) - 1, Errno.None)]
    [InlineData("6.18", 1UL << 63, Errno.EINVAL)]
    [InlineData("6.1", 1UL << 47, Errno.EFAULT)]
    [InlineData("6.1", 1UL << 63, Errno.EINVAL)]
    public void A_vmsplice_of_a_length_that_no_range_has(string profile, ulong length, Errno expected)
    {
        using var lab = new Lab(profile);
        lab.Anon(At, 4);
        var pipe = new List<FramePin.Core.Pinning.FrameVector>();
        var spliced = lab.Machine.Vmsplice(lab.Space.Id, At, length, 16, pipe);
        Assert.Equal(expected, spliced.Error);
        if (expected == Errno.None) Assert.Equal(4 * Page, spliced.Value);
        foreach (var vector in pipe) lab.Drop(vector);
    }

    /// <summary>generic_write_checks: a write of no bytes ends before the seal and the limit are asked.</summary>
    [Fact]
    public void A_write_of_no_bytes_is_no_write()
    {
        using var lab = new Lab();
        var file = lab.Machine.CreateFile("/file", FileKind.Shmem, Page)!;
        var id = new FileId(file.Id);
        Assert.True(lab.Machine.Call(new SealWriteCall(id)).IsOk);
        Assert.Equal(Errno.None, lab.Machine.Execute<WriteFileCall, WriteFileResult>(new(id, 0, [])).Error);
        Assert.Equal(Errno.EPERM, lab.Machine.Execute<WriteFileCall, WriteFileResult>(new(id, 0, [1])).Error);
        Assert.Equal(Errno.EINVAL, lab.Machine.Execute<WriteFileCall, WriteFileResult>(new(id, 1UL << 63, [])).Error);
    }

    private static Errno Remove(Lab lab) =>
        lab.Machine.Call(new MadviseCall(lab.Space.Id, At, Page, Advice.Remove)).Error;

    private static VmFlags FlagsAt(Lab lab, ulong address) => lab.Space.Vmas.Find(address)!.Flags;

    private static DeviceId Create(
        Lab lab, DeviceMapping mapping, bool isAnonymousInode = false, bool hasAccess = true) =>
        new((int)lab.Machine.Call(new CreateDeviceCall(
            "/dev/area", mapping, 4, IsRam: true, HasClose: false, IsWritable: true, IsAnonymousInode: isAnonymousInode,
            HasAccess: hasAccess)).Value);

    private static SyscallResult MapDevice(Lab lab, DeviceId device, ulong at, Prot prot, MapFlags more = 0) =>
        lab.Machine.Call(new MmapCall(
            lab.Space.Id, at, 4 * Page, prot, MapFlags.Shared | MapFlags.Fixed | more)
        {
            Device = device,
        });

    private static SyscallResult MapDevice(Lab lab, ulong at, DeviceMapping mapping, MapFlags more = 0) =>
        MapDevice(lab, Create(lab, mapping), at, Rw, more);
}
