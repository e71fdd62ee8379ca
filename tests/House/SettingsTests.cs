using System.Xml.Linq;
using Xunit;

namespace FramePin.Tests.House;

/// <summary>Warnings are errors everywhere.</summary>
public sealed class SettingsTests
{
    [Fact]
    public void No_project_weakens_what_all_are_held_to() => HouseGuards.Hold(
        "settings",
        [
            .. Repository.FilesOf(".csproj").SelectMany(file => Settings.Project(file, Repository.Read(file))),
            .. Repository.FilesOf(".editorconfig")
                .SelectMany(file => Settings.EditorConfig(file, Repository.Read(file))),
            .. Repository.FilesOf(".cs").SelectMany(file => Settings.Source(file, Repository.Read(file))),
        ]);

    [Fact]
    public void All_projects_are_held_to_errors_and_analyzers()
    {
        var all = XDocument.Parse(Repository.Read("Directory.Build.props")).Descendants()
            .ToLookup(element => element.Name.LocalName, element => element.Value);
        Assert.Equal("true", Assert.Single(all["TreatWarningsAsErrors"]));
        Assert.Equal("latest-recommended", Assert.Single(all["AnalysisLevel"]));
        Assert.Equal("true", Assert.Single(all["EnforceCodeStyleInBuild"]));
        Assert.Equal("enable", Assert.Single(all["Nullable"]));
        Assert.Equal(
            ["Directory.Build.props", "Directory.Packages.props", "src/Client/Package.props"],
            Repository.FilesOf(".props", ".targets", ".rsp"));
    }

    [Theory]
    [InlineData("<TreatWarningsAsErrors>false</TreatWarningsAsErrors>")]
    [InlineData("<NoWarn>CS1591</NoWarn>")]
    [InlineData("<AnalysisMode>None</AnalysisMode>")]
    public void A_weakened_project_is_seen(string property) => Assert.Single(
        Settings.Project("a.csproj", $"<Project><PropertyGroup>{property}</PropertyGroup></Project>"));

    [Theory]
    [InlineData("[protos/**.cs]\ngenerated_code = true\n", 1)]
    [InlineData("[artifacts/**.cs]\ngenerated_code = true\n", 0)]
    [InlineData("[artifacts/**.cs]\n[*.cs]\ngenerated_code = true\n", 1)]
    [InlineData("dotnet_diagnostic.CA1000.severity = none\n", 1)]
    [InlineData("# Why: CA1000.\ndotnet_diagnostic.CA1000.severity = none\n", 0)]
    [InlineData("# Why: CA1000.\ndotnet_diagnostic.CA1001.severity = none\n", 1)]
    public void A_suppression_without_a_reason_is_seen(string text, int expected) =>
        Assert.Equal(expected, Settings.EditorConfig(".editorconfig", text).Count());

    [Theory]
    [InlineData("#pragma warning disable CA1000\n", 1)]
    [InlineData("#pragma warning disable CA1000 // a reason\n", 0)]
    [InlineData("// a reason\n#pragma warning disable CA1000\n", 0)]
    [InlineData("#nullable disable\n", 1)]
    [InlineData("[SuppressMessage(\"A\", \"CA1000\")]\n", 1)]
    public void A_suppression_in_source_without_a_reason_is_seen(string text, int expected) =>
        Assert.Equal(expected, Settings.Source("a.cs", text).Count());
}
