using FramePin.Core.Abi;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>
/// Events while a pin holds no lock: a fork beside the lockless walk, the wait for the lock, the long-term
/// check.
/// </summary>
public sealed partial class GupTests
{
    [Fact]
    public void Row_67_a_fork_beside_the_fast_walk_makes_it_yield_nothing_and_the_slow_path_wait()
    {
        using var lab = new Lab();
        lab.Anon(At, 4);
        var before = lab.ViewAt(At).Pfn;
        Rule(lab, FaultAction.Retry, point: ChoicePoint.FastWalk);
        Rule(lab, FaultAction.Park, point: ChoicePoint.LockTake);
        var waiting = lab.Gup(GupCall.PinUserPagesFast, At, 4, GupFlags.Write, out var vector);
        Assert.NotNull(waiting.Parked);
        Assert.Equal(0, vector.Count);
        // The walk's pins were taken and dropped again before the fork goes on.
        Assert.Equal(4, lab.Machine.PinStatistics.Acquired);
        Assert.Equal(4, lab.Machine.PinStatistics.Released);
        Assert.Equal(1, lab.ViewAt(At).RefCount);
        var child = lab.Fork();
        var outcome = lab.Machine.Resume(waiting.Parked);
        Assert.Equal(4, outcome.Result.Raw);
        Assert.NotEqual(before, lab.View(vector).Pfn);
        Assert.Equal(lab.View(vector).Pfn, lab.ViewAt(At).Pfn);
        Assert.Equal(before, lab.ViewAt(At, child).Pfn);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_67_a_get_does_not_look_at_the_fork()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        Rule(lab, FaultAction.Retry, point: ChoicePoint.FastWalk);
        var outcome = lab.Gup(GupCall.GetUserPagesFast, At, 1, GupFlags.Write, out var vector);
        Assert.Equal(1, outcome.Result.Raw);
        Assert.False(outcome.IsSlow);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_39_killed_while_parked_at_the_lock()
    {
        using var lab = new Lab();
        lab.Anon(At, 1, written: false);
        Rule(lab, FaultAction.Park, point: ChoicePoint.LockTake);
        var waiting = lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.Write, out var vector);
        Assert.NotNull(waiting.Parked);
        Assert.True(lab.Machine.TryResume(waiting.Parked, isKilled: true, out var outcome));
        Assert.Equal(-(long)Errno.EAGAIN, outcome.Result.Raw);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_74_fixup_user_fault_says_that_the_lock_was_dropped_and_holds_it()
    {
        using var lab = new Lab();
        lab.Anon(At, 2, written: false);
        Rule(lab, FaultAction.Retry, times: 3);
        Assert.Equal(Errno.None, lab.Machine.FixupUserFault(lab.Space, At, isWrite: true, out var unlocked));
        Assert.True(unlocked);
        Assert.Equal(1, lab.ViewAt(At).RefCount);
        Assert.Equal(Errno.None, lab.Machine.FixupUserFault(lab.Space, At + Page, isWrite: true, out unlocked));
        Assert.False(unlocked);
    }

    [Fact]
    public void Fixup_user_fault_refuses_as_3_5_says()
    {
        using var lab = new Lab();
        lab.Anon(At, 2, Prot.Read, written: false);
        Assert.Equal(Errno.EFAULT, lab.Machine.FixupUserFault(lab.Space, At, isWrite: true, out _));
        Assert.Equal(Errno.EFAULT, lab.Machine.FixupUserFault(lab.Space, At + (2 * Page), isWrite: false, out _));
        Rule(lab, FaultAction.Oom);
        Assert.Equal(Errno.ENOMEM, lab.Machine.FixupUserFault(lab.Space, At, isWrite: false, out _));
        Rule(lab, FaultAction.SigBus);
        Assert.Equal(Errno.EFAULT, lab.Machine.FixupUserFault(lab.Space, At, isWrite: false, out _));
        lab.Machine.SetTask(lab.Space, lab.Space.Task with { Pending = PendingSignal.Fatal });
        Assert.Equal(Errno.EINTR, lab.Machine.FixupUserFault(lab.Space, At, isWrite: false, out _));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_long_term_pin_holds_no_lock_before_it_looks_at_its_folios(bool isUnmapped)
    {
        using var lab = new Lab(configure: options => options with { MovableMemory = 32UL << 20 });
        lab.Anon(At, 2);
        lab.Poke(At, 5);
        Rule(lab, FaultAction.Park, point: ChoicePoint.LongTermCheck);
        var waiting = lab.Gup(GupCall.PinUserPagesFast, At, 2, GupFlags.Write | GupFlags.LongTerm, out var vector);
        Assert.NotNull(waiting.Parked);
        var before = lab.View(vector).Pfn;
        Assert.False(lab.Machine.Context.Memory.IsLongTermPinnable(before));
        if (isUnmapped) Assert.True(lab.Machine.Munmap(lab.Space, At, 2 * Page).IsOk);
        var outcome = lab.Machine.Resume(waiting.Parked);
        // The folios are unpinned, moved or found gone, and pinned anew.
        Assert.Equal(isUnmapped ? Fault : 2, outcome.Result.Raw);
        if (!isUnmapped)
        {
            Assert.NotEqual(before, lab.View(vector).Pfn);
            Assert.Equal(5, lab.PeekFrame(vector));
        }

        lab.Drop(vector);
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
    }

    [Fact]
    public void Futex_wake_op_makes_its_word_writable()
    {
        using var lab = new Lab();
        lab.Anon(At, 1, written: false);
        lab.Load(At, 1);
        Assert.Equal(SyscallResult.Ok(), lab.Machine.FutexWakeOp(lab.Space, At));
        Assert.True((lab.ViewAt(At).Flags & Core.Frames.FrameFlags.Zero) == 0);
        lab.Anon(0x20000, 1, Prot.Read, written: false);
        Assert.Equal(Errno.EFAULT, lab.Machine.FutexWakeOp(lab.Space, 0x20000).Error);
        Assert.Equal(Errno.EINVAL, lab.Machine.FutexWakeOp(lab.Space, At + 1).Error);
    }

    /// <summary>try_get_folio refuses a count that is not above zero: the fast walk stops at that page.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(5)]
    [InlineData(17)]
    [InlineData(31)]
    public void The_fast_walk_counts_no_page_behind_one_whose_refcount_is_used_up(int bad)
    {
        // A machine without a log: a replay would not know of the count that the test changes.
        using var machine = new Machine("used up", new MachineOptions { Memory = 64UL << 20 });
        using var lab = new Lab(machine, machine.CreateAddressSpace("app", new AddressSpaceLayout(), new TaskState())!);
        lab.Anon(At, 32, written: false);
        // Every other page first: neighbours lie on frames that do not follow each other.
        foreach (var page in Enumerable.Range(0, 32).OrderBy(page => page % 2))
            lab.Write(At + ((ulong)page * Page), 1);
        var counts = lab.Machine.Context.Memory.Frames.Counts;
        var pfns = Enumerable.Range(0, 32).Select(page => lab.ViewAt(At + ((ulong)page * Page)).Pfn).ToArray();
        var before = pfns.Select(pfn => counts[pfn.Value]).ToArray();
        counts[pfns[bad].Value] |= 0x8000_0000;
        var outcome = lab.Gup(GupCall.GetUserPagesFastOnly, At, 32, GupFlags.None, out var vector);
        counts[pfns[bad].Value] &= ~0x8000_0000L;
        Assert.Equal(bad, outcome.Result.Raw);
        Assert.Equal(pfns.Take(bad), Enumerable.Range(0, bad).Select(slot => vector[slot]));
        Assert.Equal(
            before.Select((count, page) => page < bad ? count + 1 : count), pfns.Select(pfn => counts[pfn.Value]));
        lab.Drop(vector);
        Assert.Empty(machine.Audit());
    }
}
