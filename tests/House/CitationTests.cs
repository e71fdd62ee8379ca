using Microsoft.CodeAnalysis.CSharp;
using Xunit;

namespace FramePin.Tests.House;

/// <summary>Every citation of src/Core/Semantics in code, tests, protos and documents names what is there.</summary>
public sealed class CitationTests
{
    private static readonly SemanticsIndex Index = SemanticsIndex.Read(
        Repository.FilesOf(".md").Where(file => file.StartsWith("src/Core/Semantics/", StringComparison.Ordinal))
            .Select(Repository.Read));

    [Fact]
    public void Every_citation_resolves()
    {
        var resolver = new CitationResolver(Index);
        var wrong = new List<string>();
        foreach (var file in Repository.FilesOf(".md", ".proto", ".py").Concat(Repository.Scripts))
            wrong.AddRange(resolver.WrongIn(Prose(file)).Select(text => $"{file}: {text}"));
        foreach (var file in Repository.FilesOf(".cs"))
            wrong.AddRange(resolver.WrongInSource(Root(Repository.Read(file))).Select(text => $"{file}: {text}"));

        Assert.True(wrong.Count == 0, string.Join('\n', wrong));
        Assert.InRange(resolver.Found, 200, int.MaxValue);
    }

    [Fact]
    public void The_pages_hold_the_rows_1_to_140_and_no_page_is_missing_in_their_index()
    {
        Assert.Equal(Enumerable.Range(1, 140), Index.Rows.Order());
        var readme = Repository.Read("src/Core/Semantics/README.md");
        foreach (var page in Repository.FilesOf(".md"))
            if (page.StartsWith("src/Core/Semantics/", StringComparison.Ordinal)
                && !page.EndsWith("README.md", StringComparison.Ordinal))
                Assert.Contains($"]({Path.GetFileName(page)})", readme, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("as in Semantics 3.5")]
    [InlineData("Semantics 6.1, 6.2 and 6.5; rows 87 to 102")]
    [InlineData("row 41, and rows 103, 104")]
    [InlineData("section 0 of the pages")]
    public void A_right_citation_is_found_and_resolves(string prose)
    {
        var resolver = new CitationResolver(Index);
        Assert.Empty(resolver.WrongIn(prose));
        Assert.NotEqual(0, resolver.Found);
    }

    [Theory]
    [InlineData("as in Semantics 3.12")]
    [InlineData("Semantics 6.1, 6.6")]
    [InlineData("Semantics 2.3 to 2.11")]
    [InlineData("section 12")]
    [InlineData("row 141")]
    [InlineData("rows 99, 141")]
    [InlineData("rows 1 to 35 and 75 to 177")]
    [InlineData("rows 40 to 30")]
    [InlineData("row 0")]
    [InlineData("kernel-semantics 3.5")]
    [InlineData("§3.5")]
    public void A_wrong_citation_is_refused(string prose) =>
        Assert.NotEmpty(new CitationResolver(Index).WrongIn(prose));

    [Theory]
    [InlineData("/// <summary>Row 41, and\n/// rows 42,\n/// 141.</summary>\nclass C;")]
    [InlineData("class C { void Rows_138_to_141_are_started() { } }")]
    [InlineData("class C { /* Semantics 9.9 */ }")]
    public void A_wrong_citation_in_source_is_refused(string source) =>
        Assert.NotEmpty(new CitationResolver(Index).WrongInSource(Root(source)));

    [Fact]
    public void A_string_of_a_program_is_no_citation() =>
        Assert.Empty(new CitationResolver(Index).WrongInSource(Root("""class C { string S = "row 999"; }""")));

    private static Microsoft.CodeAnalysis.SyntaxNode Root(string source) =>
        CSharpSyntaxTree.ParseText(source).GetRoot();

    private static string Prose(string file) => file.EndsWith(".md", StringComparison.Ordinal)
        ? string.Join(' ', Repository.Read(file).Split('\n').Select(line => line.Trim()))
        : string.Join(' ', Repository.Read(file).Split('\n').Select(line => line.TrimStart(' ', '/', '#')));
}
