using System.Diagnostics;
using FramePin.Client;
using FramePin.V1;
using Xunit;
using File = System.IO.File;

namespace FramePin.Tests.Integration.Commands;

/// <summary>
/// How commands end: by signals, beside a daemon that is stopped, over files that are there (part 4).
/// </summary>
public sealed class EndingTests
{
    private static CancellationToken Cancelled => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("INT", 130)]
    [InlineData("TERM", 143)]
    [InlineData("HUP", 129)]
    public async Task A_signal_ends_a_command_that_waits_without_a_trace(string signal, int exitCode)
    {
        await using var daemon = await DaemonProcess.StartAsync();
        var space = await ParkingAsync(daemon);
        using var process = CommandRun.Start(daemon.Endpoint, ["pin", space, "0x100000", "1"]);
        using var client = FramePinClient.Connect(daemon.Endpoint);
        while ((await client.Machines.GetMachineAsync(
            new GetMachineRequest(), cancellationToken: Cancelled)).Statistics.ParkedPins == 0)
            await Task.Yield();
        var run = await CommandRun.EndAsync(process, signal, Cancelled);
        Assert.Equal((exitCode, "", ""), (run.ExitCode, run.Out, run.Error));
    }

    /// <summary>
    /// A stopped daemon takes connections and never answers: the command ends before its calls' deadline.
    /// </summary>
    [Fact]
    public async Task A_daemon_that_is_stopped_ends_a_command_with_a_sentence()
    {
        await using var daemon = await DaemonProcess.StartAsync();
        await SignalAsync(daemon, "STOP");
        try
        {
            var watch = Stopwatch.StartNew();
            var run = await CommandRun.OfAsync(daemon.Endpoint, ["machines"], Cancelled);
            Assert.Equal(3, run.ExitCode);
            Assert.Contains("has not answered for 8 s", run.Error, StringComparison.Ordinal);
            CommandTests.AssertSentence(run);
            TestContext.Current.TestOutputHelper?.WriteLine($"{watch.Elapsed}");
        }
        finally
        {
            await SignalAsync(daemon, "CONT");
        }
    }

    /// <summary>A command that takes long beside a daemon that answers others goes on.</summary>
    [Fact]
    public async Task A_command_that_waits_for_long_is_not_taken_for_unanswered()
    {
        await using var daemon = await DaemonProcess.StartAsync();
        var space = await ParkingAsync(daemon);
        using var client = FramePinClient.Connect(daemon.Endpoint);
        var before = (await client.Machines.ListMachinesAsync(
            new ListMachinesRequest(), cancellationToken: Cancelled)).Machines.Count;
        Assert.Equal(1, before);
        using var process = CommandRun.Start(daemon.Endpoint, ["pin", space, "0x100000", "1"]);
        // The question whether the daemon answers is asked after three seconds: time is what is tested here.
        var ended = process.WaitForExitAsync(Cancelled);
        Assert.NotSame(ended, await Task.WhenAny(ended, Task.Delay(TimeSpan.FromSeconds(10), Cancelled)));
        Assert.Equal(143, (await CommandRun.EndAsync(process, "TERM", Cancelled)).ExitCode);
    }

    /// <summary>Part 4: a stream that takes nothing ends a command in order, and is told where that can be.</summary>
    [Theory]
    [InlineData("machines > /dev/full", 2, "standard output: ")]
    [InlineData("machines >&-", 2, "standard output: ")]
    [InlineData("-o json machines > /dev/full", 2, "\"OUTPUT\"")]
    [InlineData("nope 2> /dev/full", 2, "")]
    [InlineData("maps nope 2>&-", 1, "")]
    [InlineData("-e a -e b --help > /dev/full", 2, "standard output: ")]
    public async Task A_stream_that_takes_nothing_is_no_fault(string line, int exitCode, string said)
    {
        await using var daemon = await DaemonProcess.StartAsync();
        var run = await ShellAsync(daemon, $"\"$FRAMEPIN\" {line}");
        Assert.Equal(exitCode, run.ExitCode);
        Assert.Contains(said, run.Error, StringComparison.Ordinal);
        Assert.DoesNotContain(" at ", run.Error, StringComparison.Ordinal);
    }

    /// <summary>Part 4: the connection to a daemon goes by no proxy of the environment.</summary>
    [Theory]
    [InlineData("http_proxy")]
    [InlineData("ALL_PROXY")]
    public async Task A_proxy_of_the_environment_is_not_asked(string variable)
    {
        await using var daemon = await DaemonProcess.StartAsync();
        var run = await ShellAsync(daemon, $"{variable}=http://127.0.0.1:1 \"$FRAMEPIN\" machines");
        Assert.Equal((0, ""), (run.ExitCode, run.Error));
    }

    /// <summary>S4: the end of a terminal ends the daemon as SIGTERM does.</summary>
    [Fact]
    public async Task A_hangup_ends_the_daemon_in_order()
    {
        await using var daemon = await DaemonProcess.StartAsync();
        await SignalAsync(daemon, "HUP");
        Assert.Equal(0, await daemon.ExitCodeAsync(Cancelled));
    }

    /// <summary>A command that waits for standard input ends by the first signal.</summary>
    [Fact]
    public async Task A_wait_for_standard_input_ends_by_a_signal()
    {
        await using var daemon = await DaemonProcess.StartAsync();
        using var process = CommandRun.Start(daemon.Endpoint, ["write", await ParkingAsync(daemon), "0x100000"]);
        // Its connection is there when the daemon knows what the first bytes are for.
        await process.StandardInput.WriteAsync("x");
        await process.StandardInput.FlushAsync(Cancelled);
        Assert.Equal(143, (await CommandRun.EndAsync(process, "TERM", Cancelled)).ExitCode);
    }

    [Fact]
    public async Task A_recording_is_not_overwritten_unless_that_is_wanted()
    {
        var folder = Directory.CreateTempSubdirectory("framepin-record-").FullName;
        try
        {
            var target = Path.Combine(folder, "x.recording");
            Assert.Equal(0, (await RecordAsync("--to", target, "--", "true")).ExitCode);
            var log = await File.ReadAllTextAsync(Path.Combine(target, "strace.log"), Cancelled);
            var run = await RecordAsync("--to", target, "--", "true");
            Assert.Equal(2, run.ExitCode);
            Assert.Contains("--force replaces", run.Error, StringComparison.Ordinal);
            Assert.Equal(log, await File.ReadAllTextAsync(Path.Combine(target, "strace.log"), Cancelled));
            Assert.Equal(0, (await RecordAsync("--force", "--to", target, "--", "true")).ExitCode);
            Assert.NotEqual(log, await File.ReadAllTextAsync(Path.Combine(target, "strace.log"), Cancelled));
            // What fails leaves the old recording, whole, and nothing beside it.
            log = await File.ReadAllTextAsync(Path.Combine(target, "strace.log"), Cancelled);
            var maps = await File.ReadAllTextAsync(Path.Combine(target, "maps.end"), Cancelled);
            foreach (var failing in (string[][])[["sh", "-c", "kill -9 $$"], ["/nonexistent/program"]])
            {
                run = await RecordAsync(["--force", "--to", target, "--", .. failing]);
                Assert.Equal(2, run.ExitCode);
                Assert.Equal(log, await File.ReadAllTextAsync(Path.Combine(target, "strace.log"), Cancelled));
                Assert.Equal(maps, await File.ReadAllTextAsync(Path.Combine(target, "maps.end"), Cancelled));
                Assert.Equal([target], Directory.EnumerateFileSystemEntries(folder));
            }

            // A file in the folder's place is refused, too.
            run = await RecordAsync("--to", Path.Combine(target, "strace.log"), "--", "true");
            Assert.Equal(2, run.ExitCode);
            CommandTests.AssertSentence(run);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>A recording that did not begin leaves nothing that refuses the next one.</summary>
    [Theory]
    [InlineData("/nonexistent/prog")]
    [InlineData("no-such-program-of-anybody")]
    [InlineData("/etc/passwd")]
    public async Task S14_a_program_that_is_none_is_refused_and_leaves_no_recording(string program)
    {
        var folder = Directory.CreateTempSubdirectory("framepin-record-").FullName;
        try
        {
            var run = await CommandRun.OfAsync(null, ["record", "--", program], Cancelled, folder);
            Assert.Equal((2, $"{program}: there is no such program\n"), (run.ExitCode, run.Error));
            Assert.Empty(Directory.GetFileSystemEntries(folder));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>
    /// A script is one step to the signals. The command waits for its lines here, and has begun nothing.
    /// </summary>
    [Theory]
    [InlineData("INT", 130)]
    [InlineData("TERM", 143)]
    [InlineData("HUP", 129)]
    public async Task S14_a_signal_ends_a_script_with_its_own_exit_code(string signal, int exitCode)
    {
        var folder = Directory.CreateTempSubdirectory("framepin-script-").FullName;
        try
        {
            var pipe = Path.Combine(folder, "pipe");
            using (var make = Process.Start("mkfifo", [pipe])) await make.WaitForExitAsync(Cancelled);
            using var process = CommandRun.Start(null, ["conformance", "--script", pipe]);
            // Opened when the command has opened it too.
            using var writer = await Task.Run(
                () => new FileStream(pipe, FileMode.Open, FileAccess.Write, FileShare.ReadWrite), Cancelled);
            Assert.Equal(exitCode, (await CommandRun.EndAsync(process, signal, Cancelled)).ExitCode);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>The driver's process says why it ends.</summary>
    [Fact]
    public async Task S11_a_driver_whose_daemon_is_told_to_end_says_so()
    {
        await using var daemon = await DaemonProcess.StartAsync();
        using var process = daemon.StartCommand("drive", "vivid", "--node", "video0");
        Assert.Contains("serves", await process.StandardOutput.ReadLineAsync(Cancelled), StringComparison.Ordinal);
        daemon.Terminate();
        var error = await process.StandardError.ReadToEndAsync(Cancelled);
        await process.WaitForExitAsync(Cancelled);
        Assert.Equal(3, process.ExitCode);
        Assert.Contains($"the daemon at {daemon.Endpoint} is ending", error, StringComparison.Ordinal);
    }

    /// <summary>The demo's trace is of a frame after the first ones, and its tree is not cut to a width.</summary>
    [Fact]
    public async Task The_demo_prints_the_trace_of_a_warm_frame()
    {
        var run = await CommandRun.OfAsync(null, ["demo", "--seconds", "1"], Cancelled);
        Assert.True(run.ExitCode == 0, run.ToString());
        var pin = run.Out.Split('\n').Single(line => line.Contains("framepind: framepin.v1.PinningService/Pin ",
            StringComparison.Ordinal));
        Assert.Contains("pages.pinned=75", pin, StringComparison.Ordinal);
        // The vectors are numbered by frames: the code of all processes is warm after two hundred.
        var number = System.Text.RegularExpressions.Regex.Match(pin, "frame_vector=([0-9]+)").Groups[1].Value;
        Assert.InRange(int.Parse(number, System.Globalization.CultureInfo.InvariantCulture), 200, int.MaxValue);
    }

    /// <summary>On a terminal names are short and rows fit; script gives a command a terminal.</summary>
    [Fact]
    public async Task A_table_on_a_terminal_shows_short_names()
    {
        await using var daemon = await DaemonProcess.StartAsync();
        using var client = FramePinClient.Connect(daemon.Endpoint);
        var space = (await client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest(), cancellationToken: Cancelled)).Name;
        await CommandRun.OfAsync(daemon.Endpoint, ["map", space, "64K", "--touch", "--at", "0x100000"], Cancelled);
        await CommandRun.OfAsync(daemon.Endpoint, ["pin", space, "0x100000", "4"], Cancelled);
        var program = Path.Combine(AppContext.BaseDirectory.Replace(
            "FramePin.Tests.Integration", "FramePin.Cli", StringComparison.Ordinal), "framepin");
        var start = new ProcessStartInfo(
            "script", ["-qec", $"stty cols 200; {program} frames -e {daemon.Endpoint}", "/dev/null"])
        {
            RedirectStandardOutput = true,
            RedirectStandardInput = true,
        };
        using var process = Process.Start(start)!;
        var shown = await process.StandardOutput.ReadToEndAsync(Cancelled);
        await process.WaitForExitAsync(Cancelled);
        Assert.Contains("as1", shown, StringComparison.Ordinal);
        Assert.DoesNotContain("addressSpaces", shown, StringComparison.Ordinal);
    }

    /// <summary>A line of the shell at a daemon; $FRAMEPIN is the command.</summary>
    private static async Task<CommandRun> ShellAsync(DaemonProcess daemon, string line)
    {
        var start = new ProcessStartInfo("/bin/sh", ["-c", line])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        start.Environment["FRAMEPIN"] = CommandRun.Program;
        start.Environment["FRAMEPIN_ENDPOINT"] = daemon.Endpoint;
        using var process = Process.Start(start)!;
        var said = process.StandardOutput.ReadToEndAsync(Cancelled);
        var complained = process.StandardError.ReadToEndAsync(Cancelled);
        await process.WaitForExitAsync(Cancelled);
        return new CommandRun(process.ExitCode, await said, await complained);
    }

    private static Task<CommandRun> RecordAsync(params string[] arguments) =>
        CommandRun.OfAsync(null, ["record", .. arguments], Cancelled);

    private static async Task SignalAsync(DaemonProcess daemon, string signal)
    {
        using var kill = Process.Start("kill", [$"-{signal}", $"{daemon.Id}"]);
        await kill.WaitForExitAsync(Cancelled);
    }

    /// <summary>An address space whose first pin waits until it is cancelled.</summary>
    private static async Task<string> ParkingAsync(DaemonProcess daemon)
    {
        using var client = FramePinClient.Connect(daemon.Endpoint);
        var space = (await client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest(), cancellationToken: Cancelled)).Name;
        var map = new MemoryCall { Mmap = new MmapCall { Address = 0x10_0000, Length = 4096, Prot = 3, Flags = 0x32 } };
        await client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = space, Call = map }, cancellationToken: Cancelled);
        var rule = new FaultRule { Point = ChoicePoint.Fault, Action = FaultAction.Park, Times = 1 };
        await client.Machines.AddFaultRulesAsync(
            new AddFaultRulesRequest { Rules = { rule } }, cancellationToken: Cancelled);
        return space;
    }
}
