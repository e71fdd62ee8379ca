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
        yield return line.Create(
            "replay", "Replays the memory calls of a recorded program and compares what each answers.",
            "replay ls.recording --pin-all\n"
            + "  framepin replay --strace strace.log --maps-start maps.start --maps-end maps.end --output json",
            [folder, strace, mapsStart, mapsEnd, pinAll, keep, sizes], async (parsed, client, output, cancelled) =>
            {
                var recording = parsed.GetValue(folder) is { } place
                    ? Recording.Load(place)
                    : Recording.Load(
                        parsed.GetValue(strace) ?? throw new FormatException(
                            "replay wants a folder, or --strace and --maps-start"),
                        parsed.GetValue(mapsStart) ?? throw new FormatException("--strace wants --maps-start with it"),
                        parsed.GetValue(mapsEnd));
                if (parsed.GetValue(sizes)!.Length > 0) recording = recording with
                {
                    FileSizes = parsed.GetValue(sizes)!.Select(pair => pair.Split('=', 2)).ToDictionary(
                        pair => pair[0], pair => pair.Length == 2 ? Values.ParseSize(pair[1])
                            : throw new FormatException($"--file-size wants PATH=SIZE, got '{pair[0]}'")),
                };
                var report = await WithProgress(output, progress =>
                    new Replayer(client, progress).RunAsync(
                        recording, parsed.GetValue(pinAll), parsed.GetValue(keep), cancelled));
                Print(report, output);
            });

        yield return Record();
        var pid = new Option<int>("--pid") { Description = "Process to copy the layout of.", Required = true };
        yield return line.Create(
            "import", "Builds an address space from a live process's /proc/PID/maps and smaps.", "import --pid 1234", [
                pid],
            async (parsed, client, output, cancelled) =>
            {
                var space = await Importer.RunAsync(
                    client, Values.Machine(parsed.GetValue(line.Machine)!), parsed.GetValue(pid), cancelled);
                output.Write(space, ("address space", space.Name),
                    ("mappings", space.MapCount.ToString(CultureInfo.InvariantCulture)));
            });
    }

    private static Command Record()
    {
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
            target, program,
        };
        command.SetAction(async (parsed, cancelled) =>
        {
            var words = parsed.GetValue(program)!;
            var folder = parsed.GetValue(target) ?? Path.GetFileName(words[0]) + ".recording";
            try
            {
                var exit = await new Replay.Recorder(TimeProvider.System).RunAsync(words, folder, cancelled);
                Console.Error.WriteLine($"recorded into {folder}; the program's exit code was {exit}");
                return CommandLine.Ok;
            }
            catch (IOException exception)
            {
                Console.Error.WriteLine(exception.Message);
                return CommandLine.Usage;
            }
        });
        return command;
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

        var table = new Table().Border(TableBorder.None).HideHeaders().AddColumns("", "");
        void Row(string name, string value) => table.AddRow(Markup.Escape(name), Markup.Escape(value));
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
        Row("audit", report.AuditFindings.Count == 0 ? "clean" : string.Join('\n', report.AuditFindings));
        AnsiConsole.Write(table);
        foreach (var difference in report.ReturnsDifferent)
            Console.WriteLine(
                $"line {difference.Line}: {difference.Call} answered {difference.Actual}, "
                + $"recorded {difference.Expected}");
        foreach (var missing in report.MapsMissing) Console.WriteLine($"- {missing}");
        foreach (var unexpected in report.MapsUnexpected) Console.WriteLine($"+ {unexpected}");
    }
}
