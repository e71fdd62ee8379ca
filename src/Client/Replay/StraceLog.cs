using System.Globalization;
using System.Text.RegularExpressions;

namespace FramePin.Replay;

/// <summary>One finished call of a log.</summary>
/// <param name="Line">Line of the log, from 1, on which it finished.</param>
/// <param name="Thread">Thread id; 0 when the log has none.</param>
/// <param name="Name">System call.</param>
/// <param name="Arguments">The arguments as strace wrote them.</param>
/// <param name="Result">Text behind the equals sign.</param>
/// <param name="Begun">Line on which it began; before <paramref name="Line"/> when the log splits it around calls of
/// other threads.</param>
public sealed record StraceCall(
    int Line, int Thread, string Name, IReadOnlyList<string> Arguments, string Result, int Begun)
{
    /// <summary>Calls of other threads stand between its beginning and its end.</summary>
    public bool Overlapped => Begun < Line;

    /// <summary>The thread ended before the call did: its effect is unknown.</summary>
    public bool IsUnfinished => Result.StartsWith('?');

    /// <summary>The value returned; 0 for an error or "?".</summary>
    public ulong Value =>
        Result.StartsWith('-') || Result.StartsWith('?') ? 0 : StraceNumbers.Parse(Result.Split(' ')[0]);

    /// <summary>Errno's name; empty on success.</summary>
    public string Errno => Result.StartsWith("-1 ", StringComparison.Ordinal) ? Result.Split(' ')[1] : "";
}

/// <summary>Reads the log of "strace -f -y".</summary>
public static partial class StraceLog
{
    [GeneratedRegex(@"^(?:\[pid\s+(?<pid>\d+)\]|(?<pid>\d+))?\s*(?<rest>.*)$")]
    private static partial Regex Head();

    [GeneratedRegex(@"^(?<name>\w+)\((?<arguments>.*)\)\s+=\s+(?<result>.+)$", RegexOptions.Singleline)]
    private static partial Regex Whole();

    [GeneratedRegex(@"^<\.\.\. (?<name>\w+) resumed>(?<rest>.*)$")]
    private static partial Regex Resumed();

    /// <summary>
    /// Reads the calls of a log, in the order in which they finished.
    /// </summary>
    /// <param name="lines">The lines of the log.</param>
    /// <exception cref="FormatException">A line is not as strace writes it; the message names it.</exception>
    public static IReadOnlyList<StraceCall> Parse(IEnumerable<string> lines)
    {
        const string unfinished = "<unfinished ...>";
        var calls = new List<StraceCall>();
        var open = new Dictionary<int, (string Text, int Line)>();
        var number = 0;
        foreach (var line in lines)
        {
            number++;
            var head = Head().Match(line);
            var thread = head.Groups["pid"].Success
                ? int.Parse(head.Groups["pid"].Value, CultureInfo.InvariantCulture)
                : 0;
            var text = head.Groups["rest"].Value.Trim();
            // Exit and signal notes are no calls.
            if (text.Length == 0 || text.StartsWith("+++", StringComparison.Ordinal)
                || text.StartsWith("---", StringComparison.Ordinal))
                continue;
            if (text.EndsWith(unfinished, StringComparison.Ordinal))
            {
                open[thread] = (text[..^unfinished.Length].TrimEnd(), number);
                continue;
            }

            var began = number;
            if (Resumed().Match(text) is { Success: true } resumed)
            {
                if (!open.Remove(thread, out var begun))
                    throw new FormatException($"line {number}: resumes a call that never began");
                text = begun.Text + resumed.Groups["rest"].Value;
                began = begun.Line;
            }

            var whole = Whole().Match(text);
            if (!whole.Success) throw new FormatException($"line {number}: not a call as strace writes it: {line}");
            calls.Add(new StraceCall(
                number, thread, whole.Groups["name"].Value, Split(whole.Groups["arguments"].Value),
                whole.Groups["result"].Value.Trim(), began));
        }

        return calls;
    }

    /// <summary>Splits at the commas that stand in no bracket, quote or angle.</summary>
    private static List<string> Split(string text)
    {
        var parts = new List<string>();
        var (depth, start, quoted) = (0, 0, false);
        for (var i = 0; i < text.Length; i++)
        {
            var c = text[i];
            if (c == '"' && (i == 0 || text[i - 1] != '\\')) quoted = !quoted;
            if (quoted) continue;
            if (c is '(' or '[' or '{' || (c == '<' && i > 0 && char.IsAsciiDigit(text[i - 1]))) depth++;
            else if (c is ')' or ']' or '}' || (c == '>' && depth > 0 && text[i - 1] != '=')) depth--;
            else if (c == ',' && depth == 0)
            {
                parts.Add(text[start..i].Trim());
                start = i + 1;
            }
        }

        if (text.Length > 0) parts.Add(text[start..].Trim());
        return parts;
    }
}

/// <summary>Numbers and named flags as strace writes them.</summary>
public static class StraceNumbers
{
    private static readonly Dictionary<string, uint> Flags = new(StringComparer.Ordinal)
    {
        ["PROT_NONE"] = 0,
        ["PROT_READ"] = 1,
        ["PROT_WRITE"] = 2,
        ["PROT_EXEC"] = 4,
        ["PROT_GROWSDOWN"] = 0x1000000,
        ["MAP_SHARED"] = 1,
        ["MAP_PRIVATE"] = 2,
        ["MAP_SHARED_VALIDATE"] = 3,
        ["MAP_FIXED"] = 0x10,
        ["MAP_ANONYMOUS"] = 0x20,
        ["MAP_32BIT"] = 0x40,
        ["MAP_GROWSDOWN"] = 0x100,
        ["MAP_DENYWRITE"] = 0x800,
        ["MAP_EXECUTABLE"] = 0x1000,
        ["MAP_LOCKED"] = 0x2000,
        ["MAP_NORESERVE"] = 0x4000,
        ["MAP_POPULATE"] = 0x8000,
        ["MAP_NONBLOCK"] = 0x10000,
        ["MAP_STACK"] = 0x20000,
        ["MAP_HUGETLB"] = 0x40000,
        ["MAP_SYNC"] = 0x80000,
        ["MAP_FIXED_NOREPLACE"] = 0x100000,
        ["MREMAP_MAYMOVE"] = 1,
        ["MREMAP_FIXED"] = 2,
        ["MREMAP_DONTUNMAP"] = 4,
        ["MS_ASYNC"] = 1,
        ["MS_INVALIDATE"] = 2,
        ["MS_SYNC"] = 4,
        ["MCL_CURRENT"] = 1,
        ["MCL_FUTURE"] = 2,
        ["MCL_ONFAULT"] = 4,
        ["MLOCK_ONFAULT"] = 1,
        ["MADV_NORMAL"] = 0,
        ["MADV_RANDOM"] = 1,
        ["MADV_SEQUENTIAL"] = 2,
        ["MADV_WILLNEED"] = 3,
        ["MADV_DONTNEED"] = 4,
        ["MADV_FREE"] = 8,
        ["MADV_REMOVE"] = 9,
        ["MADV_DONTFORK"] = 10,
        ["MADV_DOFORK"] = 11,
        ["MADV_MERGEABLE"] = 12,
        ["MADV_UNMERGEABLE"] = 13,
        ["MADV_HUGEPAGE"] = 14,
        ["MADV_NOHUGEPAGE"] = 15,
        ["MADV_DONTDUMP"] = 16,
        ["MADV_DODUMP"] = 17,
        ["MADV_WIPEONFORK"] = 18,
        ["MADV_KEEPONFORK"] = 19,
        ["MADV_COLD"] = 20,
        ["MADV_PAGEOUT"] = 21,
        ["MADV_POPULATE_READ"] = 22,
        ["MADV_POPULATE_WRITE"] = 23,
        ["MADV_DONTNEED_LOCKED"] = 24,
        ["MADV_COLLAPSE"] = 25,
        ["MADV_GUARD_INSTALL"] = 102,
        ["MADV_GUARD_REMOVE"] = 103,
    };

    /// <summary>Reads a decimal or hexadecimal number, or NULL.</summary>
    /// <param name="text">The number.</param>
    /// <exception cref="FormatException"><paramref name="text"/> is no number.</exception>
    public static ulong Parse(string text)
    {
        if (text is "NULL") return 0;
        if (text.StartsWith("0x", StringComparison.Ordinal))
            return ulong.Parse(text.AsSpan(2), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
        return unchecked((ulong)long.Parse(text, CultureInfo.InvariantCulture));
    }

    /// <summary>
    /// Reads names and numbers that are joined by '|'.
    /// </summary>
    /// <param name="text">The flags.</param>
    /// <exception cref="FormatException">A name is unknown.</exception>
    public static uint ParseFlags(string text)
    {
        var value = 0u;
        foreach (var raw in text.Split('|'))
        {
            // strace adds a comment to flags that it cannot name, and a shift to huge page sizes.
            var part = raw.Split(" /*")[0].Trim();
            if (Flags.TryGetValue(part, out var flag)) value |= flag;
            else if (part.EndsWith("<<MAP_HUGE_SHIFT", StringComparison.Ordinal))
                value |= (uint)Parse(part.Split("<<")[0]) << 26;
            else if (part.Length > 0 && char.IsAsciiDigit(part[0])) value |= (uint)Parse(part);
            else throw new FormatException($"unknown flag '{part}'");
        }

        return value;
    }
}
