using System.Globalization;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;

namespace FramePin.Conformance.Matrix;

/// <summary>
/// Kinds of mapping × the paths by which the kernel reaches user memory: each cell in a fresh process. The same code
/// measures a kernel and FramePin, in the format of the recorded tables.
/// </summary>
public static class AccessMatrix
{
    private const ulong Page = 4096;

    /// <summary>A path into memory.</summary>
    /// <param name="Name">Heading of its column.</param>
    /// <param name="Try">Runs it on four (or one) pages from an address and says what came of it.</param>
    public sealed record Column(string Name, Func<IMemorySystem, ulong, int, string> Try);

    public static IReadOnlyList<Column> Columns { get; } =
    [
        new("io_uring REGISTER_BUFFERS (PIN|WRITE|LONGTERM)", Register),
        new("vmsplice (GET, read)", (system, at, pages) => Count(Run(system, StepKind.Vmsplice, at, pages))),
        new("process_vm_readv (PIN remote, read)",
            (system, at, pages) => Count(Run(system, StepKind.ProcessRead, at, pages))),
        new("process_vm_writev (PIN remote, WRITE)",
            (system, at, pages) => Count(Run(system, StepKind.ProcessWrite, at, pages))),
        new("/proc/self/mem read (FORCE)", (system, at, pages) => Count(Run(system, StepKind.MemRead, at, pages))),
        new("/proc/self/mem write (FORCE|WRITE)",
            (system, at, pages) => Count(Run(system, StepKind.MemWrite, at, pages))),
        new("O_DIRECT write (PIN, read)", (system, at, pages) => Direct(Run(system, StepKind.DirectWrite, at, pages))),
        new("O_DIRECT read (PIN|WRITE)", (system, at, pages) => Direct(Run(system, StepKind.DirectRead, at, pages))),
        new("write(pipe) (copy_from_user)", (system, at, pages) => Count(Run(system, StepKind.CopyFrom, at, pages))),
        new("read(/dev/zero) (clear_user)", (system, at, pages) => Count(Run(system, StepKind.Clear, at, pages))),
        new("POPULATE_READ", (system, at, pages) => Count(
            Run(system, StepKind.Madvise, at, pages, (ulong)Advice.PopulateRead))),
        new("POPULATE_WRITE", (system, at, pages) => Count(
            Run(system, StepKind.Madvise, at, pages, (ulong)Advice.PopulateWrite))),
        new("mlock", (system, at, pages) => Count(Run(system, StepKind.Mlock, at, pages))),
        new("mincore", (system, at, pages) => Run(system, StepKind.Mincore, at, pages).TrimStart('-')),
        new("move_pages query (follow_page)", (system, at, pages) => Run(system, StepKind.MovePages, at, pages)),
        new("futex WAKE shared, p2", (system, at, pages) =>
            Count(system.Run(new Step(0, StepKind.Futex, at + (pages > 2 ? 2 * Page : 0))))),
        new("CPU read per page", (system, at, pages) => Touch(system, StepKind.Load, at, pages)),
        new("CPU write per page", (system, at, pages) => Touch(system, StepKind.Store, at, pages)),
        new("pagemap / kpageflags / mapcount", (system, at, pages) => Run(system, StepKind.Pagemap, at, pages)),
    ];

    /// <summary>One cell: a fresh system, the row's mapping, the column's path.</summary>
    public static string Measure(Func<IMemorySystem> create, AccessRow row, Column column)
    {
        using var system = create();
        var (address, steps) = row.Make(system.Initial);
        foreach (var step in steps)
        {
            var answer = system.Run(step);
            if (step.Kind is StepKind.Mmap or StepKind.Madvise or StepKind.Mseal or StepKind.Seal or StepKind.Poison
                && answer[0] == '-')
                return "map:" + answer[1..];
        }

        return column.Try(system, address, row.Pages);
    }

    /// <summary>The whole table, tab-separated, a heading first.</summary>
    public static IEnumerable<string> Table(Func<IMemorySystem> create)
    {
        yield return string.Join('\t', Columns.Select(column => column.Name).Prepend("mapping"));
        foreach (var row in AccessRow.All)
        {
            var cells = new List<string> { row.Name };
            foreach (var column in Columns)
            {
                cells.Add(Measure(create, row, column));
                // A mapping that cannot be made has one cell.
                if (cells[^1].StartsWith("map:", StringComparison.Ordinal)) break;
            }

            yield return string.Join('\t', cells);
        }
    }

    /// <summary>
    /// A cell without what no two machines have alike: kpageflags and the kinds of swap-like entries of the last
    /// column.
    /// </summary>
    public static string Comparable(string cell)
    {
        if (!cell.Contains(":f", StringComparison.Ordinal) && !cell.Contains("S:", StringComparison.Ordinal))
            return cell;
        return string.Join(' ', cell.Split(' ').Select(page =>
        {
            var parts = page.Split(':');
            var guard = parts[0] == "S" && parts[^1].EndsWith('G') ? "G" : "";
            return parts[0] == "S" ? "S" + guard : parts.Length == 3 ? $"{parts[0]}:{parts[2]}" : page;
        }));
    }

    private static string Run(IMemorySystem system, StepKind kind, ulong address, int pages, ulong argument = 0) =>
        system.Run(new Step(0, kind, address, (ulong)pages * Page, argument));

    private static string Register(IMemorySystem system, ulong address, int pages)
    {
        var answer = Run(system, StepKind.Register, address, pages).Split(' ');
        var pins = answer.Length > 1 ? answer[1] : "";
        if (answer[0][0] == '-') return pins.Length > 0 ? $"{answer[0][1..]} ({pins})" : answer[0][1..];
        var (acquired, released) = Deltas(pins);
        var after = system.Run(new Step(0, StepKind.Unregister)).Split(' ');
        var (more, dropped) = Deltas(after.Length > 1 ? after[1] : "");
        return string.Create(CultureInfo.InvariantCulture, $"ok +{acquired + more}/-{released + dropped}");
    }

    private static (int Acquired, int Released) Deltas(string text)
    {
        if (text.Length == 0) return (0, 0);
        var parts = text.Split('/');
        return (int.Parse(parts[0], CultureInfo.InvariantCulture), -int.Parse(parts[1], CultureInfo.InvariantCulture));
    }

    /// <summary>"0x4000 55 55" as "16384", "-EFAULT" as "EFAULT".</summary>
    private static string Count(string answer)
    {
        var first = answer.Split(' ')[0];
        return first[0] == '-'
            ? first[1..]
            : long.Parse(first.AsSpan(2), NumberStyles.HexNumber, CultureInfo.InvariantCulture).ToString(
                CultureInfo.InvariantCulture);
    }

    private static string Direct(string answer)
    {
        var parts = answer.Split(' ');
        return parts[0][0] == '-' ? parts[0][1..] : $"{Count(parts[0])} {(parts.Length > 1 ? parts[1] : "+0/-0")}";
    }

    private static string Touch(IMemorySystem system, StepKind kind, ulong address, int pages)
    {
        var text = "";
        for (var page = 0UL; page < (ulong)pages; page++)
        {
            var answer = system.Run(new Step(0, kind, address + (page * Page), 0x66));
            text += answer switch
            {
                nameof(UserSignal.SigSegvMapErr) => "S1",
                nameof(UserSignal.SigSegvAccErr) => "S2",
                nameof(UserSignal.SigSegvKey) => "S4",
                nameof(UserSignal.SigSegvNonCanonical) => "S128",
                nameof(UserSignal.SigBus) => "B2",
                nameof(UserSignal.SigBusPoison) => "B4",
                _ => kind == StepKind.Load ? "r" : "w",
            };
        }

        return text;
    }
}
