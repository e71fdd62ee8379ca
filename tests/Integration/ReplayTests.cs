using FramePin.Client.Replay;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>The four recorded programs, replayed over gRPC under the profile of the kernel that they were recorded on.</summary>
public sealed class ReplayTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private static readonly string[] Names = ["git", "malloc-mix", "perl", "python3"];

    public static TheoryData<string> Programs => [.. Names];

    private static Recording Load(string program)
    {
        var folder = Path.Combine(AppContext.BaseDirectory, "Data", "traces", program);
        return Recording.Load(
            Path.Combine(folder, "strace.log"), Path.Combine(folder, "maps.start"), Path.Combine(folder, "maps.end"));
    }

    [Theory]
    [MemberData(nameof(Programs))]
    public async Task Every_call_answers_as_recorded_and_the_maps_agree(string program)
    {
        var recording = Load(program);
        var report = await new Replayer(daemon.Client).RunAsync(recording, pinAll: true, cancelled: TestContext.Current.CancellationToken);
        Assert.True(report.ReturnsDifferent.Count == 0, string.Join('\n', report.ReturnsDifferent.Take(10)));
        Assert.Equal(recording.Calls.Count, report.Calls.Values.Sum() + report.CallsOther.Values.Sum());
        Assert.Equal(report.Calls.Values.Sum(), report.ReturnsMatched);
        TestContext.Current.TestOutputHelper?.WriteLine(
            $"{program}: {report.ReturnsMatched}/{report.ReturnsExpected} returns, {report.MapsMatched}/{report.MapsExpected} maps, "
            + $"{report.PagesPinned} pages pinned; missing:\n{string.Join('\n', report.MapsMissing)}\nunexpected:\n"
            + string.Join('\n', report.MapsUnexpected));
        Assert.True(
            report.MapsMatched == report.MapsExpected && report.MapsUnexpected.Count == 0,
            $"{report.MapsMatched} of {report.MapsExpected}; missing:\n{string.Join('\n', report.MapsMissing)}\nunexpected:\n"
            + string.Join('\n', report.MapsUnexpected));
        Assert.True(report.PagesPinned > 0);
        Assert.Equal(0, report.LeakedPins);
        Assert.Empty(report.AuditFindings);
    }

    [Theory]
    [MemberData(nameof(Programs))]
    public async Task One_altered_return_value_is_the_one_difference_reported(string program)
    {
        var recording = Load(program);
        var calls = recording.Calls.ToList();
        var index = calls.FindLastIndex(call => call.Name is "mmap");
        calls[index] = calls[index] with { Result = "0x7f0000001000" };
        var altered = recording with { Calls = calls };
        var report = await new Replayer(daemon.Client).RunAsync(altered, pinAll: false, cancelled: TestContext.Current.CancellationToken);
        var difference = Assert.Single(report.ReturnsDifferent);
        Assert.Equal(calls[index].Line, difference.Line);
        Assert.Equal(report.ReturnsExpected - 1, report.ReturnsMatched);
    }

    /// <summary>framepin record and replay, on a program that the machine has.</summary>
    [Fact]
    public async Task A_program_recorded_here_replays_as_it_ran()
    {
        var folder = Directory.CreateTempSubdirectory("framepin-recording-").FullName;
        try
        {
            var exit = await new Recorder(TimeProvider.System).RunAsync(["/bin/ls", "/"], folder, TestContext.Current.CancellationToken);
            Assert.Equal(0, exit);
            var report = await new Replayer(daemon.Client).RunAsync(
                Recording.Load(folder), pinAll: true, cancelled: TestContext.Current.CancellationToken);
            Assert.True(report.ReturnsExpected > 10);
            Assert.True(report.ReturnsDifferent.Count == 0, string.Join('\n', report.ReturnsDifferent));
            Assert.Empty(report.MapsMissing);
            Assert.Empty(report.MapsUnexpected);
            Assert.Equal(0, report.LeakedPins);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
