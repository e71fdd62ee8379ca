using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;

namespace FramePin.Conformance.Matrix;

/// <summary>A kind of mapping: how it is made, and where the paths into memory are tried.</summary>
/// <param name="Name">As the recorded tables call it.</param>
/// <param name="Pages">Pages tried, mostly four.</param>
/// <param name="Make">From the process as it starts: the address tried, and the steps that make the mapping.</param>
public sealed record AccessRow(
    string Name, int Pages, Func<InitialProcess, (ulong Address, IReadOnlyList<Step> Steps)> Make)
{
    private const ulong Page = 4096;
    private const ulong At = 0x1000_0000;
    private const ulong Size = 4 * Page;
    private const MapFlags Anon = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed;
    private const MapFlags SharedAnon = MapFlags.Shared | MapFlags.Anonymous | MapFlags.Fixed;
    private const MapFlags SharedFile = MapFlags.Shared | MapFlags.Fixed;
    private const MapFlags PrivateFile = MapFlags.Private | MapFlags.Fixed;
    private const Prot Rw = Prot.Read | Prot.Write;
    private const ulong Memfd = 0, Tmpfs = 1, Disk = 2, DiskReadOnly = 4, Secret = 5, Zero = 7, Rom = 8;

    /// <summary>The kinds of mapping of the recorded tables that an emulation can express.</summary>
    public static IReadOnlyList<AccessRow> All { get; } =
    [
        Of("anon RW written", [Map(Rw, Anon), .. Stores()]),
        Of("anon RW read-touched (zero page)", [Map(Rw, Anon), .. Loads()]),
        Of("shared anon RW untouched", [Map(Rw, SharedAnon)]),
        Of("shared anon RW written", [Map(Rw, SharedAnon), .. Stores()]),
        Of("memfd MAP_SHARED", [.. Emptied(Memfd), Map(Rw, SharedFile, Memfd)]),
        Of("memfd MAP_PRIVATE", [.. Emptied(Memfd), Map(Rw, PrivateFile, Memfd)]),
        Of("memfd sealed WRITE, PROT_READ shared",
            [new Step(0, StepKind.Seal, Memfd), Map(Prot.Read, SharedFile, Memfd)]),
        Of("tmpfs file MAP_SHARED", [.. Emptied(Tmpfs), Map(Rw, SharedFile, Tmpfs)]),
        Of("file private RW read-touched", [Map(Rw, PrivateFile, Disk), .. Loads()]),
        Of("file shared RW untouched", [Map(Rw, SharedFile, Disk)]),
        Of("file shared RW written", [Map(Rw, SharedFile, Disk), .. Stores()]),
        Of("file private PROT_READ", [Map(Prot.Read, PrivateFile, Disk)]),
        Of("file shared PROT_READ (fd RW)", [Map(Prot.Read, SharedFile, Disk)]),
        Of("file shared PROT_READ (fd RO)", [Map(Prot.Read, SharedFile, DiskReadOnly)]),
        Of("anon PROT_NONE untouched", [Map(Prot.None, Anon)]),
        Of("anon PROT_NONE after write", [Map(Rw, Anon), .. Stores(), Protect(0, 4, Prot.None)]),
        Of("anon PROT_READ untouched", [Map(Prot.Read, Anon)]),
        Of("anon PROT_READ after write", [Map(Rw, Anon), .. Stores(), Protect(0, 4, Prot.Read)]),
        Of("shared anon PROT_READ after write", [Map(Rw, SharedAnon), .. Stores(), Protect(0, 4, Prot.Read)]),
        Of("anon PROT_WRITE only", [Map(Prot.Write, Anon)]),
        Of("anon PROT_EXEC only", [Map(Prot.Exec, Anon)]),
        Of("hole at page 2 of 4", [Map(Rw, Anon), .. Stores(), Unmap(2, 1)]),
        Of("hole at page 0 of 4", [Map(Rw, Anon), .. Stores(), Unmap(0, 1)]),
        Of("whole range unmapped", []),
        Of("spans anon + shared anon", [Map(Rw, Anon, pages: 2), Map(Rw, SharedAnon, first: 2, pages: 2), .. Stores()]),
        Of("spans RW + PROT_NONE (p2)", [Map(Rw, Anon), .. Stores(), Protect(2, 2, Prot.None)]),
        Of("spans anon + shared file (p2)", [Map(Rw, Anon, pages: 2), .. Stores(2), Map(Rw, SharedFile, Disk, 2, 2)]),
        Of("file shared past EOF (p1..)", [new Step(0, StepKind.Truncate, Disk, Page), Map(Rw, SharedFile, Disk)]),
        Of("memfd truncated to 1 page",
            [Map(Rw, SharedFile, Memfd), .. Stores(), new Step(0, StepKind.Truncate, Memfd, Page)]),
        new("[vvar]", 4, process => (Named(process, "[vvar]").Start, [])),
        new("[vsyscall] gate", 1, _ => (0xffff_ffff_ff60_0000, [])),
        new("[stack]", 4, process => (Named(process, "[stack]").Start, [])),
        new("program text (1 page)", 1,
            process => (Named(process, "exe").Start, RunByTwo(Named(process, "exe").Start))),
        new("8 pages below [stack]", 4, process => (Named(process, "[stack]").Start - (8 * Page), [])),
        Of("memfd_secret", [Map(Rw, SharedFile, Secret), .. Stores()]),
        Of("/dev/mem ROM private RW", [Map(Rw, PrivateFile, Rom)]),
        Of("/dev/zero private", [Map(Rw, PrivateFile, Zero)]),
        Of("/dev/zero shared", [Map(Rw, SharedFile, Zero)]),
        Of("hugetlb anon written", [Map(Rw, Anon | MapFlags.HugeTlb, pages: 512), .. Stores()]),
        Of("THP written", [Map(Rw, Anon, pages: 512), Advise(0, 512, Advice.HugePage), .. Stores()]),
        Of("THP-advised untouched", [Map(Rw, Anon, pages: 512), Advise(0, 512, Advice.HugePage)]),
        Of("uffd POISON pte", [Map(Rw, Anon), new Step(0, StepKind.Poison, At, Size)]),
        Of("MADV_GUARD_INSTALL p2", [Map(Rw, Anon), .. Stores(), Advise(2, 1, Advice.GuardInstall)]),
        Of("MADV_DONTNEED after write", [Map(Rw, Anon), .. Stores(), Advise(0, 4, Advice.DontNeed)]),
        Of("MADV_FREE after write", [Map(Rw, Anon), .. Stores(), Advise(0, 4, Advice.Free)]),
        Of("MAP_DROPPABLE", [Map(Rw, MapFlags.Droppable | MapFlags.Anonymous | MapFlags.Fixed), .. Stores()]),
        Of("mseal", [Map(Rw, Anon), .. Stores(), new Step(0, StepKind.Mseal, At, Size)]),
        Of("MADV_MERGEABLE", [Map(Rw, Anon), .. Stores(), Advise(0, 4, Advice.Mergeable)]),
        Of("MADV_HWPOISON p2", [Map(Rw, Anon), .. Stores(), Advise(2, 1, Advice.HwPoison)]),
        Of("anon COW-shared with child", [Map(Rw, Anon), .. Stores(), new Step(0, StepKind.Fork)]),
        Of("MAP_LOCKED", [Map(Rw, Anon | MapFlags.Locked), .. Stores()]),
        new("kernel address", 4, _ => (0xffff_8880_0000_0000, [])),
        new("non-canonical address", 4, _ => (0x1234_0000_0000_0000, [])),
        new("NULL..16K", 4, _ => (0, [])),
        new("wraps past 2^64", 4, _ => (0xffff_ffff_ffff_e000, [])),
    ];

    /// <summary>Text is cached and mapped by the process that runs it, and by its parent.</summary>
    private static IReadOnlyList<Step> RunByTwo(ulong text) =>
        [new Step(0, StepKind.Load, text), new Step(0, StepKind.Fork), new Step(1, StepKind.Load, text)];

    private static AccessRow Of(string name, IReadOnlyList<Step> steps) => new(name, 4, _ => (At, steps));

    private static InitialMapping Named(InitialProcess process, string name) =>
        process.Mappings.FirstOrDefault(mapping => mapping.Name == name)
        ?? throw new InvalidOperationException($"the process has no {name}");

    private static Step Map(Prot prot, MapFlags flags, ulong? file = null, ulong first = 0, ulong pages = 4) =>
        new(0, StepKind.Mmap, At + (first * Page), pages * Page, (ulong)prot, (ulong)flags, file + 1 ?? 0);

    private static IEnumerable<Step> Stores(int pages = 4) =>
        Enumerable.Range(0, pages).Select(page => new Step(0, StepKind.Store, At + ((ulong)page * Page), 0x55));

    private static IEnumerable<Step> Loads() =>
        Enumerable.Range(0, 4).Select(page => new Step(0, StepKind.Load, At + ((ulong)page * Page)));

    private static IEnumerable<Step> Emptied(ulong file) =>
        [new Step(0, StepKind.Truncate, file), new Step(0, StepKind.Truncate, file, Size)];

    private static Step Protect(ulong first, ulong pages, Prot prot) =>
        new(0, StepKind.Mprotect, At + (first * Page), pages * Page, (ulong)prot);

    private static Step Unmap(ulong first, ulong pages) => new(0, StepKind.Munmap, At + (first * Page), pages * Page);

    private static Step Advise(ulong first, ulong pages, Advice advice) =>
        new(0, StepKind.Madvise, At + (first * Page), pages * Page, (ulong)advice);
}
