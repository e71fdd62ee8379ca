using FramePin.Core.Abi;
using FramePin.Core.Backing;
using FramePin.Core.Syscalls;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>remap_file_pages (Semantics 4.9), by the answers that a kernel 6.18 gave to the same calls.</summary>
public sealed class RemapFilePagesTests
{
    private const ulong At = 0x2000_0000;
    private const Prot ReadWrite = Prot.Read | Prot.Write;

    [Fact]
    public void Other_pages_of_the_file_are_mapped_in_place()
    {
        using var lab = new Lab();
        Map(lab, At, 8, ReadWrite);

        Assert.Equal(SyscallResult.Ok(), Remap(lab, At + Lab.Page, 2, 10));

        Assert.Equal(
            ["20000000-20001000 rw-s 00000000", "20001000-20003000 rw-s 0000a000", "20003000-20008000 rw-s 00003000"],
            Lines(lab));
    }

    [Fact]
    public void The_range_may_lie_over_several_areas_of_the_file()
    {
        using var lab = new Lab();
        Map(lab, At, 8, ReadWrite);
        Remap(lab, At + Lab.Page, 2, 10);

        Assert.Equal(SyscallResult.Ok(), Remap(lab, At, 4, 3));

        Assert.Equal(["20000000-20004000 rw-s 00003000", "20004000-20008000 rw-s 00004000"], Lines(lab));
    }

    [Fact]
    public void Pages_are_there_at_once_unless_the_call_says_nonblock()
    {
        using var lab = new Lab();
        Map(lab, At, 4, ReadWrite);
        Remap(lab, At, 2, 4);
        Remap(lab, At + (2 * Lab.Page), 2, 8, MapFlags.NonBlock);

        Assert.NotNull(lab.Machine.Translate(lab.Space, At + Lab.Page));
        Assert.Null(lab.Machine.Translate(lab.Space, At + (2 * Lab.Page)));
    }

    [Fact]
    public void Shared_anonymous_memory_has_pages_to_choose_from_too()
    {
        using var lab = new Lab();
        lab.SharedAnon(At, 4);
        lab.Poke(At + (2 * Lab.Page), 7);

        Assert.Equal(SyscallResult.Ok(), Remap(lab, At, 1, 2));

        Assert.Equal(7, lab.Peek(At));
    }

    [Fact]
    public void A_mapping_without_write_keeps_its_rights()
    {
        using var lab = new Lab();
        Map(lab, At, 4, Prot.Read);

        Assert.Equal(SyscallResult.Ok(), Remap(lab, At, 1, 7));

        Assert.Equal(["20000000-20001000 r--s 00007000", "20001000-20004000 r--s 00001000"], Lines(lab));
    }

    [Fact]
    public void The_start_and_the_size_are_rounded_down()
    {
        using var lab = new Lab();
        Map(lab, At, 4, ReadWrite);

        Assert.Equal(SyscallResult.Ok(), Call(lab, At + 100, Lab.Page + 5, 0, 5));

        Assert.Equal(["20000000-20001000 rw-s 00005000", "20001000-20004000 rw-s 00001000"], Lines(lab));
    }

    [Theory]
    [InlineData(At, Lab.Page, Prot.Read, 0UL)]
    [InlineData(At, 0UL, Prot.None, 0UL)]
    [InlineData(At, 100UL, Prot.None, 0UL)]
    [InlineData(At, 2 * Lab.Page, Prot.None, ulong.MaxValue)]
    [InlineData(At + 0x10_0000, Lab.Page, Prot.None, 0UL)]
    [InlineData(At + (6 * Lab.Page), 4 * Lab.Page, Prot.None, 0UL)]
    public void Bad_arguments_and_holes_are_refused(ulong start, ulong size, Prot prot, ulong pageOffset)
    {
        using var lab = new Lab();
        Map(lab, At, 8, ReadWrite);
        Assert.Equal(Errno.EINVAL, Call(lab, start, size, prot, pageOffset).Error);
    }

    [Fact]
    public void Private_memory_and_areas_with_other_flags_are_refused()
    {
        using var lab = new Lab();
        lab.File(At, 4, FileKind.Shmem, MapFlags.Private, ReadWrite);
        Assert.Equal(Errno.EINVAL, Remap(lab, At, 1, 1).Error);
        const ulong other = At + 0x10_0000;
        Map(lab, other, 8, ReadWrite);
        lab.Machine.Mprotect(lab.Space, other + (4 * Lab.Page), Lab.Page, Prot.Read);
        Assert.Equal(Errno.EINVAL, Remap(lab, other + (3 * Lab.Page), 3, 0).Error);
    }

    [Fact]
    public void A_sealed_area_stays()
    {
        using var lab = new Lab();
        Map(lab, At, 2, ReadWrite);
        lab.Machine.Mseal(lab.Space, At, Lab.Page, 0);
        Assert.Equal(Errno.EPERM, Remap(lab, At, 1, 3).Error);
    }

    private static void Map(Lab lab, ulong at, int pages, Prot prot) =>
        lab.File(at, pages, FileKind.Shmem, MapFlags.Shared, prot, filePages: 16);

    private static SyscallResult Remap(Lab lab, ulong at, int pages, ulong pageOffset, MapFlags flags = 0) =>
        lab.Machine.Call(new RemapFilePagesCall(
            lab.Space.Id, at, (ulong)pages * Lab.Page, Prot.None, pageOffset, flags));

    private static SyscallResult Call(Lab lab, ulong start, ulong size, Prot prot, ulong pageOffset) =>
        lab.Machine.Call(new RemapFilePagesCall(lab.Space.Id, start, size, prot, pageOffset, 0));

    private static string[] Lines(Lab lab) =>
        [.. lab.Machine.Maps(lab.Space)
            .Select(entry => entry.ToMapsLine()[.."20000000-20001000 rw-s 00000000".Length])];
}
