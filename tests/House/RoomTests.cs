using Xunit;

namespace FramePin.Tests.House;

/// <summary>Rooms depend one way: by what they use and not by what they name in a <c>using</c> line.</summary>
public sealed class RoomTests
{
    private static readonly RoomOrder[] Order = [new("src/P", ["A", "B", "C"])];

    private static readonly IEnumerable<SymbolUse> Source =
        SymbolUses.All.Where(use => use.From.StartsWith("src/", StringComparison.Ordinal));

    [Fact]
    public void Rooms_depend_leftwards_only() =>
        HouseGuards.Hold(
        "rooms", [.. Rooms.BackArrows(Source, [.. RoomOrder.All.Where(order => order.Folder != "src/Core")])]);

    [Fact]
    public void No_rooms_use_each_other_in_a_circle() =>
        HouseGuards.Hold("circles", [.. Rooms.Circles(Source, RoomOrder.All)]);

    [Fact]
    public void Every_room_has_a_place_in_the_order() => HouseGuards.Hold(
        "unplaced-rooms", [.. Rooms.Unplaced(Repository.FilesOf(".cs"), RoomOrder.All)]);

    [Fact]
    public void Leftward_uses_are_allowed()
    {
        var uses = Planted("", "class Right { int M() => new P.A.Left().Next; }");
        Assert.Empty(Rooms.BackArrows(uses, Order));
        Assert.Empty(Rooms.Circles(uses, Order));
    }

    /// <summary>
    /// The back-arrow has no <c>using</c> line and names no type of the other room: a member leads into it.
    /// </summary>
    [Fact]
    public void A_planted_back_arrow_is_seen()
    {
        var uses = Planted(
            "static int N(P.B.Right right) => right.M();", "class Right { public int M() => new P.A.Left().Next; }");
        Assert.Equal("src/P: A -> B", Assert.Single(Rooms.BackArrows(uses, Order)).Place);
        Assert.Equal("src/P: A <-> B", Assert.Single(Rooms.Circles(uses, Order)).Place);
    }

    [Fact]
    public void A_planted_back_arrow_through_var_is_seen()
    {
        var uses = SymbolUses.Find(
        [
            SourceProject.Planted(
                "src/P/P.csproj",
                ("src/P/A/Left.cs",
                    "namespace P.A { class Left { int N() { var made = P.Maker.Make(); return made.M(); } } }"),
                ("src/P/Maker.cs", "namespace P { static class Maker { public static P.B.Right Make() => new(); } }"),
                ("src/P/B/Right.cs", "namespace P.B { class Right { public int M() => 1; } }")),
        ]);
        Assert.Equal("src/P: A -> B", Assert.Single(Rooms.BackArrows(uses, Order)).Place);
        Assert.Empty(Rooms.Circles(uses, Order));
    }

    [Fact]
    public void A_planted_circle_over_three_rooms_is_seen()
    {
        var uses = SymbolUses.Find(
        [
            SourceProject.Planted(
                "src/P/P.csproj",
                ("src/P/X/One.cs", "namespace P.X { class One { P.Y.Two? Next; } }"),
                ("src/P/Y/Two.cs", "namespace P.Y { class Two { P.Z.Three? Next; } }"),
                ("src/P/Z/Three.cs", "namespace P.Z { class Three { P.X.One? Next; } }")),
        ]);
        Assert.NotEmpty(Rooms.Circles(uses, []));
    }

    [Fact]
    public void A_room_without_a_place_is_seen()
    {
        string[] files = ["src/P/A/Left.cs", "src/P/D/New.cs", "src/P/Root.cs"];
        Assert.Equal("src/P/D", Assert.Single(Rooms.Unplaced(files, Order)).Place);
    }

    /// <summary>Two rooms: A with a class Left, which has <paramref name="left"/> in it, and B.</summary>
    private static IReadOnlyList<SymbolUse> Planted(string left, string right) => SymbolUses.Find(
    [
        SourceProject.Planted(
            "src/P/P.csproj",
            ("src/P/A/Left.cs", $"namespace P.A {{ class Left {{ public int Next => 1; {left} }} }}"),
            ("src/P/B/Right.cs", $"namespace P.B {{ {right} }}")),
    ]);
}
