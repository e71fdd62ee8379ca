using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>Rows 60 to 73: the zero page, exclusivity, fork, what happens around a pinned page, huge pages.</summary>
public sealed partial class GupTests
{
    [Fact]
    public void Rows_60_and_61_the_zero_page_is_not_counted_by_a_pin()
    {
        using var lab = new Lab();
        lab.Anon(At, 1, written: false);
        Assert.Equal(1, lab.Gup(GupCall.PinUserPages, At, 1, GupFlags.None, out var pin).Result.Raw);
        Assert.True(lab.View(pin).Flags.HasFlag(FrameFlags.Zero));
        var before = lab.View(pin).RefCount;
        Assert.Equal(1, lab.Gup(GupCall.GetUserPages, At, 1, GupFlags.None, out var get).Result.Raw);
        Assert.Equal(before + 1, lab.View(pin).RefCount);
        lab.Drop(get);
        lab.Machine.PutVaddrFrames(pin);
        Assert.Equal(before, lab.Machine.ViewPage(lab.Machine.Translate(lab.Space, At)!.Value).RefCount);
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
        lab.Drop(pin);
    }

    [Theory]
    [InlineData("6.12", true)]
    [InlineData("6.18", true)]
    [InlineData("6.1", false)]
    public void Row_62_a_long_term_read_pin_unshares_first(string profile, bool seesWrite)
    {
        using var lab = new Lab(profile);
        lab.Anon(At, 1, written: false);
        Assert.Equal(1, lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.LongTerm, out var vector).Result.Raw);
        lab.Poke(At, 5);
        Assert.Equal(seesWrite ? 5 : 0, lab.PeekFrame(vector));
        lab.Drop(vector);
    }

    [Fact]
    public void Row_63_a_short_read_pin_of_the_zero_page_keeps_zeros()
    {
        using var lab = new Lab();
        lab.Anon(At, 1, written: false);
        Assert.Equal(1, lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.None, out var vector).Result.Raw);
        lab.Poke(At, 5);
        Assert.Equal(0, lab.PeekFrame(vector));
        lab.Drop(vector);
    }

    [Theory]
    [InlineData("6.1")]
    [InlineData("6.18")]
    public void Row_64_a_pinned_page_is_not_shared_by_fork(string profile)
    {
        using var lab = new Lab(profile);
        lab.Anon(At, 2);
        lab.Poke(At, 1);
        Assert.Equal(1, lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.Write, out var vector).Result.Raw);
        var child = lab.Fork();
        lab.Poke(At, 2);
        Assert.Equal(2, lab.PeekFrame(vector));
        Assert.Equal(1, lab.Peek(At, child));
        Assert.NotEqual(lab.Machine.Translate(lab.Space, At), lab.Machine.Translate(child, At));
        Assert.Equal(lab.Machine.Translate(lab.Space, At + Page), lab.Machine.Translate(child, At + Page));
        lab.Drop(vector);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Row_65_a_write_pin_after_fork_breaks_the_sharing(bool childLives)
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        lab.Poke(At, 1);
        var child = lab.Fork();
        var shared = lab.Machine.Translate(lab.Space, At);
        if (!childLives) lab.Machine.Exit(child);
        Assert.Equal(1, lab.Get(At, 1, out var vector).Raw);
        Assert.Equal(childLives, vector[0] != shared);
        lab.Poke(At, 2);
        Assert.Equal(2, lab.PeekFrame(vector));
        if (childLives) Assert.Equal(1, lab.Peek(At, child));
        lab.Drop(vector);
    }

    [Fact]
    public void Row_66_a_read_pin_of_a_shared_page_unshares()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        var child = lab.Fork();
        var shared = lab.Machine.Translate(child, At)!.Value;
        Assert.Equal(1, lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.None, out var vector).Result.Raw);
        Assert.NotEqual(shared, vector[0]);
        lab.Poke(At, 3);
        Assert.Equal(3, lab.PeekFrame(vector));
        Assert.Equal(2, lab.Machine.PinStatistics.Acquired);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_68_a_get_reference_loses_the_page_to_copy_on_write()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        lab.Poke(At, 1);
        Assert.Equal(1, lab.Gup(GupCall.GetUserPagesFast, At, 1, GupFlags.None, out var vector).Result.Raw);
        lab.Fork();
        lab.Poke(At, 2);
        Assert.Equal(1, lab.PeekFrame(vector));
        Assert.NotEqual(vector[0], lab.Machine.Translate(lab.Space, At));
        lab.Drop(vector);
    }

    [Fact]
    public void Row_69_munmap_leaves_a_pinned_page_until_its_unpin()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        var free = lab.Machine.Statistics().FreeFrames;
        Assert.Equal(1, lab.Get(At, 1, out var vector).Raw);
        Assert.True(lab.Machine.Munmap(lab.Space, At, Page).IsOk);
        Assert.Equal(1024, lab.View(vector).RefCount);
        Assert.Equal(free, lab.Machine.Statistics().FreeFrames);
        lab.Drop(vector);
        Assert.Equal(free + 1, lab.Machine.Statistics().FreeFrames);
    }

    [Fact]
    public void Row_69_exit_leaves_a_pinned_page_too()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        lab.Poke(At, 77);
        Assert.Equal(1, lab.Get(At, 1, out var vector).Raw);
        lab.Machine.Exit(lab.Space);
        Assert.Equal(77, lab.PeekFrame(vector));
        Assert.Equal(Fault, lab.Get(At, 1, out var late).Raw);
        lab.Drop(vector, late);
    }

    [Fact]
    public void Row_70_dontneed_and_touch_give_a_new_page()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        lab.Poke(At, 9);
        Assert.Equal(1, lab.Get(At, 1, out var vector).Raw);
        Assert.True(lab.Machine.Madvise(lab.Space, At, Page, Advice.DontNeed).IsOk);
        Assert.Equal(0, lab.Peek(At));
        lab.Poke(At, 1);
        Assert.Equal(9, lab.PeekFrame(vector));
        lab.Drop(vector);
    }

    [Fact]
    public void Row_71_a_pin_follows_a_moved_mapping()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        Assert.Equal(1, lab.Get(At, 1, out var vector).Raw);
        var moved = lab.Machine.Mremap(lab.Space, At, Page, Page, MremapFlags.MayMove | MremapFlags.Fixed, 0x50000);
        Assert.Equal(0x50000UL, moved.Value);
        Assert.Equal(vector[0], lab.Machine.Translate(lab.Space, 0x50000));
        lab.Poke(0x50000, 8);
        Assert.Equal(8, lab.PeekFrame(vector));
        lab.Drop(vector);
    }

    [Fact]
    public void Row_72_1024_plain_references_look_pinned()
    {
        using var lab = new Lab(configure: options => options with { AuditsEachCommand = false });
        lab.Anon(At, 1);
        var vectors = new List<FrameVector>();
        for (var i = 0; i < 1023; i++)
        {
            Assert.Equal(1, lab.Gup(GupCall.GetUserPagesFast, At, 1, GupFlags.None, out var vector).Result.Raw);
            vectors.Add(vector);
        }

        Assert.True(lab.ViewAt(At).MaybeDmaPinned);
        lab.Drop([.. vectors]);
        Assert.False(lab.ViewAt(At).MaybeDmaPinned);
    }

    [Fact]
    public void Row_73_three_subpages_of_a_huge_page()
    {
        using var lab = new Lab(configure: options => options with { Thp = ThpMode.Always });
        lab.Anon(0x4000_0000, 512);
        Assert.Equal(9, lab.ViewAt(0x4000_0000).Order);
        var before = lab.ViewAt(0x4000_0000);
        Assert.Equal(3, lab.Get(0x4000_5000, 3, out var vector).Raw);
        Assert.Equal(before.RefCount + 3, lab.View(vector).RefCount);
        Assert.Equal(before.PinCount + 3, lab.View(vector).PinCount);
        lab.Drop(vector);
        Assert.Equal(before, lab.ViewAt(0x4000_0000));
    }

    [Fact]
    public void A_pinned_huge_page_is_split_by_fork_and_copied_piece_by_piece()
    {
        using var lab = new Lab(configure: options => options with { Thp = ThpMode.Always });
        lab.Anon(0x4000_0000, 512);
        lab.Poke(0x4000_0000, 1);
        Assert.Equal(1, lab.Get(0x4000_0000, 1, out var vector).Raw);
        var child = lab.Fork();
        lab.Poke(0x4000_0000, 2);
        Assert.Equal(2, lab.PeekFrame(vector));
        Assert.Equal(1, lab.Peek(0x4000_0000, child));
        Assert.Equal(1, lab.Get(0x4000_3000, 1, out var part).Raw);
        Assert.Equal(9, lab.View(part).Order);
        lab.Drop(vector, part);
    }

    [Fact]
    public void Gup_through_hugetlb_after_fork_copies_the_huge_page()
    {
        using var lab = new Lab(configure: options => options with { HugePages2M = 4 });
        const ulong at = 0x4000_0000;
        Assert.True(
            lab.Map(at, 512, Rw, MapFlags.Private | MapFlags.Anonymous | MapFlags.HugeTlb | MapFlags.Fixed).IsOk);
        lab.Poke(at, 1);
        var child = lab.Fork();
        Assert.Equal(8, lab.Get(at, 8, out var vector).Raw);
        lab.Poke(at, 2);
        Assert.Equal(2, lab.PeekFrame(vector));
        Assert.Equal(1, lab.Peek(at, child));
        lab.Drop(vector);
    }

    [Fact]
    public void A_gigantic_page_is_one_folio_and_goes_back_to_its_pool()
    {
        using var lab = new Lab(
            configure: options => options with { Memory = 4UL << 30, HugePages1G = 1, AuditsEachCommand = false });
        const ulong at = 0x1_0000_0000;
        const MapFlags gigantic = (MapFlags)(30u << MapHuge.Shift);
        var flags = MapFlags.Private | MapFlags.Anonymous | MapFlags.HugeTlb | MapFlags.Fixed | gigantic;
        Assert.True(lab.Map(at, 1 << 18, Rw, flags).IsOk);
        Assert.Equal(Errno.ENOMEM, lab.Map(0, 1 << 18, Rw, flags & ~MapFlags.Fixed).Error);
        lab.Poke(at + (1UL << 29), 3);
        Assert.Equal(1024, lab.Get(at + (1UL << 29), 1024, out var vector).Raw);
        Assert.Equal(18, lab.View(vector).Order);
        Assert.Equal(1, vector.RunCount);
        Assert.Equal(3, lab.PeekFrame(vector));
        Assert.True(lab.Machine.Munmap(lab.Space, at, 1UL << 30).IsOk);
        lab.Drop(vector);
        Assert.True(lab.Map(at, 1 << 18, Rw, flags).IsOk);
        Assert.Equal(0, lab.Peek(at + (1UL << 29)));
    }

    [Fact]
    public void Split_pmd_is_refused_on_hugetlb_and_splits_a_transparent_page()
    {
        using var lab = new Lab(configure: options => options with { HugePages2M = 1, Thp = ThpMode.Always });
        Assert.True(lab.Map(
            0x4000_0000, 512, Rw, MapFlags.Private | MapFlags.Anonymous | MapFlags.HugeTlb | MapFlags.Fixed).IsOk);
        lab.Anon(0x8000_0000, 512);
        Assert.Equal(
            -(long)Errno.EOPNOTSUPP, lab.Gup(
                GupCall.GetUserPages, 0x4000_0000, 1, GupFlags.SplitPmd, out var hugetlb).Result.Raw);
        Assert.Equal(1, lab.Gup(GupCall.GetUserPages, 0x8000_0000, 1, GupFlags.SplitPmd, out var thp).Result.Raw);
        Assert.Equal(512, lab.View(thp).MapCount);
        lab.Drop(hugetlb, thp);
    }
}
