using System.Text.RegularExpressions;

namespace FramePin.Tests.House;

/// <summary>The files of the repository, as the guards see them: no build output, no scratch folder.</summary>
internal static partial class Repository
{
    private static readonly string[] Skipped = ["artifacts", "tmp", "bin", "obj", ".git", ".vs"];

    /// <summary>The folder that holds FramePin.slnx.</summary>
    public static string Root { get; } = FindRoot();

    /// <summary>Paths relative to the root, with '/' between folders, in ordinal order.</summary>
    public static IReadOnlyList<string> Files { get; } = [.. Enumerate(Root).Order(StringComparer.Ordinal)];

    /// <summary>Files whose name ends with one of the given endings, as ".cs".</summary>
    public static IEnumerable<string> FilesOf(params string[] endings) =>
        Files.Where(file => endings.Any(ending => file.EndsWith(ending, StringComparison.Ordinal)));

    public static string Read(string file) => File.ReadAllText(Path.Combine(Root, file));

    /// <summary>Documents that people write: neither results that a program writes nor data.</summary>
    public static IEnumerable<string> Documents => FilesOf(".md");

    /// <summary>Scripts: what ends in .sh, and the three without an ending that documents name.</summary>
    public static IEnumerable<string> Scripts =>
        Files.Where(file => file.EndsWith(".sh", StringComparison.Ordinal)
            || file is ".ci/run" or "tests/run" or "protos/check");

    /// <summary>The text between the backticks of every inline code span, with its line.</summary>
    public static IEnumerable<(int Line, string Code)> CodeSpans(string markdown)
    {
        var fenced = false;
        var number = 0;
        foreach (var line in markdown.Split('\n'))
        {
            number++;
            if (line.StartsWith("```", StringComparison.Ordinal)) fenced = !fenced;
            else if (!fenced)
                foreach (Match match in CodeSpan().Matches(line))
                    yield return (number, match.Groups[1].Value);
        }
    }

    private static IEnumerable<string> Enumerate(string folder)
    {
        foreach (var file in Directory.EnumerateFiles(folder))
            yield return Path.GetRelativePath(Root, file).Replace('\\', '/');
        foreach (var child in Directory.EnumerateDirectories(folder))
            if (!Skipped.Contains(Path.GetFileName(child)))
                foreach (var file in Enumerate(child))
                    yield return file;
    }

    private static string FindRoot()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "FramePin.slnx")))
            folder = Path.GetDirectoryName(folder) ?? throw new InvalidOperationException("no FramePin.slnx above");
        return folder;
    }

    [GeneratedRegex("`([^`]+)`")]
    private static partial Regex CodeSpan();
}
