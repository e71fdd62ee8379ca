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

    /// <summary>The value returned; 0 for an error, for "?", and for what is no number.</summary>
    public ulong Value =>
        !Result.StartsWith('-') && StraceNumbers.TryParse(Result.Split(' ')[0], out var value) ? value : 0;

    /// <summary>Errno's name; empty on success.</summary>
    public string Errno => Result.StartsWith("-1 ", StringComparison.Ordinal) ? Result.Split(' ')[1] : "";
}

/// <summary>Reads the log of "strace -f -y".</summary>
public static partial class StraceLog
{
    /// <summary>A thread's number, a time of day or of the run (-t, -r), and the call.</summary>
    [GeneratedRegex(
        @"^\s*(?:\[pid\s+(?<pid>\d+)\]|(?<pid>\d+)(?=\s))?\s*(?:(?:\d+:\d+:\d+(?:\.\d+)?|\d+\.\d+)\s+)?(?<rest>.*)$",
        RegexOptions.Singleline)]
    private static partial Regex Head();

    [GeneratedRegex(@"^(?<name>\w+)\((?<arguments>.*)\)\s+=\s+(?<result>.+)$", RegexOptions.Singleline)]
    private static partial Regex Whole();

    [GeneratedRegex(@"^<\.\.\. (?<name>\w+) resumed>(?<rest>.*)$")]
    private static partial Regex Resumed();

    /// <summary>Calls that old straces have no name for: the number is that of x86-64.</summary>
    private static readonly Dictionary<string, string> Unnamed = new(StringComparer.Ordinal)
    {
        ["syscall_0x1ce"] = "mseal",
        ["syscall_0x1c5"] = "map_shadow_stack",
    };

    /// <summary>
    /// Reads the calls of a log, in the order in which they finished. Lines that are not as strace writes calls are
    /// passed over.
    /// </summary>
    /// <param name="lines">The lines of the log.</param>
    public static IReadOnlyList<StraceCall> Parse(IEnumerable<string> lines) => Parse(lines, []);

    /// <summary>
    /// Reads the calls of a log, in the order in which they finished, and tells what it does not understand.
    /// </summary>
    /// <param name="lines">The lines of the log.</param>
    /// <param name="unread">Gets the lines that are not as strace writes calls. They are passed over.</param>
    public static IReadOnlyList<StraceCall> Parse(IEnumerable<string> lines, ICollection<UnreadLine> unread)
    {
        ArgumentNullException.ThrowIfNull(lines);
        ArgumentNullException.ThrowIfNull(unread);
        const string unfinished = "<unfinished ...>";
        var calls = new List<StraceCall>();
        var open = new Dictionary<int, (string Text, int Line)>();
        var number = 0;
        foreach (var line in lines)
        {
            number++;
            var head = Head().Match(line);
            var text = head.Groups["rest"].Value.Trim();
            // Exit and signal notes are no calls, and neither is what strace says of itself.
            if (text.Length == 0 || text.StartsWith("+++", StringComparison.Ordinal)
                || text.StartsWith("---", StringComparison.Ordinal)
                || text.StartsWith("strace: ", StringComparison.Ordinal))
                continue;
            if (!int.TryParse(
                head.Groups["pid"].Success ? head.Groups["pid"].Value : "0", NumberStyles.None,
                CultureInfo.InvariantCulture, out var thread))
            {
                unread.Add(new UnreadLine(number, line, "the number of the thread is too large"));
                continue;
            }

            if (text.EndsWith(unfinished, StringComparison.Ordinal))
            {
                if (open.Remove(thread, out var before)) AddUnfinished(thread, before);
                open[thread] = (text[..^unfinished.Length].TrimEnd(), number);
                continue;
            }

            var began = number;
            if (Resumed().Match(text) is { Success: true } resumed)
            {
                if (!open.Remove(thread, out var begun))
                {
                    unread.Add(new UnreadLine(number, line, "resumes a call that never began"));
                    continue;
                }

                text = begun.Text + resumed.Groups["rest"].Value;
                began = begun.Line;
            }

            if (Read(text, number, thread, began) is { } call) calls.Add(call);
            else unread.Add(new UnreadLine(number, line, "not a call as strace writes it"));
        }

        foreach (var (thread, last) in open.OrderBy(pair => pair.Value.Line)) AddUnfinished(thread, last);
        return calls;

        // Its thread ended first, or the log did.
        void AddUnfinished(int thread, (string Text, int Line) call)
        {
            if (Read(call.Text + ") = ?", call.Line, thread, call.Line) is { } begun) calls.Add(begun);
            else unread.Add(new UnreadLine(call.Line, call.Text, "begins no call as strace writes it"));
        }
    }

    private static StraceCall? Read(string text, int number, int thread, int began)
    {
        var whole = Whole().Match(text);
        if (!whole.Success) return null;
        var name = whole.Groups["name"].Value;
        return new StraceCall(
            number, thread, Unnamed.GetValueOrDefault(name, name), Split(whole.Groups["arguments"].Value),
            whole.Groups["result"].Value.Trim(), began);
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
            // 3</path> opens a bracket, 21<<MAP_HUGE_SHIFT does not.
            var opens = c == '<' && i > 0 && char.IsAsciiDigit(text[i - 1])
                && (i + 1 == text.Length || text[i + 1] != '<');
            if (c is '(' or '[' or '{' || opens) depth++;
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
