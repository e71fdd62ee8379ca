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

/// <summary>
/// Rows 36 to 73 of Semantics 8: the GUP calls, flags and retries; exclusivity and fork in a part of their own.
/// </summary>
public sealed partial class GupTests
{
    private const ulong At = 0x10000;
    private const ulong Page = Lab.Page;
    private const Prot Rw = Prot.Read | Prot.Write;
    private static readonly long Fault = -(long)Errno.EFAULT;
    private static readonly long Invalid = -(long)Errno.EINVAL;

    private static void Rule(
        Lab lab, FaultAction action, int times = 1, int skip = 0, ChoicePoint point = ChoicePoint.Fault) =>
        lab.Machine.AddFaultRule(new FaultRule { Point = point, Action = action, Times = times, Skip = skip });

    [Theory]
    [InlineData("6.18", Errno.EOVERFLOW)]
    [InlineData("6.12", Errno.EOVERFLOW)]
    [InlineData("6.1", Errno.EFAULT)]
    [InlineData("5.17", Errno.EFAULT)]
    [InlineData("4.3", Errno.EFAULT)]
    public void Row_36_a_range_that_wraps(string profile, Errno expected)
    {
        using var lab = new Lab(profile);
        Assert.Equal(-(long)expected, lab.Get(0xffff_ffff_ffff_f000, 2, out var vector).Raw);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData(GupCall.PinUserPagesFast)]
    [InlineData(GupCall.GetUserPagesFast)]
    [InlineData(GupCall.PinUserPages)]
    [InlineData(GupCall.GetUserPages)]
    [InlineData(GupCall.PinUserPagesUnlocked)]
    [InlineData(GupCall.GetUserPagesRemote)]
    public void Row_37_the_end_above_task_size(GupCall call)
    {
        using var lab = new Lab();
        lab.Anon(PageGeometry.MapWindow - Page, 1);
        Assert.Equal(Fault, lab.Gup(call, PageGeometry.MapWindow, 1, GupFlags.None, out var above).Result.Raw);
        lab.Drop(above);
    }

    /// <summary>
    /// A14: the end of a four-level address space is no end with five levels, where 6.12 was measured.
    /// </summary>
    [Theory]
    [InlineData("6.1", 4, PageGeometry.MapWindow, Errno.None)]
    [InlineData("6.18", 4, PageGeometry.MapWindow, Errno.EFAULT)]
    [InlineData("6.12", 5, PageGeometry.MapWindow, Errno.None)]
    [InlineData("6.18", 5, PageGeometry.FiveLevelTaskSize - Page, Errno.None)]
    [InlineData("6.18", 5, PageGeometry.FiveLevelTaskSize, Errno.EFAULT)]
    public void Row_37_fast_only_at_the_end_of_memory(string profile, int levels, ulong start, Errno expected)
    {
        using var lab = new Lab(profile, options => options with { PageTableLevels = levels });
        var outcome = lab.Gup(GupCall.GetUserPagesFastOnly, start, 1, GupFlags.None, out var vector);
        Assert.Equal(-(long)expected, outcome.Result.Raw);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_38_a_fatal_signal_pending_before_the_first_page()
    {
        using var lab = new Lab();
        lab.Anon(At, 6, written: false);
        lab.Machine.SetTask(lab.Space, lab.Space.Task with { Pending = PendingSignal.Fatal });
        Assert.Equal(-(long)Errno.EINTR, lab.Get(At, 6, out var vector).Raw);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_38_a_fatal_signal_after_5_pages()
    {
        using var lab = new Lab();
        lab.Anon(At, 8, written: false);
        // The sixth fault drops the lock, and the signal comes before it is taken again.
        Rule(lab, FaultAction.Retry, skip: 5);
        Rule(lab, FaultAction.Kill, skip: 1, point: ChoicePoint.LockTake);
        Assert.Equal(5, lab.Get(At, 8, out var vector).Raw);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_39_killed_while_waiting_for_the_lock()
    {
        using var lab = new Lab();
        lab.Anon(At, 1, written: false);
        Rule(lab, FaultAction.Kill, point: ChoicePoint.LockTake);
        Assert.Equal(-(long)Errno.EAGAIN, lab.Get(At, 1, out var vector).Raw);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData(GupFlags.None, 2)]
    [InlineData(GupFlags.Interruptible, -4)]
    public void Row_40_a_plain_signal_during_a_retry(GupFlags flags, long expected)
    {
        using var lab = new Lab();
        lab.Anon(At, 2, written: false);
        Rule(lab, FaultAction.Retry);
        Rule(lab, FaultAction.Signal, skip: 1, point: ChoicePoint.LockTake);
        Assert.Equal(
            expected, lab.Gup(GupCall.PinUserPagesUnlocked, At, 2, flags | GupFlags.Write, out var vector).Result.Raw);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_40_a_plain_signal_after_some_pages_gives_the_partial_result()
    {
        using var lab = new Lab();
        lab.Anon(At, 4, written: false);
        Rule(lab, FaultAction.Retry, skip: 2);
        Rule(lab, FaultAction.Signal, skip: 1, point: ChoicePoint.LockTake);
        var outcome = lab.Gup(
            GupCall.PinUserPagesUnlocked, At, 4, GupFlags.Interruptible | GupFlags.Write, out var vector);
        Assert.Equal(2, outcome.Result.Raw);
        Assert.Equal(StopReason.Signal, outcome.Reason);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData("4.3")]
    [InlineData("6.18")]
    public void Row_41_five_retries_in_a_row_are_survived(string profile)
    {
        using var lab = new Lab(profile);
        lab.Anon(At, 2, written: false);
        Rule(lab, FaultAction.Retry, times: 5);
        var vector = lab.Vector(2);
        var outcome = lab.Machine.GetVaddrFrames(lab.Space, At, 2, GupFlags.Write, vector);
        Assert.Equal(2, outcome.Result.Raw);
        Assert.Equal(5, outcome.Retries);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData(0, -14L)]
    [InlineData(2, 2L)]
    public void Row_42_munmap_of_the_rest_while_the_lock_is_dropped(int before, long expected)
    {
        using var lab = new Lab();
        lab.Anon(At, 4, written: false);
        Rule(lab, FaultAction.Park, skip: before);
        var vector = lab.Vector(4);
        var outcome = lab.Machine.GetVaddrFrames(lab.Space, At, 4, GupFlags.Write, vector);
        Assert.NotNull(outcome.Parked);
        Assert.Equal(before, vector.Count);
        Assert.Equal(At + ((ulong)before * Page), outcome.Parked.Address);
        Assert.True(lab.Machine.Munmap(lab.Space, At + ((ulong)before * Page), 4 * Page).IsOk);
        var resumed = lab.Machine.Resume(outcome.Parked);
        Assert.Null(resumed.Parked);
        Assert.Equal(expected, resumed.Result.Raw);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_43_without_a_locked_argument_the_handler_must_block()
    {
        using var lab = new Lab();
        lab.Anon(At, 1, written: false);
        Rule(lab, FaultAction.Retry);
        var outcome = lab.Gup(GupCall.GetUserPages, At, 1, GupFlags.Write, out var vector);
        Assert.Equal(1, outcome.Result.Raw);
        Assert.Equal(0, outcome.Retries);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_44_nowait_gives_up_where_a_page_needs_io()
    {
        using var lab = new Lab();
        lab.Anon(At, 1, written: false);
        Rule(lab, FaultAction.NeedsIo);
        var flags = GupFlags.Write | GupFlags.NoWait;
        Assert.Equal(0, lab.Gup(GupCall.GetUserPagesUnlocked, At, 1, flags, out var vector).Result.Raw);
        lab.Drop(vector);
    }

    /// <summary>FAULT_FLAG_RETRY_NOWAIT (fs/userfaultfd.c: handle_userfault, mm/gup.c: faultin_page; row 44).</summary>
    [Theory]
    [InlineData(GupFlags.NoWait, 0, 0)]
    [InlineData(GupFlags.None, 1, 0)]
    public void Row_44_nowait_does_not_ask_the_handler_of_a_userfaultfd(GupFlags flags, int questions, long expected)
    {
        using var lab = new Lab();
        lab.Anon(At, 1, written: false);
        var fd = lab.Machine.CreateUserfaultfd(lab.Space, out _)!;
        Assert.True(lab.Machine.RegisterUffd(fd, At, Page, UffdModes.Missing).IsOk);
        var asked = 0;
        lab.Machine.FaultAsked = _ => asked++;
        lab.Machine.Serve(fd);
        var outcome = lab.Gup(GupCall.GetUserPagesUnlocked, At, 1, GupFlags.Write | flags, out var vector);
        Assert.Equal(expected, outcome.Result.Raw);
        Assert.Equal(questions, asked);
        Assert.Equal(questions == 1, outcome.Parked is not null);
        lab.Machine.Close(fd);
        if (outcome.Parked is { } parked) lab.Machine.Resume(parked);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData(GupCall.PinUserPagesFast)]
    [InlineData(GupCall.GetUserPages)]
    public void Row_45_nofault_on_an_empty_entry(GupCall call)
    {
        using var lab = new Lab();
        lab.Anon(At, 1, written: false);
        Assert.Equal(Fault, lab.Gup(call, At, 1, GupFlags.NoFault | GupFlags.Write, out var vector).Result.Raw);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData(GupFlags.HwPoison, Errno.EHWPOISON)]
    [InlineData(GupFlags.None, Errno.EFAULT)]
    public void Row_46_a_poisoned_page(GupFlags flags, Errno expected)
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        Assert.True(lab.Machine.Madvise(lab.Space, At, Page, Advice.HwPoison).IsOk);
        Assert.Equal(UserSignal.SigBusPoison, lab.Machine.Touch(lab.Space, At, isWrite: false));
        Assert.Equal(-(long)expected, lab.Gup(GupCall.GetUserPages, At, 1, flags, out var vector).Result.Raw);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData(FaultAction.Oom, Errno.ENOMEM)]
    [InlineData(FaultAction.SigBus, Errno.EFAULT)]
    [InlineData(FaultAction.SigSegv, Errno.EFAULT)]
    public void Rows_47_and_48_errors_of_a_fault(FaultAction action, Errno expected)
    {
        using var lab = new Lab();
        lab.Anon(At, 1, written: false);
        Rule(lab, action);
        Assert.Equal(-(long)expected, lab.Get(At, 1, out var vector).Raw);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData(GupCall.PinUserPages, GupFlags.Get, 0)]
    [InlineData(GupCall.PinUserPagesRemote, GupFlags.Get, 0)]
    [InlineData(GupCall.PinUserPagesUnlocked, GupFlags.Get, 0)]
    [InlineData(GupCall.PinUserPagesFast, GupFlags.Get, -22)]
    [InlineData(GupCall.GetUserPages, GupFlags.LongTerm, -22)]
    [InlineData(GupCall.GetUserPagesRemote, GupFlags.LongTerm, -22)]
    [InlineData(GupCall.GetUserPagesUnlocked, GupFlags.LongTerm, -22)]
    [InlineData(GupCall.GetUserPagesFast, GupFlags.LongTerm, -22)]
    [InlineData(GupCall.PinUserPagesRemote, GupFlags.LongTerm | GupFlags.PciP2PDma, 0)]
    [InlineData(GupCall.PinUserPages, GupFlags.Touch, 0)]
    [InlineData(GupCall.GetUserPagesUnlocked, GupFlags.Pin, -22)]
    [InlineData(GupCall.GetUserPagesFast, GupFlags.NoWait, -22)]
    [InlineData(GupCall.PinUserPagesFast, GupFlags.Dump, -22)]
    [InlineData(GupCall.PinUserPagesFast, GupFlags.HwPoison, -22)]
    [InlineData(GupCall.PinUserPagesFast, GupFlags.Anon, -22)]
    public void Rows_49_to_52_and_54_illegal_flags(GupCall call, GupFlags flags, long expected)
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        Assert.Equal(expected, lab.Gup(call, At, 1, flags, out var vector).Result.Raw);
        Assert.Equal(1, lab.ViewAt(At).RefCount);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData(GupCall.GetUserPagesRemote, -22)]
    [InlineData(GupCall.PinUserPagesRemote, 0)]
    public void Row_53_locked_points_to_0(GupCall call, long expected)
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        Assert.Equal(expected, lab.Gup(call, At, 1, GupFlags.None, out var vector, LockedArgument.NotHeld).Result.Raw);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData("4.3")]
    [InlineData("6.1")]
    [InlineData("6.18")]
    public void Row_56_a_stack_does_not_grow_for_gup(string profile)
    {
        using var lab = new Lab(profile);
        Assert.True(
            lab.Map(
                0x4000_0000, 4, Rw, MapFlags.Private | MapFlags.Anonymous | MapFlags.GrowsDown | MapFlags.Fixed).IsOk);
        Assert.Equal(Fault, lab.Get(0x4000_0000 - Page, 1, out var vector).Raw);
        Assert.Equal(UserSignal.None, lab.Machine.Touch(lab.Space, 0x4000_0000 - Page, isWrite: true));
        lab.Drop(vector);
    }

    [Fact]
    public void Rows_57_to_59_force()
    {
        using var lab = new Lab();
        lab.File(At, 1, FileKind.Disk, MapFlags.Private, Prot.Read | Prot.Exec);
        lab.SharedAnon(0x20000, 1, Prot.Read);
        lab.Anon(0x30000, 1, Prot.None, written: false);
        var force = GupFlags.Force;
        Assert.Equal(1, lab.Gup(GupCall.GetUserPages, At, 1, force | GupFlags.Write, out var row57).Result.Raw);
        Assert.True(lab.View(row57).Flags.HasFlag(FrameFlags.Anon));
        Assert.Equal(
            Fault, lab.Gup(GupCall.GetUserPages, 0x20000, 1, force | GupFlags.Write, out var row58).Result.Raw);
        Assert.Equal(1, lab.Gup(GupCall.GetUserPages, 0x30000, 1, force, out var row59).Result.Raw);
        lab.Drop(row57, row58, row59);
    }

    [Fact]
    public void Invalid_argument_value_is_named()
    {
        using var lab = new Lab();
        Assert.Equal(Invalid, lab.Gup(GupCall.GetUserPagesFast, At, 1, GupFlags.Tried, out var vector).Result.Raw);
        lab.Drop(vector);
    }
}
