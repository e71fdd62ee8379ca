using System.Globalization;
using System.Text;

namespace FramePin.Tests.House;

/// <summary>
/// The list of exceptions, tests/House/exceptions.tsv: guard, place, measure. It may only shrink. An entry that nothing
/// needs any more fails its guard, as does a measure above the one listed; <see cref="HouseGuards"/> compares the list
/// with the history of the repository.
/// </summary>
internal sealed class ExceptionList
{
    public const string File = "tests/House/exceptions.tsv";

    /// <summary>The line of the head from whose commit on the history is compared.</summary>
    public const string ClosedMark = "# closed";

    private readonly SortedDictionary<(string Guard, string Place), int> entries = [];
    private readonly List<string> head = [];

    /// <summary>Reads a list: lines that begin with '#' are its head, each other one has three columns.</summary>
    public static ExceptionList Read(string text)
    {
        var list = new ExceptionList();
        foreach (var line in text.Split('\n', StringSplitOptions.RemoveEmptyEntries))
        {
            if (line.StartsWith('#'))
            {
                list.head.Add(line);
                continue;
            }

            var columns = line.Split('\t');
            if (columns.Length != 3) throw new FormatException($"{File}: not three columns: {line}");
            list.entries.Add((columns[0], columns[1]), int.Parse(columns[2], CultureInfo.InvariantCulture));
        }

        return list;
    }

    /// <summary>From here on the list may only shrink: its head says so.</summary>
    public bool IsClosed => head.Contains(ClosedMark);

    /// <summary>The number of entries of each guard.</summary>
    public IReadOnlyDictionary<string, int> Counts =>
        entries.Keys.GroupBy(key => key.Guard).ToDictionary(group => group.Key, group => group.Count());

    /// <summary>
    /// The faults: findings without an entry, findings above their entry, entries without a finding.
    /// </summary>
    public IReadOnlyList<string> Judge(string guard, IReadOnlyCollection<Finding> findings)
    {
        var wrong = new List<string>();
        var found = Worst(findings);
        foreach (var (place, finding) in found)
            if (!entries.TryGetValue((guard, place), out var allowed))
                wrong.Add($"{place}: {finding.Measure}: {finding.Detail}");
            else if (finding.Measure > allowed)
                wrong.Add($"{place}: {finding.Measure}, and the list of exceptions allows {allowed}: {finding.Detail}");
        foreach (var (key, measure) in entries)
            if (key.Guard == guard && !found.ContainsKey(key.Place))
                wrong.Add($"{key.Place}: the exception ({measure}) is not needed any more: take it off {File}");
        return wrong;
    }

    /// <summary>Takes off what nothing needs and lowers measures to what is there. Adds and raises nothing.</summary>
    public void Tighten(string guard, IReadOnlyCollection<Finding> findings)
    {
        var found = Worst(findings);
        foreach (var key in entries.Keys.Where(key => key.Guard == guard).ToList())
            if (!found.TryGetValue(key.Place, out var finding)) entries.Remove(key);
            else entries[key] = Math.Min(entries[key], finding.Measure);
    }

    public override string ToString()
    {
        var text = new StringBuilder();
        foreach (var line in head) text.Append(line).Append('\n');
        foreach (var (key, measure) in entries)
            text.Append(CultureInfo.InvariantCulture, $"{key.Guard}\t{key.Place}\t{measure}\n");
        return text.ToString();
    }

    private static Dictionary<string, Finding> Worst(IReadOnlyCollection<Finding> findings) => findings
        .GroupBy(finding => finding.Place, StringComparer.Ordinal)
        .ToDictionary(group => group.Key, group => group.MaxBy(finding => finding.Measure), StringComparer.Ordinal);
}
