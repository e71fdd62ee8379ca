using System.Xml.Linq;
using Xunit;

namespace FramePin.Tests.House;

/// <summary>The public members of the packages are documented, can be cancelled, and stand in a file.</summary>
public sealed class PublicSurfaceTests
{
    private static readonly string[] Files = ["PublicAPI.Shipped.txt", "PublicAPI.Unshipped.txt"];

    private const string Usings =
        "using System.Collections.Generic; using System.Threading; using System.Threading.Tasks;";

    private static IEnumerable<SourceProject> Packages =>
        SymbolUses.AllProjects.Where(project => project.IsPackage);

    [Fact]
    public void Every_asynchronous_method_of_the_packages_takes_a_token() =>
        HoldsNone(Packages.SelectMany(project => PublicSurface.WithoutToken(PublicSurface.Of(project))));

    [Fact]
    public void Every_public_type_member_and_parameter_of_the_packages_has_a_comment() =>
        HoldsNone(Packages.SelectMany(project => PublicSurface.Undocumented(PublicSurface.Of(project))));

    [Fact]
    public void The_build_refuses_a_public_member_without_a_comment_or_without_its_line_in_a_file()
    {
        var common = XDocument.Parse(Repository.Read("src/Client/Package.props"));
        Assert.Equal("true", common.Descendants("GenerateDocumentationFile").Single().Value);
        Assert.Equal(Files, common.Descendants("AdditionalFiles").Select(file => file.Attribute("Include")!.Value));
        Assert.Contains(
            common.Descendants("PackageReference"),
            package => package.Attribute("Include")!.Value == "Microsoft.CodeAnalysis.PublicApiAnalyzers");
        var silent = Repository.Read(".editorconfig");
        Assert.DoesNotContain("CS1591", silent, StringComparison.Ordinal);
        Assert.DoesNotContain("RS0016", silent, StringComparison.Ordinal);
        Assert.DoesNotContain("RS0017", silent, StringComparison.Ordinal);
        Assert.All(Packages, project =>
        {
            Assert.Contains("<Import Project=\"../Package.props\" />", Repository.Read(project.File),
                StringComparison.Ordinal);
            var folder = Path.GetDirectoryName(project.File)!;
            Assert.All(Files, file => Assert.StartsWith(
                "#nullable enable", Repository.Read($"{folder}/{file}"), StringComparison.Ordinal));
        });
    }

    [Theory]
    [InlineData("public Task M(CancellationToken c) => Task.CompletedTask;", 0)]
    [InlineData("public Task M() => Task.CompletedTask;", 1)]
    [InlineData("public Task<int> M(CancellationToken c, int i) => Task.FromResult(i);", 1)]
    [InlineData("protected ValueTask M() => default;", 1)]
    [InlineData("public IAsyncEnumerable<int> M() => null!;", 1)]
    [InlineData("internal Task M() => Task.CompletedTask;", 0)]
    [InlineData("public Task Done => Task.CompletedTask;", 0)]
    [InlineData("public ValueTask DisposeAsync() => default;", 0)]
    public void A_method_without_a_token_is_seen(string member, int expected) =>
        Assert.Equal(expected, PublicSurface.WithoutToken(Plant($"public class C {{ {member} }}")).Count());

    [Theory]
    [InlineData("/// <summary>C.</summary>\npublic class C { }", 0)]
    [InlineData("public class C { }", 1)]
    [InlineData("/// <summary></summary>\npublic class C { }", 1)]
    [InlineData("/// <summary>C.</summary>\npublic class C { public int P { get; set; } }", 1)]
    [InlineData("/// <summary>C.</summary>\npublic class C { internal int P { get; set; } }", 0)]
    [InlineData("/// <summary>C.</summary>\npublic class C {\n/// <summary>M</summary>\npublic void M(int i) { } }", 1)]
    [InlineData("/// <summary>C.</summary>\npublic class C {\n/// <inheritdoc />\npublic void M(int i) { } }", 0)]
    [InlineData("/// <summary>C.</summary>\npublic record C(int I);", 1)]
    [InlineData("/// <summary>C.</summary>\n/// <param name=\"I\">I.</param>\npublic record C(int I);", 0)]
    public void A_member_without_a_comment_is_seen(string source, int expected) =>
        Assert.Equal(expected, PublicSurface.Undocumented(Plant(source)).Count());

    private static void HoldsNone(IEnumerable<Finding> findings)
    {
        var details = findings.Select(finding => finding.Detail).ToList();
        Assert.True(details.Count == 0, string.Join('\n', details));
    }

    private static IEnumerable<Microsoft.CodeAnalysis.ISymbol> Plant(string source) => PublicSurface.Of(
        SourceProject.Planted(
            "src/Client/Library/X.csproj",
            ("src/Client/Library/C.cs", $"{Usings}\n{source}")));
}
