using Xunit;

namespace FramePin.Tests.House;

/// <summary>src holds nothing that only tests need, and nothing that nobody needs.</summary>
public sealed class LivenessTests
{
    private static readonly Lazy<Liveness> Solution = new(() => Liveness.Of(SymbolUses.AllProjects, SymbolUses.All));

    [Fact]
    public void Src_has_no_member_for_tests_only() => HouseGuards.Hold("test-only", [.. Solution.Value.TestOnly]);

    [Fact]
    public void Src_has_no_member_that_nothing_uses() => HouseGuards.Hold("unused", [.. Solution.Value.Unused]);

    [Theory]
    [InlineData("public static void M() { }", "C.M();", "C.M")]
    [InlineData("public static void M() => N(); static void N() { }", "C.M();", "C.M C.N")]
    [InlineData("public static int Switch; public static int Run() => Switch;", "C.Switch = 1;", "C.Switch")]
    [InlineData("public static bool P => true;", "if (C.P) { }", "C.P")]
    public void A_planted_member_for_tests_is_seen(string member, string test, string expected) => Assert.Equal(
        expected, string.Join(' ', Planted(member, test).TestOnly.Select(finding => finding.Place).Order()));

    [Theory]
    [InlineData("static void M() { }", "C.M")]
    [InlineData("static void M() => M();", "C.M")]
    [InlineData("static void M() => N(); static void N() => M();", "C.M C.N")]
    public void A_planted_member_for_nobody_is_seen(string member, string expected) =>
        Assert.Equal(expected, string.Join(' ', Planted(member, "").Unused.Select(finding => finding.Place).Order()));

    [Theory]
    [InlineData("public static int Run() => M(); static int M() => 1;")]
    [InlineData("public static int Run() => Switch; static int Switch { get; set; } = 1; static C() { Switch = 2; }")]
    [InlineData("public override string ToString() => \"\"; public static int Run() => 1;")]
    public void What_src_uses_itself_is_allowed(string member)
    {
        var liveness = Planted(member, "_ = C.Run();");
        Assert.Empty(liveness.TestOnly);
        Assert.Empty(liveness.Unused);
    }

    /// <summary>A class C with a member, a program that calls C.Run and a test.</summary>
    private static Liveness Planted(string member, string test)
    {
        SourceProject[] projects =
        [
            SourceProject.Planted(
                "src/P/P.csproj",
                ("src/P/C.cs", $"class C {{ {member} }}"),
                ("src/P/Program.cs", "static class Program { static void Main() { _ = new C(); C.Run(); } }"),
                ("tests/T.cs", $"class T {{ void Test() {{ {test} }} }}")),
        ];
        return Liveness.Of(projects, SymbolUses.Find(projects));
    }
}
