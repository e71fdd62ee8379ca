using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Inspection;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>
/// A fork copies the bytes of pinned pages in bounded pieces, between which others go on: fault A15 of the list of
/// faults found from outside.
/// </summary>
public sealed class ForkPieceTests
{
    private const ulong At = 0x4000_0000;
    private const ulong Page = Lab.Page;
    private const Prot Rw = Prot.Read | Prot.Write;
    private const MapFlags PrivateAnon = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed;

    /// <summary>Small pages, huge pages of hugetlb, and anonymous huge pages, which fork takes apart first.</summary>
    public static TheoryData<string, int, long> Kinds() => new()
    {
        { "small", 40, 1 }, { "small", 40, 7 }, { "small", 1100, 300 }, { "hugetlb", 1024, 100 },
        { "hugetlb", 1024, 512 }, { "thp", 1024, 300 }, { "small", 40, 0 }, { "hugetlb", 1024, 0 },
    };

    [Theory]
    [MemberData(nameof(Kinds))]
    public void A15_the_child_has_every_byte_when_nothing_is_left(string kind, int pages, long most)
    {
        using var lab = Pinned(kind, pages, out var vector);
        var child = Begin(lab, most);
        var left = CopyOne(lab, child, most);
        // A command copies no more than it was asked for.
        if (most > 0) Assert.True(left >= (ulong)Math.Max(0, pages - (2 * most)), $"{left} frames are left");
        else Assert.Equal(0UL, left);
        for (var before = left; left > 0; before = left)
        {
            left = CopyOne(lab, child, most);
            Assert.Equal(Math.Min((ulong)most, before), before - left);
        }

        AssertSame(lab, child, pages);
        lab.Drop(vector);
        // No reference is left behind: the parent's page is its own and is not copied by a store.
        var pfn = lab.ViewAt(At).Head;
        lab.Poke(At, 0x77);
        Assert.Equal(pfn, lab.ViewAt(At).Head);
        Assert.NotEqual(0x77, Peek(lab, child, At));
    }

    /// <summary>Between the pieces the parent stores, unpins and unmaps; none of it harms the copy.</summary>
    [Theory]
    [InlineData("small")]
    [InlineData("hugetlb")]
    public void A15_the_parent_goes_on_between_the_pieces(string kind)
    {
        const int pages = 1024;
        using var lab = Pinned(kind, pages, out var vector);
        var child = Begin(lab, 256);
        // Page 0 is copied, the last one is not.
        var last = At + ((pages - 1) * Page);
        lab.Poke(At, 0xaa);
        lab.Poke(last, 0xbb);
        lab.Drop(vector);
        Assert.True(lab.Machine.Munmap(lab.Space, At, pages * Page).IsOk);
        // Other memory is given out meanwhile: not the frames of the parent, which the fork still holds.
        lab.Anon(0x1000_0000, 600);
        lab.Machine.Compact();
        while (CopyOne(lab, child, 256) > 0) Assert.Empty(lab.Machine.Audit());
        Assert.Equal(Content(0), Peek(lab, child, At));
        Assert.Equal(0xbb, Peek(lab, child, last));
        Assert.Equal(Content(700), Peek(lab, child, At + (700 * Page)));
    }

    /// <summary>A child that ends before its bytes are there gives everything back.</summary>
    [Theory]
    [InlineData("small")]
    [InlineData("hugetlb")]
    public void A15_a_child_that_ends_half_copied_leaves_nothing_behind(string kind)
    {
        using var lab = Pinned(kind, 1024, out var vector);
        var free = lab.Machine.Statistics().FreeFrames;
        var child = Begin(lab, 100);
        Assert.Empty(lab.Machine.Audit());
        lab.Machine.Call(new ExitCall(child));
        Assert.Equal(0UL, CopyOne(lab, child, 0));
        Assert.Equal(free, lab.Machine.Statistics().FreeFrames);
        lab.Drop(vector);
    }

    /// <summary>A fork that runs out of memory half way tears its child down.</summary>
    [Fact]
    public void A15_a_fork_without_room_fails_as_before()
    {
        using var lab = Pinned("small", 3 * 1024, out var vector, memory: 20UL << 20);
        var free = lab.Machine.Statistics().FreeFrames;
        Assert.Equal(Errno.ENOMEM, lab.Machine.Call(new ForkCall(lab.Space.Id, "child") { CopiesAtOnce = 8 }).Error);
        Assert.Equal(free, lab.Machine.Statistics().FreeFrames);
        lab.Drop(vector);
    }

    /// <summary>Frames that were used before are overwritten, where the parent's page was never written too.</summary>
    [Theory]
    [InlineData("small")]
    [InlineData("hugetlb")]
    public void A15_a_page_that_nobody_wrote_reads_as_zero_in_the_child(string kind)
    {
        using var lab = new Lab(configure: Options(64UL << 20));
        const int pages = 512;
        // Frames with bytes of others in them.
        Map(lab, kind, At, pages);
        lab.Write(At, pages);
        Assert.True(lab.Machine.Munmap(lab.Space, At, pages * Page).IsOk);
        Map(lab, kind, At, pages);
        var vector = Pin(lab, pages);
        lab.Poke(At + (100 * Page), 0x11);
        var child = Begin(lab, 200);
        while (CopyOne(lab, child, 200) > 0) { }
        Assert.Equal(0, Peek(lab, child, At));
        Assert.Equal(0x11, Peek(lab, child, At + (100 * Page)));
        Assert.Equal(0, Peek(lab, child, At + (511 * Page)));
        lab.Drop(vector);
    }

    private static Lab Pinned(string kind, int pages, out FrameVector vector, ulong memory = 64UL << 20)
    {
        var lab = new Lab(configure: Options(memory));
        Map(lab, kind, At, pages);
        for (var page = 0; page < pages; page++) lab.Poke(At + ((ulong)page * Page), Content(page));
        vector = Pin(lab, pages);
        return lab;
    }

    private static Func<MachineOptions, MachineOptions> Options(ulong memory) => options => options with
    {
        Memory = memory,
        HugePages2M = memory > (32UL << 20) ? 6 : 0,
        AuditsEachCommand = false,
    };

    private static void Map(Lab lab, string kind, ulong address, int pages)
    {
        Assert.True(lab.Map(address, pages, Rw, PrivateAnon | (kind == "hugetlb" ? MapFlags.HugeTlb : 0)).IsOk);
        if (kind == "thp") lab.Machine.Madvise(lab.Space, address, (ulong)pages * Page, Advice.HugePage);
    }

    private static FrameVector Pin(Lab lab, int pages)
    {
        Assert.Equal(pages, lab.Gup(GupCall.PinUserPagesFast, At, pages, GupFlags.Write, out var vector).Result.Pages);
        return vector;
    }

    private static SpaceId Begin(Lab lab, long most)
    {
        var forked = lab.Machine.Call(new ForkCall(lab.Space.Id, "child") { CopiesAtOnce = most });
        Assert.True(forked.IsOk, $"{forked}");
        return new SpaceId((int)forked.Value);
    }

    private static ulong CopyOne(Lab lab, SpaceId child, long most) =>
        lab.Machine.Call(new CopyForkedCall(child, most)).Value;

    private static void AssertSame(Lab lab, SpaceId child, int pages)
    {
        for (var page = 0; page < pages; page++)
            Assert.Equal(Content(page), Peek(lab, child, At + ((ulong)page * Page)));
    }

    private static byte Content(int page) => (byte)((page % 251) + 1);

    private static byte Peek(Lab lab, SpaceId space, ulong address)
    {
        var bytes = new byte[1];
        lab.Machine.Execute<LoadCall, AccessResult>(new(space, address, bytes));
        return bytes[0];
    }
}
