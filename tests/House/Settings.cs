using System.Text.RegularExpressions;
using System.Xml.Linq;

namespace FramePin.Tests.House;

/// <summary>
/// Warnings are errors and analyzers look at every hand-written file: no setting takes one of them out.
/// </summary>
internal static partial class Settings
{
    /// <summary>Properties of a project that would weaken what Directory.Build.props demands of all.</summary>
    private static readonly string[] Weakening =
    [
        "TreatWarningsAsErrors", "WarningsNotAsErrors", "NoWarn", "DisableWarning", "WarningLevel", "AnalysisMode",
        "AnalysisLevel", "RunAnalyzers", "RunAnalyzersDuringBuild", "EnforceCodeStyleInBuild", "EnableNETAnalyzers",
        "Nullable",
    ];

    public static IEnumerable<Finding> Project(string file, string text)
    {
        foreach (var name in XDocument.Parse(text).Descendants().Select(element => element.Name.LocalName))
            if (Weakening.Contains(name))
                yield return new Finding(file, 1, $"sets {name}, which stands in Directory.Build.props for all");
    }

    /// <summary>
    /// A switched-off diagnostic needs a comment right above it that names it. Nothing may be called generated but what
    /// the build writes below artifacts.
    /// </summary>
    public static IEnumerable<Finding> EditorConfig(string file, string text)
    {
        var (reasons, section) = ("", "");
        foreach (var line in text.Split('\n'))
        {
            if (line.StartsWith('[')) section = line;
            if (line.StartsWith('#')) reasons = line;
            if (line.Contains("generated_code", StringComparison.Ordinal) &&
                !section.StartsWith("[artifacts/", StringComparison.Ordinal))
                yield return new Finding(file, 1, $"{line}: no analyzer looks at such files");
            if (Diagnostic().Match(line) is { Success: true } match &&
                !reasons.Contains(match.Groups[1].Value, StringComparison.Ordinal))
                yield return new Finding($"{file}: {match.Groups[1].Value}", 1, "no comment above says why");
        }
    }

    /// <summary>
    /// Suppressions in the source: a pragma needs a comment behind it or above it, an attribute a justification.
    /// </summary>
    public static IEnumerable<Finding> Source(string file, string text)
    {
        var before = "";
        foreach (var line in text.Split('\n').Select(line => line.Trim()))
        {
            var hasReason = before.StartsWith("//", StringComparison.Ordinal)
                || line.Contains("//", StringComparison.Ordinal);
            if ((line.StartsWith("#pragma warning disable", StringComparison.Ordinal) && !hasReason) ||
                line.StartsWith("#nullable disable", StringComparison.Ordinal) ||
                (line.StartsWith("[SuppressMessage(", StringComparison.Ordinal) &&
                    !text.Contains("Justification", StringComparison.Ordinal)))
                yield return new Finding(file, 1, $"{line}: no reason");
            before = line;
        }
    }

    [GeneratedRegex(@"^dotnet_diagnostic\.(\w+)\.severity *= *(?:none|silent|suggestion)")]
    private static partial Regex Diagnostic();
}
