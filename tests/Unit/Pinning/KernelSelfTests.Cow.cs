using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>cow: what a process pins or splices stays one with what it sees, over fork, unmap and write.</summary>
public sealed partial class KernelSelfTests
{
    public static TheoryData<string, string> CowMatrix()
    {
        var runs = new TheoryData<string, string>();
        foreach (var memory in new[]
        {
            "base page", "THP", "PTE-mapped THP", "single PTE of partially mapped THP", "THP moved by half",
            "THP shared by half", "hugetlb",
        })
        {
            foreach (var test in CowCases.Keys) runs.Add(memory, test);
            if (memory is not ("base page" or "THP" or "PTE-mapped THP" or "single PTE of partially mapped THP"))
                continue;
            foreach (var test in CowCases.Keys)
            {
                runs.Add(memory + SwappedOut, test);
                runs.Add(memory + SwappedIn, test);
            }
        }

        return runs;
    }

    private const string SwappedOut = ", swapped out";
    private const string SwappedIn = ", swapped in";

    /// <summary>cow, anonymous memory: what is pinned or spliced stays consistent over fork, unmap and write.</summary>
    [Theory]
    [MemberData(nameof(CowMatrix))]
    public void Cow_of_anonymous_memory(string memory, string test)
    {
        using var lab = new Lab("6.18", options =>
            options with { HugePages2M = memory == "hugetlb" ? 8 : 0, Swap = 16UL << 20, AuditsEachCommand = true });
        MapAnonymous(lab, memory.Split(',')[0]);
        if (memory.Contains(',', StringComparison.Ordinal))
            Swap(lab, isBackIn: memory.EndsWith(SwappedIn, StringComparison.Ordinal));
        CowCases[test](lab, memory == "hugetlb");
    }

    public static TheoryData<string, string> NonAnonymousCowMatrix()
    {
        var runs = new TheoryData<string, string>();
        foreach (var memory in new[] { "zero page", "huge zero page", "memfd", "tmpfile", "hugetlb" })
            foreach (var test in NonAnonymousCowCases.Keys) runs.Add(memory, test);
        return runs;
    }

    /// <summary>
    /// cow, what is not anonymous yet: a private mapping of the zero page or a file, beside another view of the same.
    /// </summary>
    [Theory]
    [MemberData(nameof(NonAnonymousCowMatrix))]
    public void Cow_of_other_memory(string memory, string test)
    {
        using var lab = new Lab("6.18", options => options with { HugePages2M = memory == "hugetlb" ? 8 : 0 });
        var pages = MapBeside(lab, memory);
        NonAnonymousCowCases[test](lab, pages);
    }

    private const ulong Beside = 0x8000_0000;

    /// <summary>
    /// A private writable mapping that has been read at <see cref="At"/> and another view of what it shows at
    /// <see cref="Beside"/>.
    /// </summary>
    private static int MapBeside(Lab lab, string memory)
    {
        switch (memory)
        {
            case "zero page":
                lab.Anon(At, 1, written: false);
                lab.Anon(Beside, 1, Prot.Read, written: false);
                lab.Load(At, 1);
                lab.Load(Beside, 1);
                Assert.True((lab.ViewAt(At).Flags & Core.Frames.FrameFlags.Zero) != 0);
                return 1;
            case "huge zero page":
                foreach (var (at, prot) in new[] { (At, Prot.Read | Prot.Write), (Beside, Prot.Read) })
                {
                    lab.Anon(at, 512, prot, written: false);
                    Assert.True(lab.Machine.Madvise(lab.Space, at, Huge, Advice.HugePage).IsOk);
                    lab.Load(at, 1);
                }

                // One page, mapped by both.
                Assert.Equal(lab.ViewAt(At).Pfn, lab.ViewAt(Beside).Pfn);
                return 512;
            default:
                var kind = memory switch
                {
                    "memfd" => FileKind.Shmem,
                    "tmpfile" => FileKind.Disk,
                    _ => FileKind.HugeTlb
                };
                var pages = kind == FileKind.HugeTlb ? 512 : 1;
                var file = lab.Machine.CreateFile(
                    $"/{memory}", kind, (ulong)pages * Lab.Page, kind == FileKind.HugeTlb ? 9 : 0)!;
                lab.MapFile(Beside, pages, file, MapFlags.Shared, Prot.Read | Prot.Write);
                lab.Poke(Beside, 7);
                lab.MapFile(At, pages, file, MapFlags.Private, Prot.Read | Prot.Write);
                Assert.Equal(7, lab.Peek(At));
                return pages;
        }
    }

    private static readonly Dictionary<string, Action<Lab, int>> NonAnonymousCowCases = new(StringComparer.Ordinal)
    {
        ["Basic COW"] = (lab, pages) =>
        {
            var before = lab.Peek(Beside);
            for (var page = 0; page < pages; page += 64) lab.Poke(At + ((ulong)page * Lab.Page), 0xff);
            Assert.Equal(0xff, lab.Peek(At));
            Assert.Equal(before, lab.Peek(Beside));
        },
        ["R/O longterm GUP pin"] = (lab, pages) => ReadOnlyPin(lab, pages, isFast: false),
        ["R/O longterm GUP-fast pin"] = (lab, pages) => ReadOnlyPin(lab, pages, isFast: true),
    };

    /// <summary>A long-term read-only pin goes on seeing what the process writes afterwards.</summary>
    private static void ReadOnlyPin(Lab lab, int pages, bool isFast)
    {
        const uint fast = 2;
        using var device = new GupTest(lab.Machine, lab.Space);
        Assert.Equal(Errno.None, device.StartLongTerm(At, (ulong)pages * Lab.Page, isFast ? fast : 0));
        var before = lab.Peek(Beside);
        for (var page = 0; page < pages; page += 64) lab.Poke(At + ((ulong)page * Lab.Page), 0xff);
        var seen = new byte[(ulong)pages * Lab.Page];
        Assert.Equal(Errno.None, device.Read(seen));
        for (var page = 0; page < pages; page += 64) Assert.Equal(0xff, seen[page * (int)Lab.Page]);
        Assert.Equal(before, lab.Peek(Beside));
        device.Stop();
    }

    private static void MapAnonymous(Lab lab, string memory)
    {
        var isHuge = memory != "base page";
        var flags = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed
            | (memory == "hugetlb" ? MapFlags.HugeTlb : 0);
        Assert.True(lab.Map(At, isHuge ? 512 : 1, Prot.Read | Prot.Write, flags).IsOk);
        if (isHuge && memory != "hugetlb") Assert.True(lab.Machine.Madvise(lab.Space, At, Huge, Advice.HugePage).IsOk);
        lab.Poke(At, 1);
        if (memory == "PTE-mapped THP")
        {
            foreach (var prot in new[] { Prot.Read, Prot.Read | Prot.Write })
                Assert.True(lab.Machine.Mprotect(lab.Space, At + Lab.Page, Lab.Page, prot).IsOk);
        }

        const ulong half = Huge / 2;
        if (memory == "THP moved by half")
            Assert.True(lab.Machine.Mremap(
                lab.Space, At + half, half, half, MremapFlags.MayMove | MremapFlags.Fixed, 2 * At).IsOk);
        if (memory == "THP shared by half")
        {
            // A child that has one half only, and ends: what it shared is the parent's alone again.
            Assert.True(lab.Machine.Madvise(lab.Space, At + half, half, Advice.DontFork).IsOk);
            lab.Machine.Exit(lab.Fork("short"));
            Assert.True(lab.Machine.Madvise(lab.Space, At + half, half, Advice.DoFork).IsOk);
        }

        if (memory.StartsWith("single PTE", StringComparison.Ordinal))
            Assert.True(lab.Machine.Madvise(lab.Space, At + Lab.Page, Huge - Lab.Page, Advice.DontNeed).IsOk);
    }

    /// <summary>Pages out whatever is there, and touches it again where it is to come back.</summary>
    private static void Swap(Lab lab, bool isBackIn)
    {
        const ulong swapped = 1UL << 62;
        const ulong present = 1UL << 63;
        var areas = lab.Machine.Maps(lab.Space).Where(
            entry => entry.Range.Start >= At && entry.Range.End <= At + Huge).ToList();
        var resident = areas.SelectMany(area => ResidentPages(lab, area.Range)).ToList();
        Assert.NotEmpty(resident);
        foreach (var area in areas)
            Assert.True(lab.Machine.Madvise(lab.Space, area.Range.Start, area.Range.Length, Advice.PageOut).IsOk);
        Assert.All(
            resident, page => Assert.Equal(swapped, lab.Machine.Pagemap(lab.Space, page, 1)[0] & (swapped | present)));
        if (!isBackIn) return;
        foreach (var page in resident) lab.Load(page, 1);
        Assert.All(
            resident, page => Assert.Equal(present, lab.Machine.Pagemap(lab.Space, page, 1)[0] & (swapped | present)));
    }

    private static IEnumerable<ulong> ResidentPages(Lab lab, AddressRange range)
    {
        var entries = lab.Machine.Pagemap(lab.Space, range.Start, (int)(range.Length / Lab.Page));
        return Enumerable.Range(0, entries.Length).Where(page => entries[page] >> 63 != 0).Select(
            page => range.Start + ((ulong)page * Lab.Page));
    }

    private static readonly Dictionary<string, Action<Lab, bool>> CowCases = new(StringComparer.Ordinal)
    {
        ["basic COW after fork"] = (lab, _) => ChildKeepsItsByte(lab, protects: false),
        ["basic COW after fork with mprotect"] = (lab, _) => ChildKeepsItsByte(lab, protects: true),
        ["vmsplice, unmap in child"] = (lab, isHugeTlb) => SplicedInChild(lab, protects: false, isHugeTlb),
        ["vmsplice, unmap in child with mprotect"] = (lab, isHugeTlb) => SplicedInChild(lab, protects: true, isHugeTlb),
        ["vmsplice before fork, unmap in parent"] = (lab, isHugeTlb) =>
            SplicedInParent(lab, beforeFork: true, isHugeTlb),
        ["vmsplice, unmap in parent after fork"] = (lab, isHugeTlb) =>
            SplicedInParent(lab, beforeFork: false, isHugeTlb),
        ["R/W pin, fork"] = (lab, _) =>
            Pinned(lab, GupCall.PinUserPagesFast, GupFlags.Write, forksFirst: false, childLives: true),
        ["R/W pin, fork, child ends"] = (lab, _) =>
            Pinned(lab, GupCall.PinUserPagesFast, GupFlags.Write, forksFirst: false, childLives: false),
        ["R/O pin on shared page"] = (lab, _) =>
            Pinned(lab, GupCall.PinUserPages, GupFlags.None, forksFirst: true, childLives: true),
        ["R/O fast pin on shared page"] = (lab, _) =>
            Pinned(lab, GupCall.PinUserPagesFast, GupFlags.None, forksFirst: true, childLives: true),
        ["R/O pin on previously shared page"] = (lab, _) =>
            Pinned(lab, GupCall.PinUserPages, GupFlags.None, forksFirst: true, childLives: false),
        ["R/O fast pin on previously shared page"] = (lab, _) =>
            Pinned(lab, GupCall.PinUserPagesFast, GupFlags.None, forksFirst: true, childLives: false),
        ["R/O pin on exclusive page"] = (lab, _) => PinnedReadOnlyMapped(lab, GupCall.PinUserPages),
        ["R/O fast pin on exclusive page"] = (lab, _) => PinnedReadOnlyMapped(lab, GupCall.PinUserPagesFast),
        ["fixed buffer, then mapped R/O"] = (lab, _) => Registered(lab, MapReadOnly),
        ["fixed buffer, fork"] = (lab, _) => Registered(lab, static lab => lab.Fork()),
    };

    /// <summary>
    /// Takes the write permission of the entries away and gives the area's back: the next store faults, or finds it may
    /// write.
    /// </summary>
    private static void MapReadOnly(Lab lab)
    {
        var range = lab.Machine.Maps(lab.Space).First(entry => entry.Range.Contains(At)).Range;
        foreach (var prot in new[] { Prot.Read, Prot.Read | Prot.Write })
            Assert.True(lab.Machine.Mprotect(lab.Space, range.Start, range.Length, prot).IsOk);
    }

    private static void PinnedReadOnlyMapped(Lab lab, GupCall call)
    {
        MapReadOnly(lab);
        Pinned(lab, call, GupFlags.None, forksFirst: false, childLives: true);
    }

    /// <summary>What is stored after io_uring registered the page as a fixed buffer is what it writes.</summary>
    private static void Registered(Lab lab, Action<Lab> between)
    {
        var ring = lab.Machine.SetupRing(lab.Space, out _)!;
        Assert.Equal(Errno.None, ring.Register((At, Lab.Page)).Error);
        between(lab);
        lab.Poke(At, 3);
        Assert.Equal(3, lab.PeekFrame(ring.Buffers[0]!));
        Assert.True(ring.Unregister().IsOk);
    }

    private static void ChildKeepsItsByte(Lab lab, bool protects)
    {
        var child = lab.Fork();
        if (protects)
        {
            var size = lab.Machine.Maps(lab.Space).First(entry => entry.Range.Contains(At)).Range.Length;
            Assert.True(lab.Machine.Mprotect(lab.Space, At, size, Prot.Read).IsOk);
            Assert.True(lab.Machine.Mprotect(lab.Space, At, size, Prot.Read | Prot.Write).IsOk);
        }

        lab.Poke(At, 2);
        Assert.Equal(1, lab.Peek(At, child));
        Assert.Equal(2, lab.Peek(At));
    }

    /// <summary>
    /// A page that the child spliced before it unmapped it must not show what the parent writes later; hugetlb does
    /// (known).
    /// </summary>
    private static void SplicedInChild(Lab lab, bool protects, bool isHugeTlb)
    {
        var child = lab.Fork();
        var pipe = new List<FrameVector>();
        Assert.True(lab.Machine.Vmsplice(child, At, Lab.Page, 1, pipe).IsOk);
        var range = lab.Machine.Maps(child).First(entry => entry.Range.Contains(At)).Range;
        Assert.True(lab.Machine.Munmap(child, range.Start, range.Length).IsOk);
        if (protects)
        {
            Assert.True(lab.Machine.Mprotect(lab.Space, range.Start, range.Length, Prot.Read).IsOk);
            Assert.True(lab.Machine.Mprotect(lab.Space, range.Start, range.Length, Prot.Read | Prot.Write).IsOk);
        }

        lab.Poke(At, 2);
        Assert.Equal(isHugeTlb ? 2 : 1, lab.PeekFrame(pipe[0]));
        lab.Drop([.. pipe]);
    }

    private static void SplicedInParent(Lab lab, bool beforeFork, bool isHugeTlb)
    {
        var pipe = new List<FrameVector>();
        if (beforeFork) Assert.True(lab.Machine.Vmsplice(lab.Space, At, Lab.Page, 1, pipe).IsOk);
        var child = lab.Fork();
        if (!beforeFork) Assert.True(lab.Machine.Vmsplice(lab.Space, At, Lab.Page, 1, pipe).IsOk);
        var range = lab.Machine.Maps(lab.Space).First(entry => entry.Range.Contains(At)).Range;
        Assert.True(lab.Machine.Munmap(lab.Space, range.Start, range.Length).IsOk);
        Assert.Equal(1, lab.Machine.Write(child, At, [2], out _));
        Assert.Equal(isHugeTlb ? 2 : 1, lab.PeekFrame(pipe[0]));
        lab.Drop([.. pipe]);
    }

    /// <summary>What the parent writes after the pin is seen through it, whoever shares the page.</summary>
    private static void Pinned(Lab lab, GupCall call, GupFlags access, bool forksFirst, bool childLives)
    {
        AddressSpace? child = null;
        if (forksFirst) child = lab.Fork();
        if (forksFirst && !childLives) lab.Machine.Exit(child!);
        Assert.Equal(1, lab.Gup(call, At, 1, access | GupFlags.LongTerm, out var vector).Result.Raw);
        if (!forksFirst) child = lab.Fork();
        if (!forksFirst && !childLives) lab.Machine.Exit(child!);
        lab.Poke(At, 3);
        Assert.Equal(3, lab.PeekFrame(vector));
        if (childLives) Assert.Equal(1, lab.Peek(At, child));
        lab.Drop(vector);
    }
}
