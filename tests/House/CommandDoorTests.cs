using Xunit;

namespace FramePin.Tests.House;

/// <summary>Memory is taken away through one door.</summary>
public sealed class CommandDoorTests
{
    private const string Core = """
        namespace Core
        {
            interface IInvalidating { }
            struct Munmap : IInvalidating { }
            struct Munlock { }
            class Machine { public void Call<T>(T command) { } public void Pin() { } }
        }
        """;

    [Fact]
    public void The_server_takes_memory_away_through_one_door() =>
        HouseGuards.Hold("command-door", [.. CommandDoor.Bypasses(SymbolUses.AllProjects)]);

    [Theory]
    [InlineData("machine.Call(new Core.Munmap());", 1)]
    [InlineData("machine.Pin();", 1)]
    [InlineData("machine.Call(new Core.Munlock());", 0)]
    public void A_planted_bypass_is_seen(string call, int findings)
    {
        var project = SourceProject.Planted(
            "src/Server/P.csproj",
            ("src/Core/Machine.cs", Core),
            ("src/Server/Services/Unmap.cs", $"class Unmap {{ void Run(Core.Machine machine) {{ {call} }} }}"));
        Assert.Equal(findings, CommandDoor.Bypasses([project]).Count());
    }
}
