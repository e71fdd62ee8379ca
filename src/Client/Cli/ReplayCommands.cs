using System.CommandLine;
using System.Globalization;
using FramePin.Client;
using FramePin.Replay;
using FramePin.V1;
using Spectre.Console;

namespace FramePin.Cli;

/// <summary>Real input: recordings and live processes.</summary>
internal static class ReplayCommands
{
    /// <summary>PID_MAX_LIMIT of 64-bit kernels (include/linux/threads.h).</summary>
    private const int MostProcesses = 1 << 22;

    public static IEnumerable<Command> Create(CommandLine line)
    {
        var folder = new Argument<string?>("folder")
        {
            Description = "A recording, as framepin record made it.",
            DefaultValueFactory = _ => null
        };
        var strace = new Option<string?>(
            "--strace")
        { Description = "Instead of a folder: log of strace -f -y -e trace=%memory,execve,clone,..." };
        var mapsStart = new Option<string?>("--maps-start") { Description = "/proc/PID/maps before the first call." };
        var mapsEnd = new Option<string?>("--maps-end") { Description = "/proc/PID/maps at the end, to compare with." };
        var pinAll = new Option<bool>("--pin-all") { Description = "Then pin, convert and unpin every mapping." };
        var keep = new Option<bool>("--keep") { Description = "Leave the machine on the daemon." };
        var sizes = new Option<string[]>("--file-size")
        {
            Description = "PATH=SIZE, repeatable; otherwise the largest offset plus length seen is taken.",
            DefaultValueFactory = _ => [],
        };
        var replay = line.Create(
            "replay", "Replays the memory calls of a recorded program and compares what each answers.",
            "replay ls.recording --pin-all\n"
            + "  framepin replay --strace strace.log --maps-start maps.start --maps-end maps.end --output json",
            [folder, strace, mapsStart, mapsEnd, pinAll, keep, sizes], async (parsed, client, output, cancelled) =>
            {
                var recording = Load(
                    parsed.GetValue(folder), parsed.GetValue(strace), parsed.GetValue(mapsStart),
                    parsed.GetValue(mapsEnd));
                if (parsed.GetValue(sizes)!.Length > 0)
                    recording = recording with { FileSizes = Sizes(parsed.GetValue(sizes)!) };
                var report = await WithProgress(output, progress =>
                    new Replayer(client, progress).RunAsync(
                        recording, parsed.GetValue(pinAll), parsed.GetValue(keep), cancelled));
                Print(report, output);
            });
        CommandLine.Refuse(replay, "has no meaning here: a replay makes machines of its own", line.Machine);
        replay.Validators.Add(result =>
        {
            if (result.GetResult(folder) is not { Implicit: false }) return;
            foreach (var option in new Option[] { strace, mapsStart, mapsEnd })
                if (result.GetResult(option) is { Implicit: false })
                    result.AddError($"{option.Name} is for a replay without a folder");
        });
        yield return replay;

        yield return Record(line);
        var pid = Numbers.Option("--pid", "Process to copy the layout of:", 0, 1, MostProcesses);
        pid.Required = true;
        yield return line.Create(
            "import", "Builds an address space from a live process's /proc/PID/maps and smaps.", "import --pid 1234", [
                pid],
            async (parsed, client, output, cancelled) =>
            {
                var process = parsed.GetValue(pid);
                if (!Directory.Exists($"/proc/{process}")) throw new IOException($"there is no process {process}");
                if (System.IO.File.ReadAllText($"/proc/{process}/maps").Length == 0)
                    throw new IOException(
                        $"process {process} has no memory of its own: it is the kernel's, or a zombie");
                var space = await Importer.RunAsync(
                    client, Values.Machine(parsed.GetValue(line.Machine)!), process, cancelled);
                output.Write(space, ("address space", space.Name),
                    ("mappings", space.MapCount.ToString(CultureInfo.InvariantCulture)));
            });
    }

    private static Recording Load(string? folder, string? strace, string? mapsStart, string? mapsEnd)
    {
        if (folder is not null)
        {
            if (!Directory.Exists(folder)) throw new IOException($"there is no folder {folder}");
            foreach (var needed in (string[])["strace.log", "maps.start"])
                if (!System.IO.File.Exists(Path.Combine(folder, needed)))
                    throw new IOException($"{folder} is no recording: it has no {needed}");
            return Recording.Load(folder);
        }

        if (strace is null || mapsStart is null)
            throw new FormatException("a replay wants a folder, or --strace and --maps-start");
        foreach (var file in (string?[])[strace, mapsStart, mapsEnd])
            if (file is not null && !System.IO.File.Exists(file)) throw new IOException($"there is no file {file}");
        return Recording.Load(strace, mapsStart, mapsEnd);
    }

    private static Dictionary<string, ulong> Sizes(string[] pairs)
    {
        var sizes = new Dictionary<string, ulong>(StringComparer.Ordinal);
        foreach (var pair in pairs)
        {
            var at = pair.LastIndexOf('=');
            if (at <= 0) throw new FormatException($"--file-size wants PATH=SIZE, got '{pair}'");
            try
            {
                sizes[pair[..at]] = Values.ParseSize(pair[(at + 1)..]);
            }
            catch (Exception exception) when (exception is FormatException or OverflowException)
            {
                throw new FormatException($"--file-size wants PATH=SIZE, got '{pair}'", exception);
            }
        }

        return sizes;
    }

    private static Command Record(CommandLine line)
    {
        var force = new Option<bool>("--force") { Description = "Replace the recording that the folder holds." };
        var target = new Option<string?>(
            "--to")
        { Description = "Folder of the recording; otherwise PROGRAM.recording here." };
        var program = new Argument<string[]>("program")
        {
            Description = "Program and its arguments, behind --.",
            Arity = ArgumentArity.OneOrMore
        };
        var command = new Command(
            "record",
            "Records a program's memory calls and maps, for replay. Needs strace.\n\nExample:\n"
            + "  framepin record --to ls.recording -- ls -l /")
        {
            target, force, program,
        };
        CommandLine.Refuse(
            command, "has no meaning here: no daemon takes part", line.Endpoint, line.Machine, line.OutputForm);
        command.SetAction(async (parsed, cancelled) =>
        {
            var words = parsed.GetValue(program)!;
            var folder = parsed.GetValue(target) ?? Path.GetFileName(words[0]) + ".recording";
            if (!parsed.GetValue(force) && Directory.Exists(folder)
                && Directory.EnumerateFileSystemEntries(folder).Any())
                throw new IOException(
                    $"{folder} is there and is not empty: --force replaces the recording in it, --to names another");
            if (!IsProgram(words[0])) throw new IOException($"{words[0]}: there is no such program");
            var exit = await RecordAsync(words, folder, cancelled);
            Console.Error.WriteLine($"recorded into {folder}; the program's exit code was {exit}");
            return CommandLine.Ok;
        });
        return command;
    }

    /// <summary>Records; a recording that did not begin leaves no folder that would refuse the next one.</summary>
    private static async Task<int> RecordAsync(string[] words, string folder, CancellationToken cancelled)
    {
        var isNew = !Directory.Exists(folder);
        try
        {
            return await new Replay.Recorder(TimeProvider.System).RunAsync(words, folder, cancelled);
        }
        catch (IOException) when (isNew && Directory.Exists(folder)
            && Directory.EnumerateFiles(folder).All(file => new FileInfo(file).Length == 0))
        {
            Directory.Delete(folder, recursive: true);
            throw;
        }
    }

    /// <summary>A file that may be run: under its path, or in a folder of PATH.</summary>
    private static bool IsProgram(string word)
    {
        const UnixFileMode run = UnixFileMode.UserExecute | UnixFileMode.GroupExecute | UnixFileMode.OtherExecute;
        IEnumerable<string> places = word.Contains('/', StringComparison.Ordinal)
            ? [word]
            : (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':').Select(
                folder => Path.Combine(folder.Length == 0 ? "." : folder, word));
        return places.Any(file => System.IO.File.Exists(file)
            && (!OperatingSystem.IsLinux() || (System.IO.File.GetUnixFileMode(file) & run) != 0));
    }

    private static async Task<T> WithProgress<T>(Output output, Func<IProgress<ReplayProgress>?, Task<T>> work)
    {
        if (output.IsJson || Console.IsOutputRedirected) return await work(null);
        return await AnsiConsole.Progress().AutoClear(true).StartAsync(async context =>
        {
            var bars = new Dictionary<string, ProgressTask>(StringComparer.Ordinal);
            return await work(new Progress<ReplayProgress>(step =>
            {
                lock (bars)
                {
                    if (!bars.TryGetValue(step.Step, out var bar))
                        bars[step.Step] = bar = context.AddTask(step.Step, maxValue: step.Total);
                    bar.Value = step.Done;
                }
            }));
        });
    }

    private static void Print(ReplayReport report, Output output)
    {
        output.HasFindings = report.ReturnsDifferent.Count > 0 || report.MapsMissing.Count > 0 || report.LeakedPins != 0
            || report.AuditFindings.Count > 0;
        if (output.IsJson)
        {
            Output.WriteJson(report);
            return;
        }

        var rows = new List<string[]>();
        void Row(string name, string value) => rows.Add([name, value]);
        if (report.CallsLacking.Count > 0)
            Row(
                "not emulated",
                string.Join(", ", report.CallsLacking.Select(pair => $"{pair.Key} {pair.Value.Count}"))
                    + $", first in line {report.CallsLacking.Values.Min(lines => lines[0])}: what differs behind it "
                    + "may come from that");
        if (report.LinesUnread.Count > 0)
            Row("not understood", $"{report.LinesUnread.Count} lines, passed over; they stand below");
        Row("calls", string.Join(", ", report.Calls.Select(pair => $"{pair.Key} {pair.Value}")));
        Row("other calls", string.Join(", ", report.CallsOther.Select(pair => $"{pair.Key} {pair.Value}")));
        Row("returns", $"{report.ReturnsMatched} of {report.ReturnsExpected} as recorded");
        if (report.CallsOverlapped > 0)
        {
            var moved = report.CallsReordered.Count == 0
                ? "in the order in which they finished"
                : $"lines {string.Join(", ", report.CallsReordered)} before others that finished earlier, "
                    + "which explains the answers";
            Row("overlapping", $"{report.CallsOverlapped} calls of several threads: {moved}");
        }

        Row(
            "stores",
            $"one page each of {report.TouchesAssumed} mappings, assumed; "
            + $"{report.TouchesRuledOut} mappings left alone, by smaps.end");
        if (report.StackGrowthAssumed > 0)
            Row("stack", $"grown by {report.StackGrowthAssumed} pages, as the maps of the end tell");
        Row("map lines", $"{report.MapsMatched} of {report.MapsExpected} as recorded"
            + (report.CallsAfterExit > 0
                ? $", with {report.CallsAfterExit} calls that other threads made while the program ended"
                : ""));
        Row("pinned", $"{report.PagesPinned} pages of {report.MappingsPinned} mappings");
        Row("refused", string.Join(", ", report.PagesRefused.Select(pair => $"{pair.Key} {pair.Value}")));
        Row("leaked pins", report.LeakedPins.ToString(CultureInfo.InvariantCulture));
        if (report.AuditFindings.Count == 0) Row("audit", "clean");
        foreach (var finding in report.AuditFindings) Row("audit", finding);
        Output.Print(null, rows);
        foreach (var unread in report.LinesUnread)
            Console.WriteLine(Values.Show($"line {unread.Line}: not understood ({unread.Reason}): {unread.Text}"));
        foreach (var difference in report.ReturnsDifferent)
            Console.WriteLine(Values.Show(
                $"line {difference.Line}: {difference.Call} answered {difference.Actual}, "
                + $"recorded {difference.Expected}"));
        foreach (var missing in report.MapsMissing) Console.WriteLine(Values.Show($"- {missing}"));
        foreach (var unexpected in report.MapsUnexpected) Console.WriteLine(Values.Show($"+ {unexpected}"));
    }
}
