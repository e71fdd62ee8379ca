using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Pinning;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Simulation;

/// <summary>
/// Every schedule of a pin whose faults drop the lock beside two other commands: at each point where the lock is dropped any of
/// them may come in. The outcome is foretold page by page from what stood when the page's turn came (race rows of section 8).
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

        public int FilePages { get; set; } = Pages;
    }

    private sealed record Command(string Name, bool NeedsFile, Action<Lab, MemoryFile?> Run, Action<Expectation> Foretell);

    private static readonly Command[] Commands =
    [
        new("munmap page 1", false, (lab, _) => lab.Machine.Munmap(lab.Space, At + Lab.Page, Lab.Page), state => state.IsThere[1] = false),
        new("mprotect page 2 to none", false, (lab, _) => lab.Machine.Mprotect(lab.Space, At + (2 * Lab.Page), Lab.Page, Prot.None), state => state.IsThere[2] = false),
        new("MADV_DONTNEED", false, (lab, _) => lab.Machine.Madvise(lab.Space, At, Pages * Lab.Page, Advice.DontNeed), _ => { }),
        new("fork", false, (lab, _) => lab.Machine.Exit(lab.Fork()), _ => { }),
        new("mremap away", false, (lab, _) => lab.Machine.Mremap(
            lab.Space, At, Pages * Lab.Page, Pages * Lab.Page, MremapFlags.MayMove | MremapFlags.Fixed, Elsewhere),
            state => Array.Fill(state.IsThere, false)),
        new("truncate to one page", true, (lab, file) => lab.Machine.Truncate(file!, Lab.Page), state => state.FilePages = 1),
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
                // Slot 0 is before the pin, slot i after its fault on page i - 1 has dropped the lock, the last behind its end.
                for (var early = 0; early <= Pages + 1; early++)
                    for (var late = early; late <= Pages + 1; late++, schedules++)
                        RunSchedule(isFile, (first, early), (second, late));
            }

        TestContext.Current.TestOutputHelper?.WriteLine($"{schedules} schedules of a pin of {Pages} pages with two commands");
        Assert.True(schedules >= 300);
    }

    private static void RunSchedule(bool isFile, params (Command Command, int Slot)[] script)
    {
        var name = string.Join(", ", script.Select(entry => $"{entry.Command.Name} at {entry.Slot}"));
        using var lab = new Lab();
        MemoryFile? file = null;
        if (isFile)
        {
            file = lab.Machine.CreateFile("/f", FileKind.Shmem, Pages * Lab.Page)!;
            lab.MapFile(At, Pages, file, MapFlags.Shared, Prot.Read | Prot.Write);
        }
        else
        {
            lab.Anon(At, Pages, written: false);
        }

        for (var page = 0UL; page < Pages; page++)
            lab.Machine.AddFaultRule(new FaultRule
            {
                Point = ChoicePoint.Fault,
                Action = FaultAction.Park,
                Space = "app",
                Range = new AddressRange(At + (page * Lab.Page), At + ((page + 1) * Lab.Page)),
            });

        var state = new Expectation();
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
        Assert.True(outcome.Result.Raw == (expected == 0 ? -(long)Errno.EFAULT : expected), $"{name}: foretold {expected}, came {outcome.Result.Raw}");
        RunUpTo(Pages + 1);
        foreach (var view in lab.Machine.ViewPages(vector, 0, (int)vector.Count)) Assert.True(view.MaybeDmaPinned, name);
        lab.Drop(vector);
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
    }

    /// <summary>The area is there, so that the walk comes to a fault, whatever the fault then says.</summary>
    private static bool CanBeFaulted(Expectation state, int page) => state.IsThere[page];

    private static bool CanBeHad(Expectation state, int page) => state.IsThere[page] && page < state.FilePages;
}
