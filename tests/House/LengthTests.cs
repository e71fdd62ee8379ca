using Microsoft.CodeAnalysis.CSharp;
using Xunit;

namespace FramePin.Tests.House;

/// <summary>120 columns, 400 lines a file, 70 lines a method.</summary>
public sealed class LengthTests
{
    private static readonly string[] Sources =
        [.. Repository.FilesOf(".cs", ".proto", ".py").Concat(Repository.Scripts)];

    [Fact]
    public void No_line_is_wider_than_120_columns() => HouseGuards.Hold(
        "columns",
        [.. Sources.Concat(Repository.Documents).SelectMany(file => Lengths.Wide(file, Repository.Read(file)))]);

    [Fact]
    public void No_file_is_longer_than_400_lines() => HouseGuards.Hold(
        "file-lines", [.. Sources.SelectMany(file => Lengths.LongFile(file, Repository.Read(file)))]);

    [Fact]
    public void No_method_is_longer_than_70_lines() => HouseGuards.Hold(
        "method-lines",
        [
            .. Repository.FilesOf(".cs").SelectMany(
                file => Lengths.LongMethods(file, CSharpSyntaxTree.ParseText(Repository.Read(file)).GetRoot())),
        ]);

    [Theory]
    [InlineData("a.cs", 120, "", 0)]
    [InlineData("a.cs", 121, "", 1)]
    [InlineData("a.md", 121, "", 1)]
    [InlineData("a.md", 121, "| ", 0)]
    [InlineData("a.md", 20, "https://example.org/", 0)]
    public void A_wide_line_is_seen(string file, int columns, string before, int expected)
    {
        var line = before.StartsWith("http", StringComparison.Ordinal)
            ? new string('a', columns) + " " + before + new string('b', 200)
            : before + new string('a', columns - before.Length);
        Assert.Equal(expected, Lengths.Wide(file, $"short\n{line}\n").Sum(finding => finding.Measure));
    }

    [Theory]
    [InlineData(400, 0)]
    [InlineData(401, 1)]
    public void A_long_file_is_seen(int lines, int expected)
    {
        var text = string.Concat(Enumerable.Repeat("\n", lines - 1)) + "x\n";
        Assert.Equal(expected, Lengths.LongFile("a.cs", text).Count());
    }

    [Theory]
    [InlineData("/// <summary>\n/// Doc.\n/// </summary>\n[A]\nvoid M()\n{\n%}\n", 67, 0)]
    [InlineData("void M()\n{\n%}\n", 68, 1)]
    [InlineData("C()\n{\n%}\n", 68, 1)]
    [InlineData("int P\n{\nget\n{\n%}\n}\n", 68, 1)]
    [InlineData("int P\n{\nget\n{\n%}\n}\n", 67, 0)]
    public void A_long_method_is_seen(string shape, int lines, int expected)
    {
        var source = "class C\n{\n" + shape.Replace("%", string.Concat(Enumerable.Repeat("// line\n", lines))) + "}\n";
        Assert.Equal(expected, Lengths.LongMethods("a.cs", CSharpSyntaxTree.ParseText(source).GetRoot()).Count());
    }
}
