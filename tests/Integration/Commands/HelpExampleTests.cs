using System.CommandLine;
using FramePin.Cli;
using FramePin.Client;
using FramePin.V1;
using Google.Protobuf.WellKnownTypes;
using Xunit;
using File = System.IO.File;

namespace FramePin.Tests.Integration.Commands;

/// <summary>Every example of every --help runs and ends well (part 4: "help examples fail").</summary>
public sealed class HelpExampleTests(ITestOutputHelper output) : IDisposable
{
    private const ulong Touched = 0x7fff_f7fe_f000;
    private const ulong Buffers = 0x1000_0000;

    /// <summary>Examples that are not run here, with the reason. Each has to be there.</summary>
    private static readonly (string Begins, string Reason)[] Excluded =
    [
        ("framepin conformance", "tests/Conformance runs the comparison; it borrows huge pages from the host"),
    ];

    /// <summary>The commands whose examples go on with what these lines began.</summary>
    private static readonly Dictionary<string, string[]> Before = new(StringComparer.Ordinal)
    {
        ["v4l2 close"] = ["v4l2 open video0"],
        ["v4l2 reqbufs"] = ["v4l2 open video0"],
        ["v4l2 read"] = ["v4l2 open video0"],
        ["v4l2 qbuf"] = ["v4l2 open video0", "v4l2 reqbufs 1 3"],
        ["v4l2 streamon"] = ["v4l2 open video0", "v4l2 reqbufs 1 3", "v4l2 qbuf 1 0 as1 0x10000000 614400"],
        ["v4l2 streamoff"] = ["v4l2 open video0"],
        ["v4l2 dqbuf"] =
        [
            "v4l2 open video0", "v4l2 reqbufs 1 3", "v4l2 qbuf 1 0 as1 0x10000000 614400", "v4l2 streamon 1",
        ],
    };

    private readonly string _scratch = Directory.CreateTempSubdirectory("framepin-help-").FullName;

    public static TheoryData<string> Paths => [.. All().Select(command => command.Path)];

    public void Dispose() => Directory.Delete(_scratch, recursive: true);

    [Theory]
    [MemberData(nameof(Paths))]
    public async Task The_examples_of_a_help_run(string path)
    {
        var cancelled = TestContext.Current.CancellationToken;
        await using var daemon = await DaemonProcess.StartAsync();
        // The first help begins with nothing, as its reader does.
        if (path.Length > 0) await PrepareAsync(daemon, path == "record" ? "made" : "ls.recording", cancelled);
        System.Diagnostics.Process? driver = null;
        if (path.StartsWith("v4l2", StringComparison.Ordinal))
        {
            driver = CommandRun.Start(daemon.Endpoint, ["drive", "vivid", "--fps", "0"], _scratch);
            Assert.NotNull(await driver.StandardOutput.ReadLineAsync(cancelled));
        }

        foreach (var line in Before.GetValueOrDefault(path, [])) await RunAsync(daemon, $"framepin {line}", cancelled);
        foreach (var line in All().Single(command => command.Path == path).Examples)
            if (!Excluded.Any(excluded => line.StartsWith(excluded.Begins, StringComparison.Ordinal)))
                await RunAsync(daemon, line, cancelled);
        if (driver is null) return;
        using (driver) Assert.Equal(0, (await CommandRun.EndAsync(driver, "TERM", cancelled)).ExitCode);
    }

    [Fact]
    public void Every_command_shows_an_example_and_what_is_excluded_is_there()
    {
        var examples = All().SelectMany(command => command.Examples).ToList();
        Assert.All(All(), command => Assert.NotEmpty(command.Examples));
        Assert.All(Excluded, excluded => Assert.Contains(
            examples, line => line.StartsWith(excluded.Begins, StringComparison.Ordinal)));
        Assert.All(Before.Keys, path => Assert.Contains(path, All().Select(command => command.Path)));
    }

    private async Task RunAsync(DaemonProcess daemon, string line, CancellationToken cancelled)
    {
        output.WriteLine(line);
        var words = line.Split(" #")[0].Split(" | ")[0].Split(' ', StringSplitOptions.RemoveEmptyEntries).ToList();
        Assert.Equal("framepin", words[0]);
        string? input = null;
        if (words.IndexOf("<") is var at and > 0)
        {
            input = await File.ReadAllTextAsync(Path.Combine(_scratch, words[at + 1]), cancelled);
            words.RemoveRange(at, 2);
        }

        // A process that lives stands for the one of the example.
        if (words.IndexOf("--pid") is var pid and > 0) words[pid + 1] = $"{Environment.ProcessId}";
        if (words[1] is "drive" or "serve-faults")
        {
            using var process = CommandRun.Start(daemon.Endpoint, [.. words.Skip(1)], _scratch);
            var first = await process.StandardOutput.ReadLineAsync(cancelled);
            var ended = await CommandRun.EndAsync(process, "TERM", cancelled);
            Assert.True(first is not null && ended.ExitCode == 0, $"{line}: {ended}");
            return;
        }

        var run = await CommandRun.OfAsync(daemon.Endpoint, [.. words.Skip(1)], cancelled, _scratch, input);
        Assert.True(run.ExitCode == 0, $"{line}: {run}");
        Assert.DoesNotContain("   at ", run.Error, StringComparison.Ordinal);
    }

    /// <summary>What the examples speak of: as1 with memory in it, the machine m1, a pin, and files.</summary>
    private async Task PrepareAsync(DaemonProcess daemon, string recording, CancellationToken cancelled)
    {
        using var client = FramePinClient.Connect(daemon.Endpoint);
        await client.Machines.CreateMachineAsync(
            new CreateMachineRequest { MachineId = "m1", Spec = new MachineSpec { Profile = "6.18" } },
            cancellationToken: cancelled);
        var space = await client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest(), cancellationToken: cancelled);
        Assert.EndsWith("/as1", space.Name, StringComparison.Ordinal);
        var batch = new CallBatchRequest { AddressSpace = space.Name };
        foreach (var (at, length) in new[] { (Touched, 64UL << 10), (Buffers, 1UL << 20) })
        {
            batch.Calls.Add(
                new MemoryCall { Mmap = new MmapCall { Address = at, Length = length, Prot = 3, Flags = 0x32 } });
            batch.Calls.Add(
                new MemoryCall { Touch = new TouchCall { Address = at, Pages = (uint)(length >> 12), Write = true } });
        }

        await client.AddressSpaces.CallBatchAsync(batch, cancellationToken: cancelled);
        var lease = await client.Leases.OpenLeaseAsync(
            new OpenLeaseRequest { Owner = "a test", Ttl = Duration.FromTimeSpan(TimeSpan.FromMinutes(5)) },
            cancellationToken: cancelled);
        await client.Pinning.PinAsync(
            new PinRequest { AddressSpace = space.Name, Start = Touched, Pages = 4, Write = true, Lease = lease.Name },
            cancellationToken: cancelled);
        await File.WriteAllTextAsync(Path.Combine(_scratch, "file"), "bytes of a file", cancelled);
        await File.WriteAllTextAsync(Path.Combine(_scratch, "snapshot.bin"), "bytes of a snapshot", cancelled);
        var recorded = Path.Combine(AppContext.BaseDirectory, "Data", "traces", "git");
        Directory.CreateDirectory(Path.Combine(_scratch, recording));
        foreach (var file in Directory.EnumerateFiles(recorded))
        {
            File.Copy(file, Path.Combine(_scratch, Path.GetFileName(file)));
            File.Copy(file, Path.Combine(_scratch, recording, Path.GetFileName(file)));
        }
    }

    private static IEnumerable<(string Path, List<string> Examples)> All() =>
        Walk(Root.Create(new CommandLine()), "");

    private static IEnumerable<(string Path, List<string> Examples)> Walk(Command command, string path)
    {
        if (command.Hidden) yield break;
        yield return (path, (command.Description ?? "").Split('\n').Select(line => line.Trim())
            .Where(line => line.StartsWith("framepin ", StringComparison.Ordinal)).ToList());
        foreach (var sub in command.Subcommands)
            foreach (var found in Walk(sub, path.Length == 0 ? sub.Name : $"{path} {sub.Name}")) yield return found;
    }
}
