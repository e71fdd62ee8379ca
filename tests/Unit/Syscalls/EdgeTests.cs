using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>
/// Lengths, addresses and offsets at both ends of the 64-bit range, as 6.18 answered a C program: faults E1 and E6 of
/// the list of faults found from outside, and their sisters.
/// </summary>
public sealed class EdgeTests
{
    private const ulong At = 0x2000_0000;
    private const ulong Page = Lab.Page;
    private const ulong Huge = PageGeometry.PmdSize;
    private const Prot Rw = Prot.Read | Prot.Write;
    private const MapFlags PrivateAnon = MapFlags.Private | MapFlags.Anonymous;

    /// <summary>E1: a break among the last 4095 addresses was rounded to 0, and all below the heap unmapped.</summary>
    [Theory]
    [InlineData(ulong.MaxValue)]
    [InlineData(ulong.MaxValue - 4094)]
    [InlineData(ulong.MaxValue - 4095)]
    [InlineData(ulong.MaxValue - 4096)]
    [InlineData(1UL << 63)]
    [InlineData(PageGeometry.MapWindow + 1)]
    [InlineData(0x8000_0000_0000UL)]
    [InlineData(1UL)]
    public void E1_brk_at_the_top_answers_the_old_break(ulong wanted)
    {
        using var lab = new Lab();
        lab.Anon(At, 2);
        var top = lab.Space.Layout.StartBrk + (3 * Page);
        Assert.Equal(top, lab.Machine.Brk(lab.Space, top).Value);
        var before = lab.MapsText();
        Assert.Equal(top, lab.Machine.Brk(lab.Space, wanted).Value);
        Assert.Equal(before, lab.MapsText());
        lab.Load(At, 2);
    }

    /// <summary>Sisters of E1: each call rounds its length up in the way that Linux does at that place.</summary>
    [Theory]
    [InlineData(ulong.MaxValue, "ENOMEM EINVAL EINVAL 0 0 0 ENOMEM EINVAL EINVAL")]
    [InlineData(ulong.MaxValue - 4094, "ENOMEM EINVAL EINVAL 0 0 0 ENOMEM EINVAL EINVAL")]
    [InlineData(ulong.MaxValue - 4095, "ENOMEM EINVAL EINVAL EINVAL EINVAL ENOMEM ENOMEM EINVAL EINVAL")]
    [InlineData(ulong.MaxValue - 4096, "ENOMEM EINVAL EINVAL EINVAL EINVAL ENOMEM ENOMEM EINVAL EINVAL")]
    [InlineData(1UL << 63, "ENOMEM EINVAL ENOMEM ENOMEM ENOMEM ENOMEM ENOMEM ENOMEM EINVAL")]
    [InlineData(PageGeometry.MapWindow, "ENOMEM EINVAL ENOMEM ENOMEM ENOMEM ENOMEM ENOMEM ENOMEM ENOMEM")]
    [InlineData(PageGeometry.MapWindow + 1, "ENOMEM EINVAL ENOMEM ENOMEM ENOMEM ENOMEM ENOMEM ENOMEM EINVAL")]
    public void E1_every_call_rounds_a_length_as_Linux_does(ulong length, string expected)
    {
        using var lab = new Lab();
        lab.Anon(At, 8);
        lab.Machine.SetTask(lab.Space, lab.Space.Task with { CanLockMemory = true });
        var (machine, space) = (lab.Machine, lab.Space);
        SyscallResult[] answers =
        [
            machine.Mprotect(space, At, length, Rw), machine.Munmap(space, At, length),
            machine.Madvise(space, At, length, Advice.Normal), machine.Mlock(space, At, length),
            machine.Munlock(space, At, length), machine.Msync(space, At, length, MsyncFlags.Sync),
            machine.Mincore(space, At, length, new byte[16]), machine.Mseal(space, At + (64 * Page), length, 0),
            machine.Mremap(space, At, Page, length, MremapFlags.MayMove),
        ];
        Assert.Equal(expected, string.Join(' ', answers.Select(answer => answer.IsOk ? "0" : $"{answer.Error}")));
        foreach (var flags in new[] { PrivateAnon, PrivateAnon | MapFlags.Fixed, PrivateAnon | MapFlags.NoReserve })
            Assert.Equal(Errno.ENOMEM, Map(lab, At, length, flags).Error);
        lab.Load(At, 8);
    }

    /// <summary>A length that wraps when it is rounded to huge pages is none (ksys_mmap_pgoff).</summary>
    [Theory]
    [InlineData(ulong.MaxValue, Errno.EINVAL)]
    [InlineData(ulong.MaxValue - 4096, Errno.EINVAL)]
    [InlineData(1UL << 63, Errno.ENOMEM)]
    [InlineData(PageGeometry.MapWindow, Errno.ENOMEM)]
    public void E1_lengths_of_huge_pages_round_to_nothing(ulong length, Errno expected)
    {
        using var lab = WithPool(2);
        Assert.Equal(expected, Map(lab, 0, length, PrivateAnon | MapFlags.HugeTlb).Error);
        Assert.Equal(expected, Map(lab, 0, length, PrivateAnon | MapFlags.HugeTlb | MapFlags.NoReserve).Error);
        var file = lab.Machine.CreateFile("/huge", FileKind.HugeTlb, Huge, PageGeometry.PmdOrder)!;
        Assert.Equal(expected, Map(lab, 0, length, MapFlags.Private, file).Error);
    }

    [Theory]
    [InlineData(ulong.MaxValue - 4095, Errno.ENOMEM)]
    [InlineData(ulong.MaxValue, Errno.EPERM)]
    [InlineData(ulong.MaxValue - 21, Errno.EINVAL)]
    [InlineData(PageGeometry.MapWindow, Errno.ENOMEM)]
    [InlineData(PageGeometry.MapWindow - Page, Errno.ENOMEM)]
    public void E1_a_fixed_address_at_the_top(ulong address, Errno expected)
    {
        using var lab = WithPool(2);
        Assert.Equal(expected, Map(lab, address, 2 * Page, PrivateAnon | MapFlags.Fixed).Error);
        Assert.Equal(
            Errno.EINVAL, Map(lab, address, Huge, PrivateAnon | MapFlags.Fixed | MapFlags.HugeTlb).Error);
        // As a hint the same address does not count.
        var hinted = Map(lab, address, 2 * Page, PrivateAnon).Value;
        Assert.Equal(lab.Space.Layout.MmapBase - (2 * Page), hinted);
    }

    [Fact]
    public void A_hint_inside_page_0_is_none()
    {
        using var lab = new Lab();
        Assert.Equal(lab.Space.Layout.MmapBase - Page, Map(lab, 0xfff, Page, PrivateAnon).Value);
        Assert.Equal(PageGeometry.MmapMinAddress, Map(lab, 0x1000, Page, PrivateAnon).Value);
    }

    /// <summary>The room for an alignment, added to a length near the end of user space, must not wrap.</summary>
    [Fact]
    public void E1_a_hint_for_a_file_as_long_as_the_address_space()
    {
        using var lab = new Lab();
        var file = lab.Machine.CreateFile("/disk", FileKind.Disk, Page)!;
        var length = PageGeometry.MapWindow - (16 * Page);
        Assert.Equal(Errno.ENOMEM, Map(lab, At, length, MapFlags.Private, file).Error);
    }

    /// <summary>A limit on locked memory is asked before the range is looked at (do_mlock).</summary>
    [Fact]
    public void E1_mlock_of_a_wrapping_range_meets_the_limit_first()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        lab.Machine.SetTask(lab.Space, lab.Space.Task with { CanLockMemory = false });
        Assert.Equal(Errno.ENOMEM, lab.Machine.Mlock(lab.Space, At, ulong.MaxValue - 4095).Error);
    }

    /// <summary>E6: the offset of anonymous memory has no meaning, and no value of it is refused.</summary>
    [Fact]
    public void E6_the_offset_of_anonymous_memory_has_no_meaning()
    {
        using var lab = new Lab();
        const ulong last = ulong.MaxValue - 4095;
        Assert.True(Map(lab, 0, 3 * Page, PrivateAnon, offset: last).IsOk);
        Assert.True(Map(lab, 0, 3 * Page, MapFlags.Shared | MapFlags.Anonymous, offset: last).IsOk);
        Assert.Equal(Errno.ENOMEM, Map(lab, 0, ulong.MaxValue - 0x1fff, PrivateAnon, offset: 0x10000).Error);
        Assert.Equal(Errno.EINVAL, Map(lab, 0, Page, MapFlags.Anonymous, offset: last - Page).Error);
        Assert.Equal(Errno.EINVAL, Map(lab, 0, Page, PrivateAnon, offset: 0x800).Error);
    }

    /// <summary>E6: a file reaches 2^63 - 1 bytes (file_mmap_ok); what is mapped behind its end is SIGBUS.</summary>
    [Theory]
    [InlineData(FileKind.Shmem)]
    [InlineData(FileKind.Disk)]
    [InlineData(FileKind.FsDax)]
    public void E6_offsets_of_files_end_at_two_to_the_63(FileKind kind)
    {
        using var lab = new Lab();
        var file = lab.Machine.CreateFile("/file", kind, 4 * Page)!;
        foreach (var type in new[] { MapFlags.Shared, MapFlags.Private })
        {
            foreach (var offset in new[] { 1UL << 44, 1UL << 47, 1UL << 48, 1UL << 51, (1UL << 63) - 0x2000 })
            {
                var mapped = Map(lab, 0, Page, type, file, offset);
                Assert.True(mapped.IsOk, $"{type} at {offset:x}: {mapped}");
                Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(lab.Space, mapped.Value, isWrite: false));
                Assert.Equal(offset, lab.Machine.Maps(lab.Space).Single(
                    entry => entry.Range.Start == mapped.Value).Offset);
                lab.Machine.Munmap(lab.Space, mapped.Value, Page);
            }

            foreach (var offset in new[] { (1UL << 63) - Page, 1UL << 63, ulong.MaxValue - 4095 })
                Assert.Equal(Errno.EOVERFLOW, Map(lab, 0, Page, type, file, offset).Error);
        }
    }

    [Fact]
    public void E6_offsets_of_huge_pages_end_at_two_to_the_63()
    {
        using var lab = WithPool(2);
        var file = lab.Machine.CreateFile("/huge", FileKind.HugeTlb, 2 * Huge, PageGeometry.PmdOrder)!;
        Assert.True(MapRead(lab, file, (1UL << 63) - (2 * Huge)).IsOk);
        Assert.Equal(Errno.EOVERFLOW, MapRead(lab, file, (1UL << 63) - Huge).Error);
        // A kind of file that MAP_HUGETLB makes: the offset counts there too.
        Assert.Equal(Errno.EINVAL, Map(lab, 0, Huge, PrivateAnon | MapFlags.HugeTlb, offset: Page).Error);
        Assert.Equal(Errno.EOVERFLOW, Map(lab, 0, Huge, PrivateAnon | MapFlags.HugeTlb, offset: 1UL << 63).Error);
    }

    /// <summary>E6: remap_file_pages counts in pages, of which an offset in bytes loses the upper ones.</summary>
    [Theory]
    [InlineData(5UL, Errno.None)]
    [InlineData(1UL << 40, Errno.None)]
    [InlineData((1UL << 51) - 8, Errno.None)]
    [InlineData(1UL << 51, Errno.EOVERFLOW)]
    [InlineData(1UL << 52, Errno.EOVERFLOW)]
    [InlineData((1UL << 52) + 1, Errno.EOVERFLOW)]
    [InlineData(ulong.MaxValue - 7, Errno.EOVERFLOW)]
    [InlineData(ulong.MaxValue - 1, Errno.EINVAL)]
    [InlineData(ulong.MaxValue, Errno.EINVAL)]
    public void E6_remap_file_pages_at_the_last_pages(ulong pageOffset, Errno expected)
    {
        using var lab = new Lab();
        lab.File(At, 8, FileKind.Shmem, MapFlags.Shared, Rw);
        var call = new RemapFilePagesCall(lab.Space.Id, At + Page, 2 * Page, Prot.None, pageOffset, 0);
        Assert.Equal(expected, lab.Machine.Call(call).Error);
    }

    /// <summary>E6: offsets and sizes of files are signed, and end with what the file system can hold.</summary>
    [Theory]
    [InlineData(FileKind.Shmem, 1UL << 63, "EINVAL EINVAL EINVAL EINVAL EINVAL")]
    [InlineData(FileKind.Shmem, ulong.MaxValue, "EINVAL EINVAL EINVAL EINVAL EINVAL")]
    [InlineData(FileKind.Shmem, (1UL << 63) - 1, "EFBIG EINVAL EINVAL EFBIG None")]
    [InlineData(FileKind.Shmem, (1UL << 63) - 2, "EFBIG None EINVAL None None")]
    [InlineData(FileKind.Disk, ulong.MaxValue, "EINVAL EINVAL EINVAL EINVAL EINVAL")]
    [InlineData(FileKind.Disk, (1UL << 63) - 1, "EFBIG EINVAL EINVAL EFBIG EFBIG")]
    [InlineData(FileKind.Disk, 1UL << 48, "EFBIG None EFBIG EFBIG EFBIG")]
    [InlineData(FileKind.Disk, (1UL << 44) - 4095, "EFBIG None EFBIG EFBIG EFBIG")]
    [InlineData(FileKind.Disk, (1UL << 44) - 4096, "None None EFBIG EFBIG None")]
    [InlineData(FileKind.HugeTlb, 1UL << 63, "EINVAL EINVAL EINVAL EINVAL EINVAL")]
    [InlineData(FileKind.HugeTlb, (1UL << 44) - 4096, "EINVAL None EINVAL None None")]
    [InlineData(FileKind.Secret, ulong.MaxValue, "EINVAL EINVAL EINVAL EINVAL EINVAL")]
    [InlineData(FileKind.Secret, (1UL << 63) - 1, "EINVAL ESPIPE ESPIPE EFBIG EOPNOTSUPP")]
    public void E6_sizes_and_offsets_of_files(FileKind kind, ulong value, string expected)
    {
        using var lab = WithPool(2);
        var order = kind == FileKind.HugeTlb ? PageGeometry.PmdOrder : 0;
        var file = new FileId(lab.Machine.CreateFile("/file", kind, Page << order, order)!.Id);
        Errno[] answers =
        [
            lab.Machine.Call(new TruncateCall(file, value)).Error,
            lab.Machine.Call(new ReadFileCall(file, value, new byte[1])).Error,
            lab.Machine.Execute<WriteFileCall, WriteFileResult>(new(file, value, new byte[2])).Error,
            lab.Machine.Call(new PunchHoleCall(file, value, 1)).Error,
            lab.Machine.Call(new PunchHoleCall(file, 0, value)).Error,
        ];
        Assert.Equal(expected, string.Join(' ', answers));
    }

    private static SyscallResult MapRead(Lab lab, MemoryFile file, ulong offset) => lab.Machine.Mmap(
        lab.Space, new MmapRequest
        {
            Length = Huge,
            Prot = Prot.Read,
            Flags = MapFlags.Shared | MapFlags.NoReserve,
            File = file,
            Offset = offset
        });

    private static SyscallResult Map(
        Lab lab, ulong address, ulong length, MapFlags flags, MemoryFile? file = null, ulong offset = 0) =>
        lab.Machine.Mmap(lab.Space, new MmapRequest
        {
            Address = address,
            Length = length,
            Prot = Rw,
            Flags = flags,
            File = file,
            Offset = offset,
        });

    private static Lab WithPool(int pages) => new(configure: options => options with { HugePages2M = pages });
}
