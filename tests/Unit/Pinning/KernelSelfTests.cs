using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>
/// The kernel's own self tests of pinning over FramePin (tools/testing/selftests/mm; Semantics 7).
/// </summary>
public sealed partial class KernelSelfTests
{
    private const ulong At = 0x4000_0000;
    private const ulong Huge = PageGeometry.PmdSize;
    private const int Size = 8192;

    public static TheoryData<string, string, bool, bool, int> GupTestMatrix()
    {
        var runs = new TheoryData<string, string, bool, bool, int>();
        foreach (var memory in new[] { "thp", "small", "hugetlb" })
            foreach (var call in new[] { "-u", "-U", "-a", "-b", "-L" })
                foreach (var isWrite in new[] { false, true })
                    foreach (var isShared in new[] { false, true })
                        foreach (var pagesPerCall in new[] { 1, 512, 123, -1 })
                            runs.Add(memory, call, isWrite, isShared, pagesPerCall);
        return runs;
    }

    [Fact]
    public void The_matrix_has_240_runs() => Assert.Equal(240, GupTestMatrix().Count);

    /// <summary>
    /// gup_test: -u get fast, -U get, -a pin fast, -b pin, -L pin long-term; over 32 MiB, every page written first.
    /// </summary>
    [Theory]
    [MemberData(nameof(GupTestMatrix))]
    public void Gup_test(string memory, string call, bool isWrite, bool isShared, int pagesPerCall)
    {
        using var lab = new Lab("6.18", options => options with
        {
            Memory = 256UL << 20,
            HugePages2M = memory == "hugetlb" ? Size / 512 : 0,
            AuditsEachCommand = false,
        });
        var type = (isShared ? MapFlags.Shared : MapFlags.Private) | (memory == "hugetlb" ? MapFlags.HugeTlb : 0);
        Assert.True(lab.Map(At, Size, Prot.Read | Prot.Write, type | MapFlags.Anonymous | MapFlags.Fixed).IsOk);
        if (memory != "hugetlb")
            Assert.True(lab.Machine.Madvise(
                lab.Space, At, Size * Lab.Page, memory == "thp" ? Advice.HugePage : Advice.NoHugePage).IsOk);
        lab.Write(At, Size);
        var (kind, flags) = call switch
        {
            "-u" => (GupCall.GetUserPagesFast, GupFlags.None),
            "-U" => (GupCall.GetUserPages, GupFlags.None),
            "-a" => (GupCall.PinUserPagesFast, GupFlags.None),
            "-b" => (GupCall.PinUserPages, GupFlags.None),
            _ => (GupCall.PinUserPages, GupFlags.LongTerm),
        };
        using var device = new GupTest(lab.Machine, lab.Space);
        var result = device.Run(
            kind, flags | (isWrite ? GupFlags.Write : 0), At, Size * Lab.Page, pagesPerCall < 0 ? Size : pagesPerCall);
        Assert.Equal(new GupTestResult(Errno.None, Size * Lab.Page, true), result);
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
    }

    [Fact]
    public void Row_138_gup_test_is_started_once()
    {
        using var lab = new Lab();
        lab.Anon(At, 4);
        lab.Poke(At + Lab.Page, 7);
        using var device = new GupTest(lab.Machine, lab.Space);
        var bytes = new byte[2 * Lab.Page];
        Assert.Equal(Errno.EINVAL, device.Read(bytes));
        Assert.Equal(Errno.EINVAL, device.StartLongTerm(At, 0, 0));
        Assert.Equal(Errno.EINVAL, device.StartLongTerm(At + 1, Lab.Page, 0));
        Assert.Equal(Errno.EINVAL, device.StartLongTerm(At, Lab.Page, 4));
        Assert.Equal(Errno.EFAULT, device.StartLongTerm(At, 8 * Lab.Page, 3));
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
        Assert.Equal(Errno.None, device.StartLongTerm(At, 4 * Lab.Page, 3));
        Assert.Equal(Errno.EINVAL, device.StartLongTerm(At, 4 * Lab.Page, 3));
        Assert.Equal(Errno.None, device.Read(bytes));
        Assert.Equal(7, bytes[Lab.Page]);
        device.Stop();
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
    }

    [Fact]
    public void Row_139_gup_test_on_a_bad_address_answers_no_error_and_no_bytes()
    {
        using var lab = new Lab();
        using var device = new GupTest(lab.Machine, lab.Space);
        foreach (var call in new[] { GupCall.GetUserPages, GupCall.PinUserPages, GupCall.PinUserPagesFast })
            Assert.Equal(new GupTestResult(Errno.None, 0, true), device.Run(call, GupFlags.None, At, 4 * Lab.Page, 2));
        lab.Anon(At, 3);
        // A short call counts its whole chunk.
        Assert.Equal(4 * Lab.Page, device.Run(GupCall.PinUserPages, GupFlags.None, At, 8 * Lab.Page, 2).Bytes);
    }

    [Fact]
    public void Row_140_gup_test_zeroes_page_numbers_past_the_end()
    {
        using var lab = new Lab();
        lab.Anon(At, 8);
        using var device = new GupTest(lab.Machine, lab.Space);
        var which = new uint[] { 1, 8, 9, 0x1000, 0, 0, 0, 0 };
        var pages = device.Dump(isPin: true, At, 8 * Lab.Page, which);
        Assert.Equal(new uint[] { 1, 8, 0, 0, 0, 0, 0, 0 }, which);
        Assert.Equal([lab.ViewAt(At).Pfn, lab.ViewAt(At + (7 * Lab.Page)).Pfn], pages.Select(page => page.Pfn));
    }

    /// <summary>gup_longterm's io_uring cases: a fixed buffer is a writable long-term pin.</summary>
    [Theory]
    [InlineData(FileKind.Shmem)]
    [InlineData(FileKind.Disk)]
    [InlineData(FileKind.HugeTlb)]
    public void Gup_longterm_by_io_uring(FileKind kind)
    {
        foreach (var isShared in new[] { true, false })
        {
            using var lab = new Lab("6.18", options => options with { HugePages2M = kind == FileKind.HugeTlb ? 4 : 0 });
            var size = kind == FileKind.HugeTlb ? Huge : Lab.Page;
            var file = lab.Machine.CreateFile("/f", kind, size, kind == FileKind.HugeTlb ? 9 : 0)!;
            lab.MapFile(At, (int)(size / Lab.Page), file, isShared
                ? MapFlags.Shared
                : MapFlags.Private, Prot.Read | Prot.Write);
            var ring = lab.Machine.SetupRing(lab.Space, out _)!;
            var mayFail = kind == FileKind.Disk && isShared;
            Assert.Equal(mayFail ? Errno.EFAULT : Errno.None, ring.Register((At, Lab.Page)).Error);
        }
    }

    /// <summary>
    /// gup_longterm: shared writable long-term pins work on memory files and fail on a disk file; all else works.
    /// </summary>
    [Theory]
    [InlineData(FileKind.Shmem)]
    [InlineData(FileKind.Disk)]
    [InlineData(FileKind.HugeTlb)]
    public void Gup_longterm(FileKind kind)
    {
        foreach (var isShared in new[] { true, false })
            foreach (var isWrite in new[] { true, false })
                foreach (var call in new[] { GupCall.PinUserPages, GupCall.PinUserPagesFast })
                {
                    using var lab = new Lab(
                        "6.18", options => options with { HugePages2M = kind == FileKind.HugeTlb ? 4 : 0 });
                    var size = kind == FileKind.HugeTlb ? Huge : Lab.Page;
                    var file = lab.Machine.CreateFile("/f", kind, size, kind == FileKind.HugeTlb ? 9 : 0)!;
                    lab.MapFile(At, (int)(size / Lab.Page), file, isShared
                        ? MapFlags.Shared
                        : MapFlags.Private, Prot.Read | Prot.Write);
                    var flags = GupFlags.LongTerm | (isWrite ? GupFlags.Write : 0);
                    var result = lab.Gup(call, At, 1, flags, out var vector).Result;
                    var mayFail = kind == FileKind.Disk && isShared && isWrite;
                    Assert.True(result.Raw == (mayFail ? -(long)Errno.EFAULT : 1),
                        $"shared {isShared}, write {isWrite}, {call}: {result.Raw}");
                    lab.Drop(vector);
                }
    }

    /// <summary>pfnmap: what may not be done to memory without pages, and what may.</summary>
    [Fact]
    public void Pfnmap()
    {
        using var lab = new Lab("6.18");
        lab.Device(At, 8, DeviceMapping.PfnMap, isRam: false);
        foreach (var advice in new[]
        {
            Advice.DontNeed, Advice.DontNeedLocked, Advice.Free, Advice.WipeOnFork, Advice.Cold, Advice.PageOut,
            Advice.PopulateRead,
            Advice.PopulateWrite,
        })
            Assert.Equal(Errno.EINVAL, lab.Machine.Madvise(lab.Space, At, 8 * Lab.Page, advice).Error);
        Assert.True(
            lab.Machine.Mremap(lab.Space, At, 8 * Lab.Page, 8 * Lab.Page, MremapFlags.MayMove | MremapFlags.Fixed,
                At + (32 * Lab.Page)).IsOk);
        var moved = At + (32 * Lab.Page);
        Assert.True(lab.Machine.Mremap(lab.Space, moved, 8 * Lab.Page, 4 * Lab.Page, MremapFlags.None).IsOk);
        Assert.Equal(
            Errno.EFAULT, lab.Machine.Mremap(lab.Space, moved, 4 * Lab.Page, 8 * Lab.Page, MremapFlags.MayMove).Error);
        Assert.True(lab.Machine.Munmap(lab.Space, moved + Lab.Page, Lab.Page).IsOk);
        Assert.Equal(UserSignal.None, lab.Machine.Touch(lab.Space, moved, isWrite: false));
        var child = lab.Fork();
        Assert.Equal(UserSignal.None, lab.Machine.Touch(child, moved, isWrite: false));
    }

    /// <summary>madv_populate: protections, holes, and what is there afterwards.</summary>
    [Fact]
    public void Madv_populate()
    {
        using var lab = new Lab("6.18");
        lab.Anon(At, 4, Prot.Read, written: false);
        Assert.Equal(Errno.EINVAL, lab.Machine.Madvise(lab.Space, At, 4 * Lab.Page, Advice.PopulateWrite).Error);
        Assert.True(lab.Machine.Madvise(lab.Space, At, 4 * Lab.Page, Advice.PopulateRead).IsOk);
        lab.Anon(At, 4, Prot.None, written: false);
        Assert.Equal(Errno.EINVAL, lab.Machine.Madvise(lab.Space, At, 4 * Lab.Page, Advice.PopulateRead).Error);
        lab.Anon(At, 4, written: false);
        Assert.True(lab.Machine.Munmap(lab.Space, At + (2 * Lab.Page), Lab.Page).IsOk);
        foreach (var advice in new[] { Advice.PopulateRead, Advice.PopulateWrite })
            foreach (var (first, pages) in new[] { (0UL, 4UL), (2UL, 2UL), (0UL, 3UL) })
                Assert.Equal(Errno.ENOMEM,
                    lab.Machine.Madvise(lab.Space, At + (first * Lab.Page), pages * Lab.Page, advice).Error);
        lab.Anon(At, 4, written: false);
        Assert.True(lab.Machine.Madvise(lab.Space, At, 4 * Lab.Page, Advice.PopulateWrite).IsOk);
        Assert.All(lab.Machine.Pagemap(lab.Space, At, 4), entry => Assert.True(entry >> 63 != 0));
    }

    /// <summary>
    /// madv_populate's test_softdirty: reading in leaves pages as not stored to, populating for writes makes them so.
    /// </summary>
    [Fact]
    public void Madv_populate_and_soft_dirty()
    {
        using var lab = new Lab("6.18", options => options with { TracksSoftDirty = true, AuditsEachCommand = true });
        lab.Anon(At, 512, written: false);
        AssertSoftDirty(lab, isDirty: true);
        Assert.Equal(Errno.None, lab.Machine.ClearSoftDirty(lab.Space));
        AssertSoftDirty(lab, isDirty: false);
        Assert.True(lab.Machine.Madvise(lab.Space, At, Huge, Advice.PopulateRead).IsOk);
        AssertSoftDirty(lab, isDirty: false);
        Assert.True(lab.Machine.Madvise(lab.Space, At, Huge, Advice.PopulateWrite).IsOk);
        AssertSoftDirty(lab, isDirty: true);
        Assert.Equal(Errno.None, lab.Machine.ClearSoftDirty(lab.Space));
        AssertSoftDirty(lab, isDirty: false);
    }

    private static void AssertSoftDirty(Lab lab, bool isDirty) =>
        Assert.All(lab.Machine.Pagemap(lab.Space, At, 512), entry => Assert.Equal(isDirty, (entry & (1UL << 55)) != 0));
}
