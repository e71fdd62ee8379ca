using System.Globalization;
using System.Text.RegularExpressions;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace FramePin.Tests.House;

/// <summary>The sections and rows of src/Core/Semantics that there are.</summary>
internal sealed partial record SemanticsIndex(IReadOnlySet<string> Sections, IReadOnlySet<int> Rows)
{
    /// <summary>
    /// Reads headings ("# 3. ...", "## 3.5 ...") and rows ("| 41 | ...") out of the text of all pages.
    /// </summary>
    public static SemanticsIndex Read(IEnumerable<string> pages)
    {
        var sections = new HashSet<string>(StringComparer.Ordinal);
        var rows = new HashSet<int>();
        foreach (var page in pages)
        {
            var isRows = false;
            foreach (var line in page.Split('\n'))
            {
                var heading = Heading().Match(line);
                if (heading.Success)
                {
                    var section = heading.Groups[1].Value;
                    if (!sections.Add(section)) throw new InvalidOperationException($"section {section} stands twice");
                    isRows = section == "8";
                }
                else if (isRows && Row().Match(line) is { Success: true } row &&
                         !rows.Add(int.Parse(row.Groups[1].Value, CultureInfo.InvariantCulture)))
                    throw new InvalidOperationException($"row {row.Groups[1].Value} stands twice");
            }
        }

        return new SemanticsIndex(sections, rows);
    }

    [GeneratedRegex(@"^##? (\d+(?:\.\d+)?)\.? ")]
    private static partial Regex Heading();

    [GeneratedRegex(@"^\| (\d+) \|")]
    private static partial Regex Row();
}

/// <summary>
/// Finds what cites src/Core/Semantics and says which citations name nothing: "Semantics 3.5", "section 3.5",
/// "row 41", "rows 78 to 110, 112 and 113", and the rows in the names of tests ("Rows_49_to_52_and_54_...").
/// </summary>
internal sealed partial class CitationResolver(SemanticsIndex index)
{
    /// <summary>Citations met so far: a resolver that finds none resolves nothing.</summary>
    public int Found { get; private set; }

    /// <summary>The citations of a text that is all prose: a document, or comments.</summary>
    public IEnumerable<string> WrongIn(string prose)
    {
        foreach (Match match in Section().Matches(prose))
        {
            Found++;
            foreach (Match number in Number().Matches(match.Value))
                if (!index.Sections.Contains(number.Value))
                    yield return $"\"{match.Value}\": no section {number.Value}";
        }

        foreach (Match match in OldName().Matches(prose))
            yield return $"\"{match.Value}\": a section is cited as \"Semantics 3.5\"";
        foreach (Match match in Rows().Matches(prose))
            foreach (var wrong in WrongRows(match.Value)) yield return wrong;
    }

    /// <summary>The citations of C# source: in its comments and in the names of its methods.</summary>
    public IEnumerable<string> WrongInSource(SyntaxNode root)
    {
        // Lines of one comment are read as one text: a citation may go on in the next line.
        var comments = new List<string>();
        foreach (var trivia in root.DescendantTrivia())
            if (trivia.IsKind(SyntaxKind.SingleLineCommentTrivia) ||
                trivia.IsKind(SyntaxKind.MultiLineCommentTrivia) ||
                trivia.IsKind(SyntaxKind.SingleLineDocumentationCommentTrivia))
                comments.Add(CommentMark().Replace(trivia.ToFullString(), " "));
        foreach (var wrong in WrongIn(string.Join(' ', comments))) yield return wrong;

        foreach (var method in root.DescendantNodes().OfType<MethodDeclarationSyntax>())
            if (RowsInName().Match(method.Identifier.Text) is { Success: true } match)
                foreach (var wrong in WrongRows(match.Value)) yield return wrong;
    }

    private IEnumerable<string> WrongRows(string citation)
    {
        Found++;
        var words = Word().Matches(citation.Replace('_', ' ')).Select(match => match.Value).ToList();
        for (var i = 1; i < words.Count; i++)
        {
            if (!int.TryParse(words[i], NumberStyles.None, CultureInfo.InvariantCulture, out var row)) continue;
            var isEnd = words[i - 1] is "to" or "-";
            var isBackwards = isEnd && int.TryParse(
                words[i - 2], NumberStyles.None, CultureInfo.InvariantCulture, out var from) &&
                from >= row;
            if (isBackwards) yield return $"\"{citation}\": ends before it begins";
            if (!index.Rows.Contains(row)) yield return $"\"{citation}\": no row {row}";
        }
    }

    [GeneratedRegex(@"\b(?:Semantics|[Ss]ections?) \d+(?:\.\d+)?(?:(?:, | and | to )\d+\.\d+)*")]
    private static partial Regex Section();

    [GeneratedRegex(@"\d+(?:\.\d+)?")]
    private static partial Regex Number();

    [GeneratedRegex(@"kernel-semantics(?: \d+(?:\.\d+)?)?|§ ?\d+(?:\.\d+)?")]
    private static partial Regex OldName();

    [GeneratedRegex(@"\b[Rr]ows? \d+(?:(?: ?- ?|, | and | to )\d+\b(?!\.\d))*")]
    private static partial Regex Rows();

    [GeneratedRegex(@"^Rows?_\d+(?:_(?:to|and)_\d+)*")]
    private static partial Regex RowsInName();

    [GeneratedRegex(@"\d+|-|[a-zA-Z]+")]
    private static partial Regex Word();

    [GeneratedRegex(@"\s*\r?\n\s*(?:///?|\*)?\s*|^///?\s*")]
    private static partial Regex CommentMark();
}
