using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>
/// PG_mlocked and the count of each folio (mm/mlock.c): what calls, faults, forks, moves and splits make of them, and
/// what reclaim does then.
/// </summary>
public sealed class MlockTests
{
    private const ulong At = 0x4000_0000;
    private const ulong Page = Lab.Page;
    private const ulong Huge = PageGeometry.PmdSize;

    [Fact]
    public void Pages_that_are_there_and_those_that_come_later_are_locked_until_munlock()
    {
        using var lab = new Lab();
        lab.Anon(At, 2, written: false);
        lab.Write(At, 1);
        const uint onFault = 1;
        Assert.True(lab.Machine.Mlock(lab.Space, At, 2 * Page, onFault).IsOk);
        lab.Write(At + Page, 1);
        Assert.True(IsLocked(lab, At) && IsLocked(lab, At + Page));
        // Twice is once.
        lab.Machine.Mlock(lab.Space, At, 2 * Page);
        lab.Machine.Munlock(lab.Space, At, Page);
        Assert.Equal((false, true), (IsLocked(lab, At), IsLocked(lab, At + Page)));
    }

    [Fact]
    public void A_page_that_two_have_locked_stays_so_until_both_have_let_it_go()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        lab.Machine.Mlock(lab.Space, At, Page);
        var child = lab.Fork();
        // The child's area is not locked, the page is.
        Assert.True(IsLocked(lab, At, child));
        lab.Machine.Mlock(child, At, Page, 1);
        lab.Machine.Munlock(lab.Space, At, Page);
        Assert.True(IsLocked(lab, At));
        lab.Machine.Exit(child);
        Assert.False(IsLocked(lab, At));
    }

    [Fact]
    public void A_copy_is_locked_for_its_owner_and_the_original_loses_that_lock()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        lab.Machine.Mlock(lab.Space, At, Page);
        var child = lab.Fork();
        lab.Write(At, 1);
        Assert.Equal((true, false), (IsLocked(lab, At), IsLocked(lab, At, child)));
    }

    [Fact]
    public void A_huge_page_is_locked_whole_and_loses_it_when_its_leaf_is_split()
    {
        using var lab = new Lab(configure: options => options with { Thp = ThpMode.Always });
        lab.Anon(At, (int)(Huge / Page));
        lab.Machine.Mlock(lab.Space, At, Huge);
        Assert.True(IsLocked(lab, At));
        lab.Machine.Mprotect(lab.Space, At, Page, Prot.Read);
        Assert.False(IsLocked(lab, At));
        // mlock of all its small entries locks it again; of a part, it does not.
        lab.Machine.Munlock(lab.Space, At, Huge);
        lab.Machine.Mlock(lab.Space, At + Page, Huge - Page);
        Assert.False(IsLocked(lab, At + Page));
    }

    [Fact]
    public void What_a_move_leaves_behind_stays_locked_though_its_area_is_not()
    {
        using var lab = new Lab(configure: options => options with { Swap = 16UL << 20 });
        lab.Anon(At, 4);
        lab.Machine.Mlock(lab.Space, At, 4 * Page);
        var flags = MremapFlags.MayMove | MremapFlags.DontUnmap;
        Assert.True(lab.Machine.Mremap(lab.Space, At, 2 * Page, 2 * Page, flags, 0).IsOk);
        Assert.Equal(VmFlags.None,
            lab.Machine.Maps(lab.Space).Single(entry => entry.Range.Contains(At + (2 * Page))).Flags & VmFlags.Locked);
        Assert.True(IsLocked(lab, At + (2 * Page)));
        // Reclaim passes over it, and forgets how often it was locked; MADV_FREE gives nothing away.
        Assert.True(lab.Machine.Madvise(lab.Space, At + (2 * Page), 2 * Page, Advice.PageOut).IsOk);
        Assert.True(lab.Machine.Madvise(lab.Space, At + (2 * Page), 2 * Page, Advice.Free).IsOk);
        Assert.Equal(
            FrameFlags.Mlocked, lab.ViewAt(At + (2 * Page)).Flags & (FrameFlags.Mlocked | FrameFlags.LazyFree));
        // The next one to let it go is the last.
        lab.Machine.Mlock(lab.Space, At + (2 * Page), 2 * Page);
        lab.Machine.Munlock(lab.Space, At + (2 * Page), 2 * Page);
        Assert.False(IsLocked(lab, At + (2 * Page)));
        lab.Machine.Madvise(lab.Space, At + (2 * Page), 2 * Page, Advice.PageOut);
        Assert.Null(lab.Machine.Translate(lab.Space, At + (2 * Page)));
    }

    private static bool IsLocked(Lab lab, ulong address, AddressSpace? space = null) =>
        (lab.ViewAt(address, space).Flags & FrameFlags.Mlocked) != 0;
}
