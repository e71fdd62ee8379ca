using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Simulation;

/// <summary>
/// Every schedule of a pin whose faults drop the lock beside two other commands: at each point where the lock is
/// dropped any of them may come in. The outcome is foretold page by page from what stood when the page's turn came
/// (races of Semantics 8).
/// </summary>
public sealed class ScheduleTests
{
    private const ulong At = 0x1000_0000;
    private const ulong Elsewhere = 0x2000_0000;
    private const int Pages = 3;

    /// <summary>What can be had at each page, as the commands leave it.</summary>
    private sealed class Expectation
    {
        public bool[] IsThere { get; } = [true, true, true];

        /// <summary>
        /// Lies in ZONE_MOVABLE, as pages do that a program wrote; what a long-term pin faults in does not.
        /// </summary>
        public bool[] IsMovable { get; } = [true, true, true];

        public int FilePages { get; set; } = Pages;

        public bool IsFile { get; init; }
    }

    private sealed record Command(
        string Name, bool NeedsFile, Action<Lab, MemoryFile?> Run, Action<Expectation> Foretell);

    private static readonly Command[] Commands =
    [
        new("munmap page 1", false, (lab, _) => lab.Machine.Munmap(lab.Space, At + Lab.Page, Lab.Page),
            state => state.IsThere[1] = false),
        new("mprotect page 2 to none", false, (lab, _) => lab.Machine.Mprotect(
            lab.Space, At + (2 * Lab.Page), Lab.Page, Prot.None), state => state.IsThere[2] = false),
        new("MADV_DONTNEED", false,
            (lab, file) => lab.Machine.Madvise(lab.Space, At, Pages * Lab.Page, Advice.DontNeed), state =>
        {
            // A file's pages stay in its cache; anonymous ones are gone.
            if (!state.IsFile) Array.Fill(state.IsMovable, false);
        }),
        new("fork", false, (lab, _) => lab.Machine.Exit(lab.Fork()), _ => { }),
        new("mremap away", false, (lab, _) => lab.Machine.Mremap(
            lab.Space, At, Pages * Lab.Page, Pages * Lab.Page, MremapFlags.MayMove | MremapFlags.Fixed, Elsewhere),
            state => Array.Fill(state.IsThere, false)),
        new("truncate to one page", true, (lab, file) => lab.Machine.Truncate(file!, Lab.Page),
            state => state.FilePages = 1),
    ];

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Every_schedule_ends_as_foretold(bool isFile)
    {
        var schedules = 0;
        foreach (var first in Commands)
            foreach (var second in Commands)
            {
                if ((first.NeedsFile || second.NeedsFile) && !isFile) continue;
                // Slot 0 is before the pin, slot i after its fault on page i - 1 has dropped the lock, the last behind
                // its end.
                for (var early = 0; early <= Pages + 1; early++)
                    for (var late = early; late <= Pages + 1; late++, schedules++)
                        RunSchedule(isFile, (first, early), (second, late));
            }

        TestContext.Current.TestOutputHelper?.WriteLine(
            $"{schedules} schedules of a pin of {Pages} pages with two commands");
        Assert.True(schedules >= 300);
    }

    /// <summary>
    /// The same commands around a pin of pages that must be moved first: while it waits for the lock, between its walk
    /// and the look at its folios, and while it waits for the lock again to pin what was moved.
    /// </summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Every_schedule_of_a_migrating_pin_ends_as_foretold(bool isFile)
    {
        const int slots = 5;
        var schedules = 0;
        foreach (var first in Commands)
            foreach (var second in Commands)
            {
                if ((first.NeedsFile || second.NeedsFile) && !isFile) continue;
                for (var early = 0; early < slots; early++)
                    for (var late = early; late < slots; late++, schedules++)
                        RunMigratingSchedule(isFile, (first, early), (second, late));
            }

        TestContext.Current.TestOutputHelper?.WriteLine(
            $"{schedules} schedules of a migrating pin of {Pages} pages with two commands");
        Assert.True(schedules >= 300);
    }

    private static void RunMigratingSchedule(bool isFile, params (Command Command, int Slot)[] script)
    {
        var name = string.Join(", ", script.Select(entry => $"{entry.Command.Name} at {entry.Slot}"));
        using var lab = new Lab(configure: options => options with { MovableMemory = 32UL << 20 });
        var file = MapPages(lab, isFile);
        lab.Write(At, Pages);
        lab.Machine.AddFaultRule(new FaultRule { Point = ChoicePoint.LockTake, Action = FaultAction.Park, Times = 2 });
        lab.Machine.AddFaultRule(new FaultRule { Point = ChoicePoint.LongTermCheck, Action = FaultAction.Park });
        var state = new Expectation { IsFile = isFile };
        var done = 0;
        void RunUpTo(int slot)
        {
            foreach (var (command, _) in script.Where(entry => entry.Slot >= done && entry.Slot <= slot))
            {
                command.Run(lab, file);
                command.Foretell(state);
            }

            done = slot + 1;
        }

        PinOutcome Resume(PinOutcome outcome, string where, int slot)
        {
            Assert.True(outcome.Parked is not null, $"{name}: does not wait {where}");
            RunUpTo(slot);
            return lab.Machine.Resume(outcome.Parked);
        }

        int PagesToBeHad() => Enumerable.Range(0, Pages).TakeWhile(page => CanBeHad(state, page)).Count();

        RunUpTo(0);
        var outcome = lab.Gup(GupCall.PinUserPagesFast, At, Pages, GupFlags.Write | GupFlags.LongTerm, out var vector);
        outcome = Resume(outcome, "for the lock", 1);
        var expected = PagesToBeHad();
        var mustMove = state.IsMovable.Take(expected).Any(isMovable => isMovable);
        if (expected > 0) outcome = Resume(outcome, "before the check", 2);
        if (expected > 0 && mustMove)
        {
            outcome = Resume(outcome, "for the lock again", 3);
            expected = PagesToBeHad();
        }

        Assert.True(outcome.Parked is null, $"{name}: still waits");
        Assert.True(outcome.Result.Raw == (expected == 0 ? -(long)Errno.EFAULT : expected),
            $"{name}: foretold {expected}, came {outcome.Result.Raw}");
        foreach (var view in lab.Machine.ViewPages(vector, 0, (int)vector.Count))
            Assert.True(view.MaybeDmaPinned && lab.Machine.Context.Memory.IsLongTermPinnable(view.Pfn), name);
        RunUpTo(4);
        lab.Drop(vector);
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
    }

    private static MemoryFile? MapPages(Lab lab, bool isFile)
    {
        if (!isFile)
        {
            lab.Anon(At, Pages, written: false);
            return null;
        }

        var file = lab.Machine.CreateFile("/f", FileKind.Shmem, Pages * Lab.Page)!;
        lab.MapFile(At, Pages, file, MapFlags.Shared, Prot.Read | Prot.Write);
        return file;
    }

    private static void RunSchedule(bool isFile, params (Command Command, int Slot)[] script)
    {
        var name = string.Join(", ", script.Select(entry => $"{entry.Command.Name} at {entry.Slot}"));
        using var lab = new Lab();
        var file = MapPages(lab, isFile);
        for (var page = 0UL; page < Pages; page++)
            lab.Machine.AddFaultRule(new FaultRule
            {
                Point = ChoicePoint.Fault,
                Action = FaultAction.Park,
                Space = "app",
                Range = new AddressRange(At + (page * Lab.Page), At + ((page + 1) * Lab.Page)),
            });

        var state = new Expectation { IsFile = isFile };
        var done = 0;
        void RunUpTo(int slot)
        {
            foreach (var (command, _) in script.Where(entry => entry.Slot >= done && entry.Slot <= slot))
            {
                command.Run(lab, file);
                command.Foretell(state);
            }

            done = slot + 1;
        }

        RunUpTo(0);
        var outcome = lab.Gup(GupCall.PinUserPagesFast, At, Pages, GupFlags.Write | GupFlags.LongTerm, out var vector);
        var expected = -1L;
        for (var page = 0; page < Pages && expected < 0; page++)
        {
            // A page that is gone when its turn comes is not faulted on, so that nothing parks there.
            if (!CanBeFaulted(state, page)) expected = page;
            else
            {
                Assert.True(outcome.Parked is not null, $"{name}: does not wait at page {page}");
                Assert.Equal(At + ((ulong)page * Lab.Page), outcome.Parked.Address);
                RunUpTo(page + 1);
                outcome = lab.Machine.Resume(outcome.Parked);
                if (!CanBeHad(state, page)) expected = page;
            }
        }

        if (expected < 0) expected = Pages;
        Assert.True(outcome.Parked is null, $"{name}: still waits");
        Assert.True(outcome.Result.Raw == (expected == 0 ? -(long)Errno.EFAULT : expected),
            $"{name}: foretold {expected}, came {outcome.Result.Raw}");
        RunUpTo(Pages + 1);
        foreach (var view in lab.Machine.ViewPages(vector, 0, (int)vector.Count))
            Assert.True(view.MaybeDmaPinned, name);
        lab.Drop(vector);
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
    }

    /// <summary>The area is there, so that the walk comes to a fault, whatever the fault then says.</summary>
    private static bool CanBeFaulted(Expectation state, int page) => state.IsThere[page];

    private static bool CanBeHad(Expectation state, int page) => state.IsThere[page] && page < state.FilePages;
}
