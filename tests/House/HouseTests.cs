using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Xunit;

namespace FramePin.Tests.House;

/// <summary>Rooms depend one way, and documents name files and members that exist.</summary>
public sealed class HouseTests
{
    private static readonly RoomOrder Core = RoomOrder.All.Single(order => order.Folder == "src/Core");

    [Fact]
    public void Rooms_of_core_depend_leftwards_only() => HouseGuards.Hold(
        "rooms-of-core",
        [
            .. Rooms.BackArrows(
                SymbolUses.All.Where(use => use.From.StartsWith("src/Core/", StringComparison.Ordinal)), [Core]),
        ]);

    [Fact]
    public void Every_room_of_core_is_in_the_order() => Assert.Empty(Rooms.Unplaced(Repository.FilesOf(".cs"), [Core]));

    [Fact]
    public void Unsafe_code_stays_in_the_native_room() => Assert.DoesNotContain(
        Repository.FilesOf(".cs").Where(file => file.StartsWith("src/", StringComparison.Ordinal) ||
            file.StartsWith("protos/", StringComparison.Ordinal)),
        file => !file.Contains("/Native/", StringComparison.Ordinal) && IsUnsafe(Repository.Read(file)));

    [Theory]
    [InlineData("class C { unsafe void M() { } }", true)]
    [InlineData("class C { void M() { unsafe { } } }", true)]
    [InlineData("/* unsafe */ class C { string S = \"unsafe\"; }", false)]
    public void Unsafe_code_is_seen(string source, bool expected) => Assert.Equal(expected, IsUnsafe(source));

    [Fact]
    public void Core_references_no_package()
    {
        var project = Repository.Read("src/Core/FramePin.Core.csproj");
        Assert.DoesNotContain("PackageReference", project, StringComparison.Ordinal);
        Assert.DoesNotContain("ProjectReference", project, StringComparison.Ordinal);
    }

    [Fact]
    public void Documents_name_files_that_exist() => Assert.Empty(
        Repository.Documents.SelectMany(file => Documents.MissingFiles(file, Repository.Read(file), Repository.Files)));

    [Fact]
    public void Documents_name_members_that_exist() => Assert.Empty(
        Repository.Documents.SelectMany(
            file => Documents.MissingMembers(file, Repository.Read(file), Documents.MembersOfSolution)));

    [Theory]
    [InlineData("`src/A/B.cs`", 0)]
    [InlineData("`src/A` and `src/A/`", 0)]
    [InlineData("`src/A/C.cs`", 1)]
    [InlineData("`README.md`", 1)]
    public void A_file_that_is_missing_is_seen(string text, int expected) =>
        Assert.Equal(expected, Documents.MissingFiles("a.md", text, ["src/A/B.cs"]).Count());

    [Theory]
    [InlineData("`Machine.Execute` and `Machine.Execute()`", 0)]
    [InlineData("`Machine.Gone`", 1)]
    [InlineData("`Gone.Execute`", 1)]
    [InlineData("`google.rpc.Status`, `FramePin.Client`, `README.md`, `a.B`", 0)]
    [InlineData("```\nMachine.Gone\n```", 0)]
    public void A_member_that_is_missing_is_seen(string text, int expected)
    {
        var members = new Dictionary<string, IReadOnlySet<string>> { ["Machine"] = new HashSet<string> { "Execute" } };
        Assert.Equal(expected, Documents.MissingMembers("a.md", text, members).Count());
    }

    [Fact]
    public void Frame_records_and_native_structs_have_the_size_that_their_comments_state()
    {
        Assert.Equal(8, System.Runtime.CompilerServices.Unsafe.SizeOf<FramePin.Core.Frames.FrameState>());
        Assert.Equal(24, System.Runtime.CompilerServices.Unsafe.SizeOf<FramePin.Core.Frames.FrameInfo>());
    }

    private static bool IsUnsafe(string source) => CSharpSyntaxTree.ParseText(source).GetRoot().DescendantTokens()
        .Any(token => token.IsKind(SyntaxKind.UnsafeKeyword));
}
