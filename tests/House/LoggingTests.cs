using Xunit;

namespace FramePin.Tests.House;

/// <summary>Log events are numbered, named, and stand in one file a program.</summary>
public sealed class LoggingTests
{
    private const string Good = """
        using Microsoft.Extensions.Logging;
        static partial class Log
        {
            [LoggerMessage(EventId = 1, EventName = "One", Level = LogLevel.Error, Message = "one")]
            public static partial void One(this ILogger log);
        }
        """;

    [Fact]
    public void Log_events_stand_in_one_file_a_program() => HouseGuards.Hold(
        "logging",
        [
            .. SymbolUses.AllProjects.Where(project => project.File.StartsWith("src/", StringComparison.Ordinal))
                .SelectMany(Logging.Check),
        ]);

    [Fact]
    public void The_daemon_has_events() => Assert.Contains(
        "EventName", Repository.Read("src/Server/Telemetry/Log.cs"), StringComparison.Ordinal);

    [Fact]
    public void Events_in_their_file_and_their_use_are_allowed() => Assert.Empty(Check(
        ("src/P/Log.cs", Good),
        ("src/P/A.cs", "class A { void M(Microsoft.Extensions.Logging.ILogger log) => log.One(); }")));

    [Theory]
    [InlineData("class A { void M(ILogger log) => log.LogError(\"text\"); }")]
    [InlineData("class A { void M(ILogger<A> log) => log?.Log(LogLevel.Error, \"text\"); }")]
    [InlineData("class A { object O = LoggerMessage.Define(LogLevel.Error, 1, \"text\"); }")]
    [InlineData("partial class A { [LoggerMessage(2, LogLevel.Error, \"a\")] partial void M(); }")]
    public void A_planted_call_or_event_elsewhere_is_seen(string source) => Assert.Contains(
        Check(("src/P/Log.cs", Good), ("src/P/A.cs", $"using Microsoft.Extensions.Logging; {source}")),
        finding => finding.Place.StartsWith("src/P/A.cs", StringComparison.Ordinal));

    [Theory]
    [InlineData("EventId = 1, ", "")]
    [InlineData("EventName = \"One\", ", "")]
    public void An_event_without_number_or_name_is_seen(string present, string absent) =>
        Assert.NotEmpty(Check(("src/P/Log.cs", Good.Replace(present, absent, StringComparison.Ordinal))));

    [Fact]
    public void A_number_that_stands_twice_is_seen()
    {
        var again = Good[Good.IndexOf('\n', StringComparison.Ordinal)..];
        Assert.NotEmpty(
            Check(("src/P/Log.cs", Good + again.Replace("One(this", "Two(this", StringComparison.Ordinal))));
    }

    private static IReadOnlyList<Finding> Check(params (string, string)[] sources) =>
        [.. Logging.Check(SourceProject.Planted("src/P/P.csproj", sources))];
}
