using System.Text.RegularExpressions;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace FramePin.Tests.House;

/// <summary>How wide lines, and how long files and methods may be.</summary>
internal static partial class Lengths
{
    public const int Columns = 120;
    public const int FileLines = 400;
    public const int MethodLines = 70;

    /// <summary>
    /// Lines wider than <see cref="Columns"/>; the measure is the number of such lines in the file. In Markdown, rows
    /// of a table and lines that a URL makes long are left out.
    /// </summary>
    public static IEnumerable<Finding> Wide(string file, string text)
    {
        var wide = Lines(text).Select((line, i) => (Line: line, Number: i + 1))
            .Where(line => line.Line.EnumerateRunes().Count() > Columns)
            .Where(line => !file.EndsWith(".md", StringComparison.Ordinal) || !IsExcepted(line.Line)).ToList();
        if (wide.Count > 0)
        {
            var numbers = string.Join(' ', wide.Select(line => line.Number));
            yield return new Finding(file, wide.Count, $"wider than {Columns}: lines {numbers}");
        }
    }

    public static IEnumerable<Finding> LongFile(string file, string text)
    {
        var lines = Lines(text).Length;
        if (lines > FileLines) yield return new Finding(file, lines, $"longer than {FileLines} lines");
    }

    /// <summary>
    /// Members with a body that is too long, from the line of the signature (attributes and doc comment are before it)
    /// to the closing brace. Statements at the top of a file count as one method.
    /// </summary>
    public static IEnumerable<Finding> LongMethods(string file, SyntaxNode root)
    {
        var top = root.ChildNodes().OfType<GlobalStatementSyntax>().ToList();
        if (top.Count > 0 &&
            Finding(file, "top of the file", top[0].GetFirstToken(), top[^1].GetLastToken()) is { } whole)
            yield return whole;
        foreach (var node in root.DescendantNodes())
        {
            var (name, first) = node switch
            {
                MethodDeclarationSyntax method => (method.Identifier.Text, First(method.Modifiers, method.ReturnType)),
                ConstructorDeclarationSyntax made => (".ctor", First(made.Modifiers, made)),
                OperatorDeclarationSyntax shown => (shown.OperatorToken.Text, First(shown.Modifiers, shown.ReturnType)),
                ConversionOperatorDeclarationSyntax turned => ("conversion", First(turned.Modifiers, turned)),
                AccessorDeclarationSyntax accessor => (accessor.Keyword.Text, accessor.Keyword),
                PropertyDeclarationSyntax { ExpressionBody: not null } property =>
                    (property.Identifier.Text, First(property.Modifiers, property.Type)),
                _ => (null, default),
            };
            if (name is not null && Finding(file, Owner(node) + name, first, node.GetLastToken()) is { } finding)
                yield return finding;
        }
    }

    private static Finding? Finding(string file, string name, SyntaxToken first, SyntaxToken last)
    {
        var from = first.GetLocation().GetLineSpan().StartLinePosition.Line;
        var lines = last.GetLocation().GetLineSpan().EndLinePosition.Line - from + 1;
        return lines > MethodLines
            ? new Finding($"{file}: {name}", lines, $"line {from + 1}: longer than {MethodLines} lines")
            : null;
    }

    private static SyntaxToken First(SyntaxTokenList modifiers, SyntaxNode rest) =>
        modifiers.Count > 0 ? modifiers[0] : rest.GetFirstToken();

    private static string Owner(SyntaxNode node)
    {
        var owner = node.Ancestors().OfType<TypeDeclarationSyntax>().FirstOrDefault()?.Identifier.Text + ".";
        var property = node.Ancestors().OfType<PropertyDeclarationSyntax>().FirstOrDefault();
        return node is AccessorDeclarationSyntax && property is not null
            ? owner + property.Identifier.Text + "."
            : owner;
    }

    private static bool IsExcepted(string line) =>
        line.StartsWith('|') || Url().Replace(line, "").Length <= Columns;

    private static string[] Lines(string text) => text.TrimEnd('\n').Split('\n');

    [GeneratedRegex(@"\]?\(?https?://\S+")]
    private static partial Regex Url();
}
