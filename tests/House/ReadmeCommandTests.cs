using System.Diagnostics;
using Xunit;

namespace FramePin.Tests.House;

/// <summary>The commands that README.md shows do what they are shown for: they run, in order, and end well.</summary>
public sealed class ReadmeCommandTests(ITestOutputHelper output)
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(4);

    [Fact]
    public async Task The_commands_of_the_readme_run()
    {
        var cancelled = TestContext.Current.CancellationToken;
        using var rig = new Rig(output);
        var commands = ReadmeCommands.Read(Repository.Read("README.md"), rig.Scratch, rig.Sleeper.Id).ToList();
        Assert.InRange(commands.Count, 10, int.MaxValue);
        Assert.Contains(commands, command => command.Program == "framepind");
        foreach (var command in commands)
            if (command.RunsOn) await rig.StartAsync(command, cancelled);
            else await rig.RunAsync(command, cancelled);
        await rig.EndAllAsync(cancelled);
    }

    [Fact]
    public void What_is_excluded_is_there()
    {
        var lines = ReadmeCommands.Lines(Repository.Read("README.md")).Select(line => line.Line).ToList();
        Assert.All(
            ReadmeCommands.Excluded,
            excluded => Assert.Contains(lines, line => line.StartsWith(excluded.Begins, StringComparison.Ordinal)));
    }

    [Fact]
    public void Commands_are_read_by_the_rules()
    {
        const string Readme = """
            ```
            framepin not --this
            ```
            ```sh
            framepind --tcp 7461          # a comment
            bash tests/run
            framepin drive vivid -e unix:/tmp/fp.sock
            framepin conformance --steps 5
            framepin v4l2 capture -n 10000 --pid 1234 --attach=/run/a
            framepin record --to x.recording -- ls -l /
            dotnet run -c Release --project src/Client/Cli -- demo
            ```
            framepin not this
            """;
        Assert.Equal(
            [
                "framepind --socket /s/daemon.sock", "framepin drive vivid -e unix:/s/fp.sock",
                "framepin v4l2 capture -n 20 --pid 7 --attach=/s/a", "framepin record --to x.recording -- ls -l /",
                "framepin demo",
            ],
            ReadmeCommands.Read(Readme, "/s", 7)
                .Select(command => $"{command.Program} {string.Join(' ', command.Arguments)}"));
        Assert.Equal(2, ReadmeCommands.Read(Readme, "/s", 7).Count(command => command.RunsOn));
    }

    [Theory]
    [InlineData("framepin maps as9999")]
    [InlineData("framepin no-such-command")]
    public async Task A_planted_command_that_fails_is_seen(string line)
    {
        var cancelled = TestContext.Current.CancellationToken;
        using var rig = new Rig(output);
        var commands = ReadmeCommands.Read($"```sh\nframepind --tcp 1\n{line}\n```\n", rig.Scratch, 1).ToList();
        await rig.StartAsync(commands[0], cancelled);
        await Assert.ThrowsAnyAsync<Xunit.Sdk.XunitException>(() => rig.RunAsync(commands[1], cancelled));
        await rig.EndAllAsync(cancelled);
    }

    [Fact]
    public async Task A_planted_program_that_does_not_run_on_is_seen_where_no_daemon_is()
    {
        var cancelled = TestContext.Current.CancellationToken;
        using var rig = new Rig(output);
        var command = ReadmeCommands.Read("```sh\nframepin drive vivid\n```\n", rig.Scratch, 1).Single();
        await Assert.ThrowsAnyAsync<Xunit.Sdk.XunitException>(() => rig.StartAsync(command, cancelled));
    }

    /// <summary>
    /// A scratch folder with the files of a recorded program, and the processes that were started in it.
    /// </summary>
    private sealed class Rig : IDisposable
    {
        private readonly ITestOutputHelper _output;
        private readonly List<(ReadmeCommand Command, Process Process)> _running = [];

        public Rig(ITestOutputHelper output)
        {
            _output = output;
            Scratch = Directory.CreateTempSubdirectory("framepin-readme-").FullName;
            var recorded = Path.Combine(Repository.Root, "tests/Integration/Data/traces/git");
            foreach (var file in Directory.EnumerateFiles(recorded))
                File.Copy(file, Path.Combine(Scratch, Path.GetFileName(file)));
            Sleeper = Process.Start("sleep", "600");
        }

        public string Scratch { get; }

        public Process Sleeper { get; }

        public async Task RunAsync(ReadmeCommand command, CancellationToken cancelled)
        {
            using var process = Begin(command);
            using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancelled);
            patience.CancelAfter(Patience);
            try
            {
                var said = process.StandardOutput.ReadToEndAsync(patience.Token);
                var complained = process.StandardError.ReadToEndAsync(patience.Token);
                await process.WaitForExitAsync(patience.Token);
                _output.WriteLine($"{process.ExitCode}: {command.Text}");
                Assert.True(
                    process.ExitCode == 0,
                    $"README.md({command.Line}): {command.Text}: {process.ExitCode}\n{await said}{await complained}");
            }
            finally
            {
                if (!process.HasExited) process.Kill(entireProcessTree: true);
            }
        }

        /// <summary>Starts what runs until it is ended, and waits for its first line.</summary>
        public async Task StartAsync(ReadmeCommand command, CancellationToken cancelled)
        {
            if (command.Program == "framepind") await EndAllAsync(cancelled);
            var process = Begin(command);
            _running.Add((command, process));
            using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancelled);
            patience.CancelAfter(Patience);
            var first = await process.StandardOutput.ReadLineAsync(patience.Token);
            _output.WriteLine($"runs: {command.Text}");
            Assert.True(first is not null, $"README.md({command.Line}): {command.Text}: ended before it said anything");
        }

        /// <summary>Ends what runs, the last first; a program that is ended that way ends well.</summary>
        public async Task EndAllAsync(CancellationToken cancelled)
        {
            foreach (var (command, process) in Enumerable.Reverse(_running))
            {
                using (process)
                {
                    Assert.False(process.HasExited, $"README.md({command.Line}): {command.Text}: ended by itself");
                    using (var kill = Process.Start("kill", ["-TERM", $"{process.Id}"]))
                        await kill.WaitForExitAsync(cancelled);
                    await process.WaitForExitAsync(cancelled);
                    Assert.True(
                        process.ExitCode is 0 or 143,
                        $"README.md({command.Line}): {command.Text}: ended with {process.ExitCode}");
                }
            }

            _running.Clear();
        }

        public void Dispose()
        {
            foreach (var (_, process) in _running)
            {
                if (!process.HasExited) process.Kill();
                process.Dispose();
            }

            Sleeper.Kill();
            Sleeper.Dispose();
            Directory.Delete(Scratch, recursive: true);
        }

        private Process Begin(ReadmeCommand command)
        {
            var folder = command.Program == "framepind" ? "FramePin.Server" : "FramePin.Cli";
            var program = Path.Combine(
                AppContext.BaseDirectory.Replace("FramePin.Tests.House", folder, StringComparison.Ordinal),
                command.Program);
            var start = new ProcessStartInfo(program, command.Arguments)
            {
                WorkingDirectory = Scratch,
                RedirectStandardOutput = true,
                RedirectStandardError = !command.RunsOn,
            };
            start.Environment["FRAMEPIN_ENDPOINT"] = $"unix:{Path.Combine(Scratch, "daemon.sock")}";
            return Process.Start(start)!;
        }
    }
}
