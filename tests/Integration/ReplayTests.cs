using FramePin.Replay;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>
/// The four recorded programs, replayed over gRPC under the profile of the kernel that they were recorded on.
/// </summary>
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
        var report = await new Replayer(daemon.Client).RunAsync(
            recording, pinAll: true, cancellationToken: TestContext.Current.CancellationToken);
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
        var report = await new Replayer(daemon.Client).RunAsync(
            altered, pinAll: false, cancellationToken: TestContext.Current.CancellationToken);
        var difference = Assert.Single(report.ReturnsDifferent);
        Assert.Equal(calls[index].Line, difference.Line);
        Assert.Equal(report.ReturnsExpected - 1, report.ReturnsMatched);
    }

    /// <summary>
    /// Two threads: a munmap that began before an mmap and finished behind it must have come first, since the mmap took
    /// its room.
    /// </summary>
    [Fact]
    public async Task Overlapping_calls_are_put_into_the_order_that_explains_the_answers()
    {
        const string maps =
            "7f0000000000-7f0000100000 rw-p 00000000 00:00 0\n7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0   [stack]";
        const string log = """
            1 execve("/x", [...], 0x0 /* 0 vars */) = 0
            1 brk(NULL)                         = 0x500000
            1 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7efffffff000
            1 munmap(0x7efffffff000, 4096 <unfinished ...>
            2 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7efffffff000
            1 <... munmap resumed>)             = 0
            2 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0 <unfinished ...>
            1 exit_group(0)                     = ?
            2 <... mmap resumed>)               = ?
            """;
        var recording = new Recording
        {
            Calls = StraceLog.Parse(log.Split('\n')),
            MapsStart = MapsFile.Parse(maps.Split('\n')),
        };
        var report = await new Replayer(daemon.Client).RunAsync(
            recording, pinAll: false, cancellationToken: TestContext.Current.CancellationToken);
        Assert.Empty(report.ReturnsDifferent);
        Assert.Equal(4, report.ReturnsMatched);
        Assert.Equal([6], report.CallsReordered);
        Assert.Equal(1, report.CallsOther["mmap (never finished)"]);
    }

    /// <summary>
    /// Four threads ask at once, and finish in another order than the kernel served them in: no single change explains
    /// it.
    /// </summary>
    [Fact]
    public async Task Several_overlapping_calls_are_put_into_order_one_by_one()
    {
        const string maps =
            "7f0000000000-7f0000100000 rw-p 00000000 00:00 0\n7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0   [stack]";
        const string log = """
            1 execve("/x", [...], 0x0 /* 0 vars */) = 0
            1 brk(NULL)                         = 0x500000
            3 mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0 <unfinished ...>
            5 mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0 <unfinished ...>
            4 mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0 <unfinished ...>
            2 mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0 <unfinished ...>
            5 <... mmap resumed>)               = 0x7effffffc000
            4 <... mmap resumed>)               = 0x7effffffd000
            3 <... mmap resumed>)               = 0x7efffffff000
            2 <... mmap resumed>)               = 0x7effffffe000
            """;
        var recording = new Recording
        {
            Calls = StraceLog.Parse(log.Split('\n')),
            MapsStart = MapsFile.Parse(maps.Split('\n'))
        };
        var report = await new Replayer(daemon.Client).RunAsync(
            recording, pinAll: false, cancellationToken: TestContext.Current.CancellationToken);
        Assert.Empty(report.ReturnsDifferent);
        Assert.Equal(5, report.ReturnsMatched);
    }

    /// <summary>
    /// Two areas that met through a third between them are one at the end: not both of them had been touched before.
    /// </summary>
    [Fact]
    public async Task Areas_that_are_joined_at_the_end_rule_out_a_touch()
    {
        const string start =
            "7f0000000000-7f0000100000 r--p 00000000 fe:00 5 /f\n7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0   [stack]";
        const string log = """
            1 execve("/x", [...], 0x0 /* 0 vars */) = 0
            1 brk(NULL)                         = 0x500000
            1 mmap(0x7e0000000000, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0) = 0x7e0000000000
            1 mmap(0x7e0000002000, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0) = 0x7e0000002000
            1 mmap(0x7e0000001000, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0) = 0x7e0000001000
            """;
        var recording = new Recording
        {
            Calls = StraceLog.Parse(log.Split('\n')),
            MapsStart = MapsFile.Parse(start.Split('\n')),
            MapsEnd = MapsFile.Parse(("7e0000000000-7e0000003000 rw-p 00000000 00:00 0\n" + start).Split('\n')),
        };
        var report = await new Replayer(daemon.Client).RunAsync(
            recording, pinAll: false, cancellationToken: TestContext.Current.CancellationToken);
        Assert.Empty(report.MapsMissing);
        Assert.Equal((2, 1), (report.TouchesAssumed, report.TouchesRuledOut));
    }

    /// <summary>
    /// The same of memory that is taken page by page: what is ruled out is the stores to all of them.
    /// </summary>
    [Fact]
    public async Task Areas_that_were_taken_page_by_page_and_are_joined_at_the_end_rule_out_their_touches()
    {
        const string start =
            "7f0000000000-7f0000100000 r--p 00000000 fe:00 5 /f\n7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0   [stack]";
        var pages = new[] { 0, 1, 3, 4, 2 }.Select(page => 0x7e00_0000_0000UL + ((ulong)page * 4096));
        var log = string.Join('\n', pages.Select(address =>
            $"1 mmap(0x{address:x}, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0) = 0x{address:x}"));
        var recording = new Recording
        {
            Calls = StraceLog.Parse(log.Split('\n')),
            MapsStart = MapsFile.Parse(start.Split('\n')),
            MapsEnd = MapsFile.Parse(("7e0000000000-7e0000005000 rw-p 00000000 00:00 0\n" + start).Split('\n')),
        };
        var report = await new Replayer(daemon.Client).RunAsync(
            recording, pinAll: false, cancellationToken: TestContext.Current.CancellationToken);
        Assert.Empty(report.MapsMissing);
        Assert.Equal((3, 2), (report.TouchesAssumed, report.TouchesRuledOut));
    }

    /// <summary>
    /// A stack grows by stores, which no log shows; not past its limit, whatever the maps of the end say.
    /// </summary>
    [Theory]
    [InlineData(0x7ffffffd0000UL, 14UL, 0)]
    [InlineData(0x7fffff600000UL, 2526UL, 1)]
    public async Task A_stack_that_is_larger_at_the_end_has_grown_where_it_may(ulong stackEnd, ulong grown, int missing)
    {
        const string start =
            "7f0000000000-7f0000100000 r--p 00000000 fe:00 5 /f\n7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0   [stack]";
        var recording = new Recording
        {
            Calls = StraceLog.Parse(["1 brk(NULL)                         = 0x500000"]),
            MapsStart = MapsFile.Parse(start.Split('\n')),
            MapsEnd = MapsFile.Parse(
                start.Replace("7ffffffde000", $"{stackEnd:x}", StringComparison.Ordinal).Split('\n')),
        };
        var report = await new Replayer(daemon.Client).RunAsync(
            recording, pinAll: false, cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal((grown, missing), (report.StackGrowthAssumed, report.MapsMissing.Count));
    }

    /// <summary>A shell that becomes another program: the recording is of what it became.</summary>
    [Fact]
    public async Task A_program_that_another_became_replays()
    {
        var folder = Directory.CreateTempSubdirectory("framepin-recording-").FullName;
        try
        {
            string[] command = ["/bin/sh", "-c", "ls / > /dev/null; exec /bin/ls /"];
            Assert.Equal(0, await new Recorder(TimeProvider.System).RunAsync(
                command, folder, TestContext.Current.CancellationToken));
            var recording = Recording.Load(folder);
            Assert.Contains(recording.MapsStart, line => line.Name.EndsWith("/ls", StringComparison.Ordinal));
            var report = await new Replayer(daemon.Client).RunAsync(
                recording, pinAll: true, cancellationToken: TestContext.Current.CancellationToken);
            Assert.True(report.ReturnsDifferent.Count == 0, string.Join('\n', report.ReturnsDifferent));
            Assert.Empty(report.MapsMissing);
            Assert.Empty(report.MapsUnexpected);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>framepin record and replay, on a program that the machine has.</summary>
    [Fact]
    public async Task A_program_recorded_here_replays_as_it_ran()
    {
        var folder = Directory.CreateTempSubdirectory("framepin-recording-").FullName;
        try
        {
            var exit = await new Recorder(TimeProvider.System).RunAsync(
                ["/bin/ls", "/"], folder, TestContext.Current.CancellationToken);
            Assert.Equal(0, exit);
            var report = await new Replayer(daemon.Client).RunAsync(
                Recording.Load(folder), pinAll: true, cancellationToken: TestContext.Current.CancellationToken);
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
