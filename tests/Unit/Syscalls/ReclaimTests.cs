using FramePin.Core.Abi;
using FramePin.Core.Backing;
using FramePin.Core.Pinning;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>
/// MADV_PAGEOUT, MADV_FREE and compaction: what goes, what stays for whom, and that nothing is lost (Semantics
/// 3.10).
/// </summary>
public sealed class ReclaimTests
{
    private const ulong At = 0x10000;
    private const ulong Other = 0x40000;
    private const ulong Page = Lab.Page;
    private const Prot Rw = Prot.Read | Prot.Write;

    [Fact]
    public void A_clean_file_page_goes_to_the_disk_and_comes_back()
    {
        using var lab = new Lab();
        var file = WrittenFile(lab, 2);
        lab.MapFile(At, 2, file, MapFlags.Shared, Rw);
        lab.Load(At, 2);
        PageOut(lab, At, 2);
        Assert.Null(lab.Machine.Translate(lab.Space, At));
        Assert.Equal(0UL, file.CachedFrames);
        Span<byte> one = stackalloc byte[1];
        Assert.Equal(1, lab.Machine.ReadFile(file, Page, one));
        Assert.Equal(2, one[0]);
        Assert.Equal(1, lab.Peek(At));
    }

    [Fact]
    public void A_page_on_the_disk_is_truncated_punched_and_written_as_one_in_the_cache()
    {
        using var lab = new Lab();
        var file = WrittenFile(lab, 4);
        lab.MapFile(At, 4, file, MapFlags.Shared, Rw);
        lab.Load(At, 4);
        PageOut(lab, At, 4);
        Assert.Equal(Errno.None, lab.Machine.PunchHole(file, 0, Page + 1));
        Assert.Equal(Errno.None, lab.Machine.Truncate(file, (2 * Page) + 1));
        Assert.Equal(Errno.None, lab.Machine.Truncate(file, 4 * Page));
        Assert.Equal(0, lab.Peek(At));
        Assert.Equal(0, lab.Peek(At + Page));
        Assert.Equal(3, lab.Peek(At + (2 * Page)));
        Assert.Equal(0, lab.Peek(At + (3 * Page)));
        lab.Machine.Fsync(file);
        PageOut(lab, At, 4);
        Assert.Equal(1, lab.Machine.WriteFile(file, (2 * Page) + 1, [9], out _));
        Assert.Equal(3, lab.Peek(At + (2 * Page)));
        Assert.Equal(9, lab.Peek(At + (2 * Page) + 1));
    }

    [Theory]
    [InlineData(FileKind.Disk)]
    [InlineData(FileKind.Shmem)]
    public void A_dirty_page_is_unmapped_and_stays_in_the_cache(FileKind kind)
    {
        using var lab = new Lab();
        lab.File(At, 1, kind, MapFlags.Shared, Rw);
        lab.Poke(At, 5);
        var before = lab.ViewAt(At).Pfn;
        PageOut(lab, At, 1);
        Assert.Null(lab.Machine.Translate(lab.Space, At));
        Assert.Equal(5, lab.Peek(At));
        Assert.Equal(before, lab.ViewAt(At).Pfn);
    }

    [Fact]
    public void A_pinned_page_stays_for_its_pin_and_for_the_file()
    {
        using var lab = new Lab();
        var file = WrittenFile(lab, 1);
        lab.MapFile(At, 1, file, MapFlags.Shared, Prot.Read);
        Assert.Equal(1, lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.None, out var vector).Result.Raw);
        PageOut(lab, At, 1);
        Assert.Equal(1UL, file.CachedFrames);
        Assert.Equal(lab.View(vector).Pfn, LoadedPfn(lab));
        lab.Drop(vector);
    }

    [Fact]
    public void What_two_map_is_left_alone()
    {
        using var lab = new Lab();
        var file = WrittenFile(lab, 1);
        lab.MapFile(At, 1, file, MapFlags.Shared, Rw);
        lab.MapFile(Other, 1, file, MapFlags.Shared, Rw);
        lab.Load(At, 1);
        lab.Load(Other, 1);
        PageOut(lab, At, 1);
        Assert.NotNull(lab.Machine.Translate(lab.Space, At));
    }

    [Fact]
    public void Freed_memory_is_dropped_unless_somebody_stored_to_it_or_holds_it()
    {
        using var lab = new Lab();
        lab.Anon(At, 3);
        for (var page = 0UL; page < 3; page++) lab.Poke(At + (page * Page), 7);
        Assert.Equal(
            1, lab.Gup(GupCall.PinUserPagesFast, At + (2 * Page), 1, GupFlags.Write, out var vector).Result.Raw);
        Assert.True(lab.Machine.Madvise(lab.Space, At, 3 * Page, Advice.Free).IsOk);
        lab.Poke(At + Page, 8);
        PageOut(lab, At, 3);
        Assert.Equal(0, lab.Peek(At));
        Assert.Equal(8, lab.Peek(At + Page));
        Assert.Equal(7, lab.Peek(At + (2 * Page)));
        lab.Drop(vector);
    }

    [Fact]
    public void Droppable_memory_is_dropped_though_it_was_stored_to()
    {
        using var lab = new Lab();
        Assert.True(lab.Map(At, 1, Rw, MapFlags.Anonymous | MapFlags.Droppable | MapFlags.Fixed).IsOk);
        lab.Poke(At, 7);
        PageOut(lab, At, 1);
        Assert.Equal(0, lab.Peek(At));
    }

    [Fact]
    public void Compaction_moves_everything_but_what_is_held_and_changes_no_byte()
    {
        using var lab = new Lab(configure: options => options with { AuditsEachCommand = true });
        lab.Anon(At, 16);
        lab.File(Other, 4, FileKind.Shmem, MapFlags.Shared, Rw);
        for (var page = 0UL; page < 16; page++) lab.Poke(At + (page * Page), (byte)(page + 1));
        for (var page = 0UL; page < 4; page++) lab.Poke(Other + (page * Page), (byte)(page + 101));
        var child = lab.Fork();
        Assert.Equal(4, lab.Gup(GupCall.PinUserPagesFast, At, 4, GupFlags.Write, out var pinned).Result.Raw);
        Assert.Equal(2, lab.Gup(GupCall.GetUserPagesFast, Other, 2, GupFlags.Write, out var got).Result.Raw);
        var heldBefore = Enumerable.Range(0, 4).Select(slot => lab.View(pinned, slot).Pfn).ToList();
        Assert.Equal(18, lab.Machine.Compact());
        Assert.Equal(heldBefore, Enumerable.Range(0, 4).Select(page => lab.ViewAt(At + ((ulong)page * Page)).Pfn));
        Assert.Equal(lab.View(got).Pfn, lab.ViewAt(Other).Pfn);
        for (var page = 0UL; page < 16; page++)
        {
            Assert.Equal((byte)(page + 1), lab.Peek(At + (page * Page)));
            Assert.Equal((byte)(page + 1), lab.Peek(At + (page * Page), child));
        }

        for (var page = 0UL; page < 4; page++) Assert.Equal((byte)(page + 101), lab.Peek(Other + (page * Page)));
        lab.Drop(pinned, got);
    }

    private static Core.Addressing.Pfn LoadedPfn(Lab lab)
    {
        lab.Load(At, 1);
        return lab.ViewAt(At).Pfn;
    }

    /// <summary>A disk file whose page i begins with i + 1, written back.</summary>
    private static MemoryFile WrittenFile(Lab lab, int pages)
    {
        var file = lab.Machine.CreateFile("/f", FileKind.Disk, (ulong)pages * Page)!;
        for (var page = 0; page < pages; page++)
            Assert.Equal(1, lab.Machine.WriteFile(file, (ulong)page * Page, [(byte)(page + 1)], out _));
        lab.Machine.Fsync(file);
        return file;
    }

    private static void PageOut(Lab lab, ulong address, int pages) =>
        Assert.True(lab.Machine.Madvise(lab.Space, address, (ulong)pages * Page, Advice.PageOut).IsOk);
}
