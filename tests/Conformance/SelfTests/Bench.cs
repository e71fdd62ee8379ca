using System.Globalization;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;

namespace FramePin.Tests.Conformance.SelfTests;

/// <summary>
/// A case of a kernel self test (tools/testing/selftests/mm) on one memory system: FramePin, or the running kernel.
/// Addresses in bytes, lengths in pages.
/// </summary>
internal sealed class Bench(IMemorySystem system, string name)
{
    public const ulong Page = 4096;

    /// <summary>Where the cases map, with room on both sides.</summary>
    public const ulong At = 0x1000_0000;

    public const ulong Other = 0x2000_0000;

    public const Prot Rw = Prot.Read | Prot.Write;
    public const string Done = "0x0";
    public const string Denied = "-EPERM";

    private readonly List<string> _log = [];
    private int _children;

    /// <summary>The process whose calls follow.</summary>
    public int Process { get; set; }

    public static string Text(ulong address) => string.Create(CultureInfo.InvariantCulture, $"0x{address:x}");

    public static ulong P(int page, ulong from = At) => from + ((ulong)page * Page);

    public void Is(string expected, string answer)
    {
        if (expected == answer) return;
        throw new InvalidOperationException(
            $"{name}: expected {expected}, not {answer}, of the last of:\n  {string.Join("\n  ", _log)}");
    }

    public void IsAreas(ulong from, ulong to, params string[] expected) =>
        Is(string.Join(' ', expected), Areas(from, to));

    public string Mmap(ulong at, int pages, Prot prot, MapFlags flags, int file = -1, int offset = 0) =>
        Run(StepKind.Mmap, at, (ulong)pages * Page, (ulong)prot, (ulong)flags, (ulong)(file + 1), (ulong)offset * Page);

    /// <summary>Private anonymous memory at a fixed address.</summary>
    public void Anon(ulong at, int pages, Prot prot = Rw, MapFlags more = 0) =>
        Is(Text(at), Mmap(at, pages, prot, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed | more));

    public string Munmap(ulong at, int pages) => Run(StepKind.Munmap, at, (ulong)pages * Page);

    public string Mprotect(ulong at, int pages, Prot prot) =>
        Run(StepKind.Mprotect, at, (ulong)pages * Page, (ulong)prot);

    public string Mremap(ulong at, int old, int fresh, MremapFlags flags = 0, ulong to = 0) =>
        Run(StepKind.Mremap, at, (ulong)old * Page, (ulong)fresh * Page, (ulong)flags, to);

    public string Madvise(ulong at, int pages, Advice advice) =>
        Run(StepKind.Madvise, at, (ulong)pages * Page, (ulong)advice);

    public string Mseal(ulong at, int pages) => Run(StepKind.Mseal, at, (ulong)pages * Page);

    public string MsealBytes(ulong at, ulong bytes) => Run(StepKind.Mseal, at, bytes);

    public string Mlock(ulong at, int pages, bool onFault = false) =>
        Run(StepKind.Mlock, at, (ulong)pages * Page, onFault ? 1UL : 0);

    public string Munlock(ulong at, int pages) => Run(StepKind.Munlock, at, (ulong)pages * Page);

    public void Store(ulong at, byte value) => Is("ok", Run(StepKind.Store, at, value));

    public void StoreEach(ulong at, int pages, byte value)
    {
        for (var page = 0; page < pages; page++) Store(P(page, at), value);
    }

    public void Loads(ulong at, byte value) => Is(value.ToString("x", CultureInfo.InvariantCulture), Load(at));

    public void LoadsEach(ulong at, int pages, byte value)
    {
        for (var page = 0; page < pages; page++) Loads(P(page, at), value);
    }

    public string Load(ulong at) => Run(StepKind.Load, at);

    public string TryStore(ulong at, byte value) => Run(StepKind.Store, at, value);

    /// <summary>One digit a page: mincore.</summary>
    public string Mincore(ulong at, int pages) => Run(StepKind.Mincore, at, (ulong)pages * Page);

    /// <summary>Forks; the child's number.</summary>
    public int Fork()
    {
        Is("ok", Run(StepKind.Fork));
        return ++_children;
    }

    public string Run(StepKind kind, ulong a = 0, ulong b = 0, ulong c = 0, ulong d = 0, ulong e = 0, ulong f = 0)
    {
        var step = new Step(Process, kind, a, b, c, d, e, f);
        // The pins that a step took and dropped follow the answer; these cases do not look at them.
        var answer = system.Run(step).Split(" +")[0];
        _log.Add($"{step} -> {answer}");
        return answer;
    }

    /// <summary>
    /// The areas between two addresses as "START-END PERMISSIONS", pages from <see cref="At"/> or hex outside of it.
    /// </summary>
    public string Areas(ulong from, ulong to) =>
        string.Join(' ', Lines(from, to).Select(
            line => $"{(line.Start - from) / Page}-{(line.End - from) / Page}:{line.Permissions}"));

    /// <summary>VmFlags of the area at an address, as smaps shows them.</summary>
    public string Flags(ulong at) => Lines(at, at + Page).Single().Flags;

    /// <summary>What is known of the present pages of a range: "PAGE:NAME..." words of the snapshot.</summary>
    public string Present(ulong at, int pages)
    {
        var words = Snapshot().Where(line => line.StartsWith("   ", StringComparison.Ordinal)).SelectMany(
            line => line.Trim().Split(' '));
        var first = at / Page;
        return string.Concat(Enumerable.Range(0, pages).Select(page =>
            words.Any(word => word.StartsWith(
                string.Create(CultureInfo.InvariantCulture, $"{first + (ulong)page:x}:"), StringComparison.Ordinal))
                ? '1'
                : '0'));
    }

    private IEnumerable<(ulong Start, ulong End, string Permissions, string Flags)> Lines(ulong from, ulong to)
    {
        foreach (var line in Snapshot())
        {
            if (line.StartsWith(' ')) continue;
            var parts = line.Split(' ', 5);
            var range = parts[0].Split('-');
            var (start, end) = (ulong.Parse(range[0], NumberStyles.HexNumber, CultureInfo.InvariantCulture),
                ulong.Parse(range[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture));
            if (end <= from || start >= to) continue;
            yield return (start, end, parts[1], parts.Length > 4 ? parts[4].Trim() : "");
        }
    }

    private List<string> Snapshot()
    {
        var lines = system.Look(withFlags: true, keepsNames: false).Split('\n', StringSplitOptions.RemoveEmptyEntries);
        return [.. lines.SkipWhile(line => line != $"process {Process}").Skip(1)
            .TakeWhile(line => !line.StartsWith("process ", StringComparison.Ordinal))];
    }
}
