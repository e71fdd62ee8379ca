using FramePin.Core.Abi;
using FramePin.Core.Addressing;

namespace FramePin.Conformance.Scripts;

/// <summary>An area that a script may work on.</summary>
public readonly record struct Area(AddressRange Range, bool IsAnonymous, bool IsRegistered, bool IsCounterPage);

/// <summary>What a script is mostly about.</summary>
public enum ScriptFocus
{
    /// <summary>Every kind of call.</summary>
    Everything,

    /// <summary>A few processes that share huge pages, take them apart, and pass them on.</summary>
    Sharing,

    /// <summary>A few processes that lock, give away and page out the same pages, small and huge.</summary>
    Reclaim,
}

/// <summary>
/// Makes random steps from a seed. Looks at FramePin's areas, never at the kernel's, so that a seed always gives the
/// same script.
/// </summary>
/// <param name="seed">Where the script begins.</param>
/// <param name="initial">The process that it runs in.</param>
/// <param name="focus">What it is about; null leaves that to the seed.</param>
public sealed partial class Generator(int seed, InitialProcess initial, ScriptFocus? focus = null)
{
    private const ulong Page = PageGeometry.PageSize;
    private const ulong Huge = PageGeometry.PmdSize;
    private const ulong Arena = 0x1000_0000;
    private const int ArenaPages = 48;
    private const ulong HugeArena = 0x4000_0000;
    private const int MaxProcesses = 4;

    private static readonly (StepKind Kind, int Weight)[] Weights =
    [
        (StepKind.Mmap, 170), (StepKind.Munmap, 50), (StepKind.Mprotect, 80), (StepKind.Mremap, 50),
        (StepKind.Madvise, 120),
        (StepKind.Mlock, 25), (StepKind.Munlock, 20), (StepKind.MlockAll, 2), (StepKind.MunlockAll, 3),
        (StepKind.Brk, 20),
        (StepKind.Mseal, 4), (StepKind.Msync, 10), (StepKind.Mincore, 30), (StepKind.Load, 110), (StepKind.Store, 150),
        (StepKind.Fork, 14), (StepKind.Exit, 8), (StepKind.Truncate, 15), (StepKind.PunchHole, 12),
        (StepKind.FileWrite, 20),
        (StepKind.FileRead, 10), (StepKind.Seal, 2), (StepKind.Register, 30), (StepKind.Unregister, 18),
        (StepKind.RegisteredRead, 12), (StepKind.RegisteredWrite, 12), (StepKind.Vmsplice, 14), (StepKind.Drain, 14),
        (StepKind.ProcessRead, 20), (StepKind.ProcessWrite, 20), (StepKind.MemRead, 20), (StepKind.MemWrite, 20),
        (StepKind.DirectWrite, 8), (StepKind.DirectRead, 8), (StepKind.CopyFrom, 18), (StepKind.Clear, 18),
        (StepKind.Futex, 18),
        (StepKind.FutexOp, 14), (StepKind.Limit, 6), (StepKind.DropRights, 2), (StepKind.Mdwe, 1),
        (StepKind.UffdRegister, 10), (StepKind.UffdUnregister, 4), (StepKind.UffdCopy, 7), (StepKind.UffdZero, 5),
        (StepKind.UffdProtect, 12),
        (StepKind.MovePages, 8),
    ];

    private static readonly (StepKind Kind, int Weight)[] SharingWeights =
    [
        (StepKind.Mmap, 40), (StepKind.Munmap, 30), (StepKind.Mprotect, 60), (StepKind.Mremap, 30),
        (StepKind.Madvise, 160),
        (StepKind.Load, 80), (StepKind.Store, 200), (StepKind.Fork, 60), (StepKind.Exit, 45), (StepKind.Register, 30),
        (StepKind.Unregister, 30), (StepKind.Vmsplice, 25), (StepKind.Drain, 25), (StepKind.MemRead, 20),
        (StepKind.MemWrite, 30),
        (StepKind.ProcessRead, 15), (StepKind.ProcessWrite, 20), (StepKind.DirectRead, 10), (StepKind.Mincore, 25),
        (StepKind.UffdRegister, 15),
        (StepKind.UffdProtect, 15), (StepKind.UffdUnregister, 8), (StepKind.Mlock, 8), (StepKind.Munlock, 8),
    ];

    private static readonly (StepKind Kind, int Weight)[] ReclaimWeights =
    [
        (StepKind.Mmap, 50), (StepKind.Munmap, 25), (StepKind.Mprotect, 20), (StepKind.Mremap, 45),
        (StepKind.Madvise, 280),
        (StepKind.Mlock, 80), (StepKind.Munlock, 60), (StepKind.MlockAll, 4), (StepKind.MunlockAll, 4),
        (StepKind.Load, 90),
        (StepKind.Store, 170), (StepKind.Fork, 40), (StepKind.Exit, 25), (StepKind.Mincore, 50),
        (StepKind.FileWrite, 15),
        (StepKind.FileRead, 8), (StepKind.Truncate, 8), (StepKind.PunchHole, 10), (StepKind.Msync, 10),
        (StepKind.Register, 15),
        (StepKind.Unregister, 15), (StepKind.Vmsplice, 10), (StepKind.Drain, 10), (StepKind.MovePages, 15),
        (StepKind.MemRead, 10),
        (StepKind.MemWrite, 15), (StepKind.ProcessRead, 10), (StepKind.UffdRegister, 8), (StepKind.UffdProtect, 8),
        (StepKind.UffdUnregister, 4),
    ];

    private static readonly Advice[] Advices =
    [
        Advice.Normal, Advice.Random, Advice.Sequential, Advice.WillNeed, Advice.DontNeed, Advice.DontNeed,
        Advice.DontNeed,
        Advice.Free, Advice.Remove, Advice.DontFork, Advice.DoFork, Advice.Mergeable, Advice.Unmergeable,
        Advice.HugePage,
        Advice.NoHugePage, Advice.DontDump, Advice.DoDump, Advice.WipeOnFork, Advice.KeepOnFork, Advice.Cold,
        Advice.PageOut, Advice.PageOut,
        Advice.PopulateRead, Advice.PopulateRead, Advice.PopulateWrite, Advice.PopulateWrite, Advice.DontNeedLocked,
        Advice.GuardInstall, Advice.GuardInstall, Advice.GuardRemove,
    ];

    /// <summary>What matters where there is swap, or huge pages are taken apart.</summary>
    private static readonly Advice[] SwapAdvices =
        [Advice.PageOut, Advice.PageOut, Advice.PageOut, Advice.PageOut, Advice.WillNeed, Advice.Free, Advice.HugePage,
            Advice.Cold];

    private static readonly Advice[] ReclaimAdvices =
    [
        Advice.PageOut, Advice.PageOut, Advice.PageOut, Advice.PageOut, Advice.Free, Advice.Free, Advice.Free,
        Advice.Cold,
        Advice.WillNeed, Advice.DontNeed, Advice.DontNeedLocked, Advice.HugePage, Advice.PopulateRead,
        Advice.PopulateWrite,
    ];

    private readonly Random _random = new(seed);
    private readonly ScriptFocus _focus = focus ?? FocusOf(seed);
    private readonly Queue<Step> _beginning = Beginning(focus ?? FocusOf(seed));
    private int _processes = 1;
    private readonly HashSet<int> _exited = [];

    /// <summary>The next step, given the areas of each process.</summary>
    public Step Next(Func<int, IReadOnlyList<Area>> areasOf)
    {
        if (_beginning.TryDequeue(out var first)) return first;
        while (true)
        {
            var process = PickProcess();
            var step = Make(process, PickKind(), areasOf(process));
            if (step is null || Endangers(step)) continue;
            if (step.Kind == StepKind.Fork) _processes++;
            if (step.Kind == StepKind.Exit) _exited.Add(process);
            return step;
        }
    }

    private static ScriptFocus FocusOf(int seed) => (seed % 6) switch
    {
        0 or 3 => ScriptFocus.Sharing,
        1 => ScriptFocus.Reclaim,
        _ => ScriptFocus.Everything,
    };

    /// <summary>Two huge pages of anonymous memory.</summary>
    private static Queue<Step> Beginning(ScriptFocus focus)
    {
        if (focus == ScriptFocus.Everything) return [];
        const ulong flags = (ulong)(MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed);
        return new Queue<Step>(
        [
            new Step(0, StepKind.Mmap, HugeArena, 2 * Huge, 3, flags, 0, 0),
            new Step(0, StepKind.Madvise, HugeArena, 2 * Huge, (ulong)Advice.HugePage),
            new Step(0, StepKind.Store, HugeArena, 1),
            new Step(0, StepKind.Store, HugeArena + Huge, 2),
        ]);
    }

    private int PickProcess()
    {
        while (true)
        {
            var process = _random.Next(4) == 0 ? _random.Next(_processes) : 0;
            if (!_exited.Contains(process)) return process;
        }
    }

    private StepKind PickKind()
    {
        var weights = _focus switch
        {
            ScriptFocus.Sharing => SharingWeights,
            ScriptFocus.Reclaim => ReclaimWeights,
            _ => Weights,
        };
        var at = _random.Next(weights.Sum(pair => pair.Weight));
        foreach (var (kind, weight) in weights)
        {
            if (at < weight) return kind;
            at -= weight;
        }

        throw new InvalidOperationException("weights");
    }

    private Step? Make(int process, StepKind kind, IReadOnlyList<Area> areas)
    {
        var (address, length) = PickRange(areas);
        if (Chance(60)) length = PickWrappingLength();
        switch (kind)
        {
            case StepKind.Mmap: return Mmap(process, address, length);
            case StepKind.Mprotect: return new Step(process, kind, address, length, PickProt());
            case StepKind.Mremap:
                var flags = Pick<ulong>([0, 1, 1, 1, 3, 3, 3, 5, 7]);
                var newLength = Chance(3) ? length : PickLength(address >= HugeArena && Chance(3));
                var (target, _) = PickRange(areas);
                return new Step(process, kind, address, length, newLength, flags, (flags & 6) != 0 ? target : 0);
            case StepKind.Madvise:
                return new Step(process, kind, address, length, (ulong)PickAdvice());
            case StepKind.Mlock: return new Step(process, kind, address, length, Chance(3) ? 1UL : 0);
            case StepKind.MlockAll: return new Step(process, kind, Pick<ulong>([1, 2, 3, 5, 6, 7]));
            case StepKind.MunlockAll or StepKind.Unregister or StepKind.Drain: return new Step(process, kind);
            case StepKind.Brk: return new Step(process, kind, PickBreak());
            case StepKind.Msync: return new Step(process, kind, address, length, Pick<ulong>([0, 1, 2, 4, 6, 5]));
            case StepKind.Mseal: return new Step(process, kind, address, length);
            case StepKind.Load: return new Step(process, kind, PickTouch(areas, address));
            case StepKind.Store: return new Step(process, kind, PickTouch(areas, address), PickByte());
            case StepKind.Fork:
                return _processes < (_focus == ScriptFocus.Everything
                ? MaxProcesses
                : MaxProcesses + 1) ? new Step(process, kind) : null;
            case StepKind.Exit: return process > 0 ? new Step(process, kind) : null;
            case StepKind.Truncate: return Truncate(process);
            case StepKind.PunchHole: return PunchHole(process);
            case StepKind.FileWrite: return new Step(process, kind, PickFile(), PickOffsetInFile(), PickByte());
            case StepKind.FileRead: return new Step(process, kind, Pick<ulong>([0, 1, 5, 6]), PickOffsetInFile());
            case StepKind.Seal: return new Step(process, kind, 0);
            case StepKind.RegisteredRead: return new Step(process, kind, (ulong)_random.Next(0, 4) * Page);
            case StepKind.RegisteredWrite: return new Step(process, kind, (ulong)_random.Next(0, 4) * Page, PickByte());
            case StepKind.ProcessWrite or StepKind.MemWrite:
                return new Step(process, kind, address, Math.Clamp(length, Page, 16 * Page), PickByte());
            case StepKind.DirectRead or StepKind.DirectWrite or StepKind.Vmsplice:
                // The block layer wants aligned memory, and a pipe joins parts of pages.
                return new Step(process, kind, address & ~(Page - 1), Math.Clamp(length, Page, 16 * Page));
            case StepKind.Futex or StepKind.FutexOp: return new Step(process, kind, address);
            case StepKind.Limit: return Limit(process);
            case StepKind.UffdRegister:
                return UffdRegister(process, areas, address, (length + Page - 1) & ~(Page - 1));
            case StepKind.UffdUnregister:
                return new Step(
                process, kind, Registered(areas, address), (length + Page - 1) & ~(Page - 1));
            case StepKind.UffdCopy: return new Step(process, kind, Registered(areas, address), PickByte());
            // The outcome is not known on a host whose reads do not map the zero page.
            case StepKind.UffdZero:
                return initial.UsesZeroPage
                ? new Step(process, kind, Registered(areas, address))
                : null;
            case StepKind.UffdProtect:
                return new Step(
                    process, kind, Registered(areas, address), (length + Page - 1) & ~(Page - 1), Chance(3) ? 0UL : 1);
            case StepKind.DropRights: return new Step(process, kind);
            case StepKind.Mdwe: return new Step(process, kind, Pick<ulong>([0, 1, 1, 2, 3]));
            case StepKind.Munmap or StepKind.Munlock: return new Step(process, kind, address, length);
            default: return new Step(process, kind, address, Math.Clamp(length, Page, 16 * Page));
        }
    }

    /// <summary>
    /// Write protection only inside one anonymous area: FramePin has it for no other memory (a deviation of
    /// src/Core/DEVIATIONS.md).
    /// </summary>
    private Step UffdRegister(int process, IReadOnlyList<Area> areas, ulong address, ulong length)
    {
        var area = areas.FirstOrDefault(area => area.Range.Contains(address));
        if (!area.IsAnonymous)
            return new Step(process, StepKind.UffdRegister, address, length, Pick<ulong>([1, 1, 1, 0]));
        return new Step(process, StepKind.UffdRegister, address, Math.Min(length, area.Range.End - address),
            Pick<ulong>([1, 2, 2, 3]));
    }

    /// <summary>
    /// A page of an area that is registered with a userfaultfd, when there is one; one time in four some other address.
    /// </summary>
    private ulong Registered(IReadOnlyList<Area> areas, ulong address)
    {
        var registered = areas.Where(area => area.IsRegistered).ToList();
        if (registered.Count == 0 || Chance(4)) return address;
        var range = registered[_random.Next(registered.Count)].Range;
        return range.Start + ((ulong)_random.NextInt64((long)Math.Min(range.Length / Page, 1024)) * Page);
    }

    private Step Limit(int process)
    {
        const ulong unlimited = ulong.MaxValue;
        var (resource, values) = Pick<(ulong, ulong[])>([
            (2, [0, 16 * Page, 64 * Page, 1UL << 30, unlimited, unlimited]),
            (3, [16 * Page, 64 * Page, 8UL << 20]),
            (8, [0, 4 * Page, 16 * Page, 17 * Page, 8UL << 20, 8UL << 20]),
            (9, [64 * Page, 128 * Page, 8UL << 20, unlimited, unlimited]),
        ]);
        // The charge of an ordinary user's rings lingers from one script to the next. A small limit would count it.
        if (resource == 8 && !initial.IsPrivileged) values = [8UL << 20];
        return new Step(process, StepKind.Limit, resource, Pick<ulong>(values));
    }

    private (ulong Address, ulong Length) PickRange(IReadOnlyList<Area> areas)
    {
        var where = _random.Next(100);
        if (where < 45 && areas.Count > 0)
        {
            var area = areas[_random.Next(areas.Count)].Range;
            var pages = area.Length / Page;
            var first = (ulong)_random.NextInt64((long)Math.Min(pages, 1024));
            return (area.Start + (first * Page), PickLength(pages >= 512 && Chance(2)));
        }

        if (where < (_focus == ScriptFocus.Sharing ? 90 : _focus == ScriptFocus.Reclaim ? 70 : 55))
        {
            var at = HugeArena + ((ulong)_random.Next(0, _focus == ScriptFocus.Everything ? 3 : 2) * Huge)
                + (Chance(2) ? 0 : (ulong)_random.Next(0, 512) * Page);
            return (at, PickLength(Chance(2)));
        }

        var address = Arena
            + ((ulong)_random.Next(0, _focus == ScriptFocus.Reclaim ? ArenaPages / 4 : ArenaPages) * Page);
        if (Chance(60)) address += 0x10;
        return (address, PickLength(false));
    }

    private ulong PickLength(bool huge)
    {
        if (huge) return Huge * (ulong)_random.Next(1, 3);
        var pages = (ulong)_random.Next(1, 9);
        if (Chance(15)) pages = (ulong)_random.Next(9, 25);
        var length = pages * Page;
        if (Chance(30)) length -= 0x800;
        return Chance(100) ? 0 : length;
    }

    private Advice PickAdvice()
    {
        if (_focus == ScriptFocus.Reclaim && !Chance(4)) return Pick(ReclaimAdvices);
        return (initial.Swap > 0 || _focus != ScriptFocus.Everything) && Chance(2) ? Pick(SwapAdvices) : Pick(Advices);
    }

    private ulong PickProt() => Pick<ulong>([3, 3, 3, 3, 3, 1, 1, 0, 7, 5, 2]);

    private ulong PickFile() => Pick<ulong>([0, 0, 0, 1, 1, 2, 2, 2, 3, 4, 5, 6]);

    private ulong PickSize() =>
        Chance(4) ? ((ulong)_random.Next(0, 20) * Page) + 0x800 : (ulong)_random.Next(0, 20) * Page;

    private ulong PickByte() => (ulong)_random.Next(1, 256);

    private ulong PickOffset() => Chance(2) ? 0 : (ulong)_random.Next(1, 4096);

    private bool Chance(int oneIn) => _random.Next(oneIn) == 0;

    private T Pick<T>(ReadOnlySpan<T> from) => from[_random.Next(from.Length)];
}
