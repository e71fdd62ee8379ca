using System.Globalization;
using System.Text.RegularExpressions;

namespace FramePin.Tests.House;

/// <summary>
/// A command of README.md as it is run: the program, its arguments, and whether it runs until it is ended.
/// </summary>
internal readonly record struct ReadmeCommand(int Line, string Text, string Program, string[] Arguments, bool RunsOn);

/// <summary>
/// The commands that README.md shows. The rules: every line of a block marked sh that begins with framepin or framepind
/// is a command, and so is the line that runs the command from its sources; a # and what is behind it is a comment.
/// Paths under /tmp and /run, and relative files that a command writes, lie in a scratch folder, where the files of a
/// recorded program lie too. A TCP port becomes a socket in that folder, which framepin finds by FRAMEPIN_ENDPOINT. A
/// process id is that of a process that sleeps. A count of frames or steps is cut down. framepind, framepin drive,
/// serve-faults and watch run until they are ended; a second framepind ends the first.
/// </summary>
internal static partial class ReadmeCommands
{
    /// <summary>Commands that are not run, with the reason. Each has to name a command that is there.</summary>
    public static readonly (string Begins, string Reason)[] Excluded =
    [
        ("framepin conformance", "tests/Conformance runs the comparison; it borrows huge pages and swap from the host"),
    ];

    private static readonly string[] RunningOn = ["drive", "serve-faults", "watch"];

    /// <summary>The commands of a document, excluded ones left out.</summary>
    /// <param name="scratch">The folder that paths are moved to.</param>
    /// <param name="process">The id that stands for a live process.</param>
    public static IEnumerable<ReadmeCommand> Read(string markdown, string scratch, int process)
    {
        foreach (var (number, line) in Lines(markdown))
        {
            if (Excluded.Any(excluded => line.StartsWith(excluded.Begins, StringComparison.Ordinal))) continue;
            var words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            var arguments = new List<string>();
            for (var i = 1; i < words.Length; i++)
            {
                if (words[i] == "--") break;
                if (words[i] == "--tcp")
                {
                    arguments.AddRange(["--socket", Path.Combine(scratch, "daemon.sock")]);
                    i++;
                }
                else if (words[i - 1] == "--pid") arguments.Add(process.ToString(CultureInfo.InvariantCulture));
                else if (words[i - 1] is "-n" or "--steps") arguments.Add("20");
                else arguments.Add(Scratch().Replace(words[i], match => $"{match.Groups[1].Value}{scratch}/"));
            }

            var rest = Array.IndexOf(words, "--");
            if (rest > 0) arguments.AddRange(words[rest..]);
            yield return new ReadmeCommand(
                number, line, words[0], [.. arguments],
                words[0] == "framepind" || (words.Length > 1 && RunningOn.Contains(words[1])));
        }
    }

    /// <summary>
    /// Command lines with their numbers, comments cut off; the line that runs the sources is spelled framepin.
    /// </summary>
    public static IEnumerable<(int Number, string Line)> Lines(string markdown)
    {
        string? block = null;
        var number = 0;
        foreach (var text in markdown.Split('\n'))
        {
            number++;
            if (text.StartsWith("```", StringComparison.Ordinal)) block = block is null ? text[3..].Trim() : null;
            else if (block == "sh")
            {
                var line = FromSources().Replace(text, "framepin ").Split(" #")[0].Trim();
                if (line.StartsWith("framepin ", StringComparison.Ordinal) ||
                    line.StartsWith("framepind ", StringComparison.Ordinal))
                    yield return (number, line);
            }
        }
    }

    [GeneratedRegex(@"^dotnet run -c Release --project src/Client/Cli -- ")]
    private static partial Regex FromSources();

    [GeneratedRegex(@"(^|:|=)/(?:tmp|run)/")]
    private static partial Regex Scratch();
}
