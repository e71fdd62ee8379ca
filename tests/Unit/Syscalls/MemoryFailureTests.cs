using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>
/// Poison belongs to the frame (Semantics 3.7, 3.10): fault A6 of the list of faults found from outside.
/// </summary>
public sealed class MemoryFailureTests
{
    private const ulong At = 0x4000_0000;
    private const ulong Other = 0x6000_0000;
    private const ulong Page = Lab.Page;
    private const ulong Huge = PageGeometry.PmdSize;
    private const Prot Rw = Prot.Read | Prot.Write;

    private static Lab Admin()
    {
        var lab = new Lab(configure: options => options with { HugePages2M = 4 });
        lab.Machine.SetTask(lab.Space, lab.Space.Task with { IsAdmin = true });
        return lab;
    }

    /// <summary>A6: fork succeeds, and the poison entry goes to the child.</summary>
    [Fact]
    public void A6_a_child_inherits_the_poison()
    {
        using var lab = Admin();
        lab.Anon(At, 3);
        Poison(lab, At + Page);
        var child = lab.Fork();
        Assert.Equal(UserSignal.SigBusPoison, lab.Machine.Touch(child, At + Page, isWrite: false));
        Assert.Equal(UserSignal.SigBusPoison, lab.Machine.Touch(lab.Space, At + Page, isWrite: true));
        Assert.Equal(UserSignal.None, lab.Machine.Touch(child, At, isWrite: true));
        Assert.Equal(UserSignal.None, lab.Machine.Touch(child, At + (2 * Page), isWrite: true));
    }

    /// <summary>A6: who shares the page by fork loses it too, and a pin there fails.</summary>
    [Fact]
    public void A6_every_space_that_maps_the_frame_loses_it()
    {
        using var lab = Admin();
        lab.Anon(At, 2);
        var child = lab.Fork();
        Poison(lab, At);
        Assert.Equal(UserSignal.SigBusPoison, lab.Machine.Touch(child, At, isWrite: false));
        lab.Space = child;
        AssertPoisoned(lab, At);
        Assert.Equal(UserSignal.None, lab.Machine.Touch(child, At + Page, isWrite: true));
    }

    [Fact]
    public void A6_a_page_of_a_memory_file_is_broken_for_all()
    {
        using var lab = Admin();
        var file = lab.Machine.CreateFile("/memfd", FileKind.Shmem, 4 * Page)!;
        lab.MapFile(At, 4, file, MapFlags.Shared, Rw);
        lab.Write(At, 4);
        lab.MapFile(Other, 4, file, MapFlags.Private, Rw);
        lab.Load(Other, 4);
        lab.Poke(Other + (2 * Page), 1);
        var child = lab.Fork();
        Poison(lab, At + Page);
        foreach (var space in new[] { lab.Space, child })
        {
            foreach (var at in new[] { At + Page, Other + Page })
                Assert.Equal(UserSignal.SigBusPoison, lab.Machine.Touch(space, at, isWrite: false));
            Assert.Equal(UserSignal.None, lab.Machine.Touch(space, Other + (2 * Page), isWrite: true));
        }

        AssertPoisoned(lab, Other + Page);
        // A new mapping meets it too, and so do reads and writes of the file.
        lab.MapFile(At + Huge, 4, file, MapFlags.Shared, Rw);
        Assert.Equal(UserSignal.SigBusPoison, lab.Machine.Touch(lab.Space, At + Huge + Page, isWrite: true));
        Assert.Equal(Errno.EIO, Read(lab, file, Page).Error);
        Assert.Equal(Page - 8, Read(lab, file, 8, 2 * (int)Page).Value);
        Assert.Equal(Errno.EIO, lab.Machine.Execute<WriteFileCall, WriteFileResult>(
            new(new FileId(file.Id), Page, new byte[1])).Error);
        Assert.True(Read(lab, file, 2 * Page).IsOk);
        // A hole takes the broken page out of the file.
        lab.Machine.PunchHole(file, Page, Page);
        Assert.True(Read(lab, file, Page).IsOk);
    }

    /// <summary>A clean page of a disk file is read again; a dirty one is lost, and its entries say so.</summary>
    [Theory]
    [InlineData(false, UserSignal.None)]
    [InlineData(true, UserSignal.SigBusPoison)]
    public void A6_a_page_of_a_disk_file(bool isDirty, UserSignal expected)
    {
        using var lab = Admin();
        var file = lab.Machine.CreateFile("/disk", FileKind.Disk, 2 * Page)!;
        lab.MapFile(At, 2, file, MapFlags.Shared, Rw);
        lab.Load(At, 2);
        if (isDirty) lab.Poke(At, 1);
        Poison(lab, At);
        Assert.Equal(expected, lab.Machine.Touch(lab.Space, At, isWrite: false));
        Assert.True(Read(lab, file, 0).IsOk);
    }

    [Theory]
    [InlineData(MapFlags.Private)]
    [InlineData(MapFlags.Shared)]
    public void A6_a_huge_page_of_hugetlbfs_is_broken_whole(MapFlags type)
    {
        using var lab = Admin();
        var file = lab.Machine.CreateFile("/huge", FileKind.HugeTlb, Huge, PageGeometry.PmdOrder)!;
        lab.MapFile(At, 512, file, type, Rw);
        lab.Poke(At, 1);
        var child = lab.Fork();
        Poison(lab, At + (5 * Page));
        foreach (var space in new[] { lab.Space, child })
            Assert.Equal(UserSignal.SigBusPoison, lab.Machine.Touch(space, At + (9 * Page), isWrite: false));
        AssertPoisoned(lab, At);
        if (type == MapFlags.Shared) Assert.Equal(Errno.EIO, Read(lab, file, 0).Error);
        lab.Machine.Exit(child);
        lab.Machine.Munmap(lab.Space, At, Huge);
        lab.Machine.Unlink(file);
        // It does not come back to the pool.
        Assert.Equal(3, lab.Machine.Context.HugePools[PageGeometry.PmdOrder].Free.Count);
    }

    [Fact]
    public void A6_a_transparent_huge_page_is_split_and_loses_one_page()
    {
        using var lab = Admin();
        lab.Map(At, 512, Rw, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed);
        lab.Machine.Madvise(lab.Space, At, Huge, Advice.HugePage);
        lab.Write(At, 512);
        for (var page = 0UL; page < 8; page++) lab.Poke(At + (page * Page), 1);
        var child = lab.Fork();
        Poison(lab, At + (3 * Page));
        foreach (var space in new[] { lab.Space, child })
        {
            Assert.Equal(UserSignal.SigBusPoison, lab.Machine.Touch(space, At + (3 * Page), isWrite: false));
            Assert.Equal(UserSignal.None, lab.Machine.Touch(space, At + (4 * Page), isWrite: true));
        }
    }

    private static SyscallResult Read(Lab lab, MemoryFile file, ulong offset, int length = 1) =>
        lab.Machine.Call(new ReadFileCall(new FileId(file.Id), offset, new byte[length]));

    private static void Poison(Lab lab, ulong at)
    {
        var result = lab.Machine.Madvise(lab.Space, at, Page, Advice.HwPoison);
        Assert.True(result.IsOk, $"{result}");
    }

    private static void AssertPoisoned(Lab lab, ulong at)
    {
        var outcome = lab.Gup(GupCall.PinUserPagesFast, at, 1, GupFlags.None, out var vector);
        lab.Drop(vector);
        Assert.Equal((Errno.EFAULT, StopReason.Poisoned), (outcome.Result.Error, outcome.Reason));
    }
}
