using FramePin.Core.Abi;
using FramePin.Core.Backing;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>
/// Swap (mm/memory.c: do_swap_page) and soft-dirty bits: who shares what when it comes back, and who keeps it from
/// going.
/// </summary>
public sealed class SwapTests
{
    private const ulong At = 0x4000_0000;
    private const ulong Page = Lab.Page;
    private const ulong Swapped = 1UL << 62;
    private const ulong SoftDirty = 1UL << 55;

    [Fact]
    public void What_goes_out_frees_its_frame_and_comes_back_with_its_bytes_alone()
    {
        using var lab = Swapping();
        lab.Anon(At, 2);
        lab.Poke(At, 7);
        var free = lab.Machine.Statistics().FreeFrames;
        PageOut(lab, At, 2);
        Assert.Equal(free + 2, lab.Machine.Statistics().FreeFrames);
        Assert.Equal(
            2 * Page, lab.Machine.Maps(lab.Space, withUsage: true).Single(entry => entry.Range.Contains(At)).Swap);
        Assert.Equal([0, 0], Residency(lab, At, 2));
        Assert.Equal(7, lab.Peek(At));
        // Read back for it alone: a read-only pin needs no copy.
        Assert.Equal(1, lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.None, out var vector).Result.Raw);
        lab.Poke(At, 8);
        Assert.Equal(8, lab.PeekFrame(vector));
        lab.Drop(vector);
    }

    [Fact]
    public void After_fork_both_find_the_page_and_the_writer_gets_a_copy()
    {
        using var lab = Swapping();
        lab.Anon(At, 1);
        lab.Poke(At, 7);
        PageOut(lab, At, 1);
        var child = lab.Fork();
        Assert.Equal(7, lab.Peek(At, child));
        // The child's is in the swap cache, where the parent finds it: resident, though not mapped.
        Assert.Equal([1], Residency(lab, At, 1));
        lab.Poke(At, 8);
        Assert.Equal(7, lab.Peek(At, child));
        Assert.Equal(8, lab.Peek(At));
        Assert.NotEqual(lab.ViewAt(At).Pfn, lab.ViewAt(At, child).Pfn);
    }

    [Fact]
    public void The_last_user_of_a_slot_writes_to_the_cached_page_itself()
    {
        using var lab = Swapping();
        lab.Anon(At, 1);
        PageOut(lab, At, 1);
        var child = lab.Fork();
        lab.Load(At, 1);
        var frame = lab.ViewAt(At).Pfn;
        lab.Machine.Exit(child);
        lab.Poke(At, 8);
        Assert.Equal(frame, lab.ViewAt(At).Pfn);
    }

    [Fact]
    public void A_page_that_somebody_holds_stays_in_the_cache_and_a_pinned_one_is_not_touched()
    {
        using var lab = Swapping();
        lab.Anon(At, 2);
        Assert.Equal(1, lab.Gup(GupCall.GetUserPagesFast, At, 1, GupFlags.None, out var got).Result.Raw);
        Assert.Equal(1, lab.Gup(GupCall.PinUserPagesFast, At + Page, 1, GupFlags.None, out var pinned).Result.Raw);
        PageOut(lab, At, 2);
        Assert.Equal(Swapped, lab.Machine.Pagemap(lab.Space, At, 1)[0] & Swapped);
        Assert.Equal(lab.View(pinned).Pfn, lab.ViewAt(At + Page).Pfn);
        Assert.Equal([1, 1], Residency(lab, At, 2));
        lab.Load(At, 1);
        Assert.Equal(lab.View(got).Pfn, lab.ViewAt(At).Pfn);
        lab.Drop(got, pinned);
    }

    [Fact]
    public void A_pin_faults_in_what_is_out()
    {
        using var lab = Swapping();
        lab.Anon(At, 4);
        for (var page = 0UL; page < 4; page++) lab.Poke(At + (page * Page), (byte)(page + 1));
        PageOut(lab, At, 4);
        Assert.Equal(
            4, lab.Gup(GupCall.PinUserPagesFast, At, 4, GupFlags.Write | GupFlags.LongTerm, out var vector).Result.Raw);
        for (var page = 0; page < 4; page++) Assert.Equal(page + 1, lab.PeekFrame(vector, page));
        lab.Drop(vector);
    }

    [Fact]
    public void WillNeed_reads_back_and_maps_nothing()
    {
        using var lab = Swapping();
        lab.Anon(At, 1);
        lab.File(2 * At, 1, FileKind.Shmem, MapFlags.Shared, Prot.Read | Prot.Write);
        lab.Poke(2 * At, 9);
        foreach (var at in new[] { At, 2 * At })
        {
            PageOut(lab, at, 1);
            Assert.Equal([0], Residency(lab, at, 1));
            Assert.True(lab.Machine.Madvise(lab.Space, at, Page, Advice.WillNeed).IsOk);
            Assert.Equal([1], Residency(lab, at, 1));
            Assert.Null(lab.Machine.Translate(lab.Space, at));
        }

        Assert.Equal(9, lab.Peek(2 * At));
    }

    [Fact]
    public void A_memory_file_keeps_what_went_out_through_read_truncate_and_punch()
    {
        using var lab = Swapping();
        var file = lab.Machine.CreateFile("/f", FileKind.Shmem, 4 * Page)!;
        lab.MapFile(At, 4, file, MapFlags.Shared, Prot.Read | Prot.Write);
        for (var page = 0UL; page < 4; page++) lab.Poke(At + (page * Page), (byte)(page + 1));
        PageOut(lab, At, 4);
        Assert.Equal(0UL, file.CachedFrames);
        Span<byte> one = stackalloc byte[1];
        Assert.Equal(1, lab.Machine.ReadFile(file, Page, one));
        Assert.Equal(2, one[0]);
        Assert.Equal(1UL, file.CachedFrames);
        Assert.Equal(Errno.None, lab.Machine.PunchHole(file, 0, Page));
        Assert.Equal(Errno.None, lab.Machine.Truncate(file, (2 * Page) + 1));
        Assert.Equal(Errno.None, lab.Machine.Truncate(file, 4 * Page));
        Assert.Equal([0, 2, 3, 0], Enumerable.Range(0, 4).Select(page => (int)lab.Peek(At + ((ulong)page * Page))));
    }

    [Fact]
    public void Full_swap_keeps_what_does_not_fit_and_half_full_swap_gives_slots_up()
    {
        using var lab = Swapping(pages: 2);
        lab.Anon(At, 3);
        PageOut(lab, At, 3);
        Assert.Equal([Swapped, Swapped, 0], lab.Machine.Pagemap(lab.Space, At, 3).Select(entry => entry & Swapped));
        // Both have the first page in memory again; its slot is given up, since swap is short, and the third page gets
        // it.
        var child = lab.Fork();
        lab.Load(At, 1);
        lab.Peek(At, child);
        lab.Machine.Exit(child);
        lab.Poke(At + (2 * Page), 1);
        PageOut(lab, At + (2 * Page), 1);
        Assert.Equal([0, Swapped, Swapped], lab.Machine.Pagemap(lab.Space, At, 3).Select(entry => entry & Swapped));
    }

    [Fact]
    public void MADV_FREE_DONTNEED_and_guards_drop_what_is_out()
    {
        foreach (var advice in new[] { Advice.Free, Advice.DontNeed, Advice.GuardInstall })
        {
            using var lab = Swapping();
            lab.Anon(At, 1);
            lab.Poke(At, 7);
            PageOut(lab, At, 1);
            Assert.True(lab.Machine.Madvise(lab.Space, At, Page, advice).IsOk);
            if (advice == Advice.GuardInstall)
                Assert.True(lab.Machine.Madvise(lab.Space, At, Page, Advice.GuardRemove).IsOk);
            Assert.Equal(0, lab.Peek(At));
        }
    }

    [Fact]
    public void What_is_out_moves_with_mremap_and_survives_mprotect()
    {
        using var lab = Swapping();
        lab.Anon(At, 1);
        lab.Poke(At, 7);
        PageOut(lab, At, 1);
        Assert.True(lab.Machine.Mprotect(lab.Space, At, Page, Prot.Read).IsOk);
        Assert.True(
            lab.Machine.Mremap(lab.Space, At, Page, Page, MremapFlags.MayMove | MremapFlags.Fixed, 2 * At).IsOk);
        Assert.Equal(7, lab.Peek(2 * At));
        Assert.Equal(UserSignal.SigSegvAccErr, lab.Machine.Touch(lab.Space, 2 * At, isWrite: true));
    }

    [Fact]
    public void A_write_protected_page_stays_protected_through_swap()
    {
        using var lab = Swapping();
        lab.Anon(At, 1);
        var fd = lab.Machine.CreateUserfaultfd(lab.Space, out _)!;
        Assert.True(lab.Machine.RegisterUffd(fd, At, Page, UffdModes.WriteProtect).IsOk);
        Assert.True(lab.Machine.WriteProtectUffd(fd, At, Page, isOn: true).IsOk);
        PageOut(lab, At, 1);
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(lab.Space, At, isWrite: true));
        Assert.True(lab.Machine.WriteProtectUffd(fd, At, Page, isOn: false).IsOk);
        Assert.Equal(UserSignal.None, lab.Machine.Touch(lab.Space, At, isWrite: true));
    }

    [Fact]
    public void Stores_are_noticed_after_the_bits_were_cleared()
    {
        using var lab = new Lab(
            configure: options => options with { TracksSoftDirty = true, Swap = 1UL << 20, AuditsEachCommand = true });
        lab.Anon(At, 4);
        Assert.Contains("sd", lab.Machine.Maps(lab.Space).Single(entry => entry.Range.Contains(At)).VmFlagLetters(),
            StringComparison.Ordinal);
        Assert.Equal(Errno.None, lab.Machine.ClearSoftDirty(lab.Space));
        lab.Poke(At, 1);
        lab.Load(At + Page, 1);
        // Neither a round trip through mprotect nor one through swap makes up a store, or forgets one.
        Assert.True(lab.Machine.Mprotect(lab.Space, At, 4 * Page, Prot.Read).IsOk);
        Assert.True(lab.Machine.Mprotect(lab.Space, At, 4 * Page, Prot.Read | Prot.Write).IsOk);
        PageOut(lab, At, 4);
        lab.Load(At, 4);
        Assert.Equal([true, false, false, false], Dirty(lab, At, 4));
        lab.Poke(At + (2 * Page), 1);
        Assert.Equal([true, false, true, false], Dirty(lab, At, 4));
        var child = lab.Fork();
        lab.Machine.Write(child, At + (3 * Page), [1], out _);
        Assert.Equal([true, false, true, false], Dirty(lab, At, 4));
        // A new area beside it makes the joined one new.
        lab.Anon(At + (4 * Page), 1, written: false);
        Assert.Equal([true, true, true, true, true], Dirty(lab, At, 5));
    }

    [Fact]
    public void A_writable_pin_keeps_its_page_soft_dirty()
    {
        using var lab = new Lab(
            configure: options => options with { TracksSoftDirty = true, AuditsEachCommand = true });
        lab.Anon(At, 2);
        Assert.Equal(1, lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.Write, out var vector).Result.Raw);
        Assert.Equal(Errno.None, lab.Machine.ClearSoftDirty(lab.Space));
        Assert.Equal([true, false], Dirty(lab, At, 2));
        lab.Drop(vector);
    }

    private static Lab Swapping(ulong pages = 1024) =>
        new(configure: options => options with { Swap = pages * Page, AuditsEachCommand = true });

    private static void PageOut(Lab lab, ulong address, int pages) =>
        Assert.True(lab.Machine.Madvise(lab.Space, address, (ulong)pages * Page, Advice.PageOut).IsOk);

    private static byte[] Residency(Lab lab, ulong address, int pages)
    {
        var residency = new byte[pages];
        Assert.True(lab.Machine.Mincore(lab.Space, address, (ulong)pages * Page, residency).IsOk);
        return residency;
    }

    private static IEnumerable<bool> Dirty(Lab lab, ulong address, int pages) =>
        lab.Machine.Pagemap(lab.Space, address, pages).Select(entry => (entry & SoftDirty) != 0);
}
