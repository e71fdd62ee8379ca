using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Pinning;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>Frames that a process outside may have mapped: free, and yet nobody's until it lets go.</summary>
public sealed class QuarantineTests
{
    private const ulong At = 0x4000_0000;
    private const ulong Huge = PageGeometry.PmdSize;

    [Theory]
    [InlineData("small")]
    [InlineData("huge")]
    [InlineData("hugetlb")]
    public void What_is_held_stays_away_from_the_allocator_until_it_is_let_go(string memory)
    {
        using var lab = new Lab("6.18", options => options with { AuditsEachCommand = true, HugePages2M = 1 });
        var type = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed
            | (memory == "hugetlb" ? MapFlags.HugeTlb : 0);
        Assert.True(lab.Map(At, 512, Prot.Read | Prot.Write, type).IsOk);
        if (memory == "huge") Assert.True(lab.Machine.Madvise(lab.Space, At, Huge, Advice.HugePage).IsOk);
        lab.Poke(At, 7);
        var free = lab.Machine.Statistics().FreeFrames;
        Assert.Equal(1, lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.Write, out var vector).Result.Raw);
        var held = lab.View(vector).Pfn;
        var first = lab.Machine.HoldFrames(vector);
        var second = lab.Machine.HoldFrames(vector);
        lab.Drop(vector);
        Assert.True(lab.Machine.Munmap(lab.Space, At, Huge).IsOk);
        var frames = memory == "small" ? 1UL : 512;
        Assert.Equal(frames, lab.Machine.Statistics().QuarantinedFrames);
        Assert.Equal(free, lab.Machine.Statistics().FreeFrames);
        // A pool of one page has none left.
        if (memory == "hugetlb") Assert.Equal(UserSignal.SigBus, TouchOther(lab));
        lab.Machine.ReleaseHold(first);
        lab.Machine.ReleaseHold(first);
        Assert.Equal(frames, lab.Machine.Statistics().QuarantinedFrames);
        lab.Machine.ReleaseHold(second);
        Assert.Equal(0UL, lab.Machine.Statistics().QuarantinedFrames);
        Assert.Equal(memory == "hugetlb" ? free : free + frames, lab.Machine.Statistics().FreeFrames);
        if (memory != "small") return;
        lab.Anon(At, 1);
        Assert.Equal(held, lab.ViewAt(At).Pfn);
        Assert.Equal(0, lab.Peek(At));
    }

    [Fact]
    public void A_hold_changes_nothing_that_the_kernel_counts()
    {
        using var lab = new Lab("6.18");
        lab.Anon(At, 1);
        lab.Poke(At, 1);
        Assert.Equal(1, lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.Write, out var vector).Result.Raw);
        var before = lab.View(vector);
        var hold = lab.Machine.HoldFrames(vector);
        Assert.Equal(before, lab.View(vector));
        lab.Drop(vector);
        // The last user after a fork writes to the page itself.
        lab.Machine.Exit(lab.Fork());
        lab.Poke(At, 2);
        Assert.Equal(before.Pfn, lab.ViewAt(At).Pfn);
        lab.Machine.ReleaseHold(hold);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void Of_several_holds_those_that_are_left_when_the_vector_lets_go_keep_the_frames(int goesFirst)
    {
        using var lab = new Lab("6.18");
        lab.Anon(At, 3);
        Assert.Equal(3, lab.Gup(GupCall.PinUserPagesFast, At, 3, GupFlags.Write, out var vector).Result.Raw);
        var holds = new[] { lab.Machine.HoldFrames(vector), lab.Machine.HoldFrames(vector),
            lab.Machine.HoldFrames(vector) };
        Assert.True(lab.Machine.Munmap(lab.Space, At, 3 * PageGeometry.PageSize).IsOk);
        lab.Machine.ReleaseHold(holds[goesFirst]);
        Assert.Equal(0UL, lab.Machine.Statistics().QuarantinedFrames);
        lab.Drop(vector);
        Assert.Equal(3UL, lab.Machine.Statistics().QuarantinedFrames);
        foreach (var hold in holds.Where((_, i) => i != goesFirst))
        {
            Assert.Equal(3UL, lab.Machine.Statistics().QuarantinedFrames);
            lab.Machine.ReleaseHold(hold);
        }

        Assert.Equal(0UL, lab.Machine.Statistics().QuarantinedFrames);
    }

    [Fact]
    public void A_hold_that_goes_before_the_vector_leaves_the_frames_to_the_allocator()
    {
        using var lab = new Lab("6.18");
        lab.Anon(At, 2);
        Assert.Equal(2, lab.Gup(GupCall.PinUserPagesFast, At, 2, GupFlags.Write, out var vector).Result.Raw);
        var hold = lab.Machine.HoldFrames(vector);
        Assert.True(lab.Machine.Munmap(lab.Space, At, 2 * PageGeometry.PageSize).IsOk);
        var free = lab.Machine.Statistics().FreeFrames;
        lab.Machine.ReleaseHold(hold);
        lab.Drop(vector);
        Assert.Equal(free + 2, lab.Machine.Statistics().FreeFrames);
        Assert.Equal(0UL, lab.Machine.Statistics().QuarantinedFrames);
    }

    private static UserSignal TouchOther(Lab lab)
    {
        const ulong other = 2 * At;
        var type = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed | MapFlags.HugeTlb | MapFlags.NoReserve;
        Assert.True(lab.Map(other, 512, Prot.Read | Prot.Write, type).IsOk);
        var signal = lab.Machine.Touch(lab.Space, other, isWrite: true);
        Assert.True(lab.Machine.Munmap(lab.Space, other, Huge).IsOk);
        return signal;
    }
}
