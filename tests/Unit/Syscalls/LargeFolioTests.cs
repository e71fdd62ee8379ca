using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>
/// Anonymous huge pages that small entries map: who may write to them again after a fork, and what splits them.
/// </summary>
public sealed class LargeFolioTests
{
    private const ulong At = 0x4000_0000;
    private const ulong Page = Lab.Page;

    /// <summary>
    /// wp_can_reuse_anon_folio by kernel: with all 512 pages mapped by the writer alone, and with one of them.
    /// </summary>
    [Theory]
    [InlineData("6.1", 512, false)]
    [InlineData("6.1", 1, true)]
    [InlineData("6.12", 512, false)]
    [InlineData("6.12", 1, false)]
    [InlineData("6.18", 512, true)]
    [InlineData("6.18", 1, false)]
    public void A_write_after_the_child_ended_reuses_the_page_or_not(string profile, int pages, bool isReused)
    {
        using var lab = HugePage(profile);
        if (pages == 1) Advise(lab, At + Page, PageGeometry.PmdSize - Page, Advice.DontNeed);
        else MapSmall(lab);
        lab.Machine.Exit(lab.Fork());
        var before = lab.ViewAt(At).Pfn;
        lab.Poke(At, 2);
        Assert.Equal(isReused, before == lab.ViewAt(At).Pfn);
        Assert.Equal(2, lab.Peek(At));
    }

    [Fact]
    public void Somebody_who_holds_any_page_of_it_makes_a_write_copy()
    {
        using var lab = HugePage("6.18");
        MapSmall(lab);
        lab.Machine.Exit(lab.Fork());
        Assert.Equal(1, lab.Gup(GupCall.GetUserPagesFast, At + (9 * Page), 1, GupFlags.None, out var held).Result.Raw);
        var before = lab.ViewAt(At).Pfn;
        lab.Poke(At, 2);
        Assert.NotEqual(before, lab.ViewAt(At).Pfn);
        lab.Drop(held);
    }

    /// <summary>
    /// Two address spaces are remembered: a third one that is left over does not know that it is alone.
    /// </summary>
    [Fact]
    public void The_third_process_copies_though_it_is_alone()
    {
        using var lab = HugePage("6.18");
        MapSmall(lab);
        var second = lab.Fork("second");
        var third = lab.Fork("third");
        lab.Machine.Exit(second);
        Advise(lab, At, PageGeometry.PmdSize, Advice.DontNeed);
        var before = lab.ViewAt(At, third).Pfn;
        Assert.Equal(1, lab.Machine.Write(third, At, [2], out _));
        Assert.NotEqual(before, lab.ViewAt(At, third).Pfn);
    }

    [Theory]
    [InlineData("6.1", false)]
    [InlineData("6.18", true)]
    public void Advice_for_a_part_splits_it_and_its_zero_pages_give_way_to_the_zero_page(
        string profile, bool dropsZeroes)
    {
        foreach (var advice in new[] { Advice.PageOut, Advice.Cold, Advice.Free })
        {
            using var lab = HugePage(profile);
            lab.Poke(At + (3 * Page), 3);
            var free = lab.Machine.Statistics().FreeFrames;
            Advise(lab, At + (8 * Page), Page, advice);
            Assert.Equal(0, lab.ViewAt(At).Order);
            Assert.Equal(dropsZeroes, (lab.ViewAt(At + (5 * Page)).Flags & FrameFlags.Zero) != 0);
            // All pages but two hold zeroes.
            Assert.Equal(dropsZeroes ? 510UL : 0, lab.Machine.Statistics().FreeFrames - free);
            Assert.Equal([1, 3, 0], new ulong[] { 0, 3, 8 }.Select(page => (int)lab.Peek(At + (page * Page))));
        }
    }

    [Fact]
    public void What_is_held_or_shared_is_not_split()
    {
        using var lab = HugePage("6.18");
        Assert.Equal(1, lab.Gup(GupCall.GetUserPagesFast, At, 1, GupFlags.None, out var held).Result.Raw);
        Advise(lab, At + (8 * Page), Page, Advice.Cold);
        Assert.Equal(9, lab.ViewAt(At).Order);
        lab.Drop(held);
        var child = lab.Fork();
        Advise(lab, At + (8 * Page), Page, Advice.Cold);
        Assert.Equal(9, lab.ViewAt(At).Order);
        lab.Machine.Exit(child);
        Advise(lab, At + (8 * Page), Page, Advice.Cold);
        Assert.Equal(0, lab.ViewAt(At).Order);
    }

    private static Lab HugePage(string profile)
    {
        var lab = new Lab(profile, options => options with { AuditsEachCommand = true });
        lab.Anon(At, 512, written: false);
        Advise(lab, At, PageGeometry.PmdSize, Advice.HugePage);
        lab.Poke(At, 1);
        Assert.Equal(9, lab.ViewAt(At).Order);
        return lab;
    }

    /// <summary>A round trip of one page's protection leaves the huge page mapped by 512 small entries.</summary>
    private static void MapSmall(Lab lab)
    {
        foreach (var prot in new[] { Prot.Read, Prot.Read | Prot.Write })
            Assert.True(lab.Machine.Mprotect(lab.Space, At + (20 * Page), Page, prot).IsOk);
    }

    private static void Advise(Lab lab, ulong address, ulong length, Advice advice) =>
        Assert.True(lab.Machine.Madvise(lab.Space, address, length, advice).IsOk);
}
