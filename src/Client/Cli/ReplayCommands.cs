using System.CommandLine;
using System.Globalization;
using FramePin.Client;
using FramePin.Client.Replay;
using FramePin.V1;
using Spectre.Console;

namespace FramePin.Cli;

/// <summary>Real input: recordings and live processes.</summary>
internal static class ReplayCommands
{
    public static IEnumerable<Command> Create(CommandLine line)
    {
        var strace = new Option<string>("--strace") { Description = "Log of strace -f -y -e trace=%memory,execve,clone,...", Required = true };
        var mapsStart = new Option<string>("--maps-start") { Description = "/proc/PID/maps before the first call.", Required = true };
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
            "replay --strace strace.log --maps-start maps.start --maps-end maps.end --pin-all --output json",
            [strace, mapsStart, mapsEnd, pinAll, keep, sizes], async (parsed, client, output, cancelled) =>
            {
                var recording = Recording.Load(parsed.GetValue(strace)!, parsed.GetValue(mapsStart)!, parsed.GetValue(mapsEnd)) with
                {
                    FileSizes = parsed.GetValue(sizes)!.Select(pair => pair.Split('=', 2)).ToDictionary(
                        pair => pair[0], pair => pair.Length == 2 ? Values.ParseSize(pair[1]) : throw new FormatException($"--file-size wants PATH=SIZE, got '{pair[0]}'")),
                };
                var report = await WithProgress(output, progress =>
                    new Replayer(client, progress).RunAsync(recording, parsed.GetValue(pinAll), parsed.GetValue(keep), cancelled));
                Print(report, output);
            });

        var pid = new Option<int>("--pid") { Description = "Process to copy the layout of.", Required = true };
        yield return line.Create(
            "import", "Builds an address space from a live process's /proc/PID/maps and smaps.", "import --pid 1234", [pid],
            async (parsed, client, output, cancelled) =>
            {
                var space = await Importer.RunAsync(
                    client, Values.Machine(parsed.GetValue(line.Machine)!), parsed.GetValue(pid), cancelled);
                output.Write(space, ("address space", space.Name), ("mappings", space.MapCount.ToString(CultureInfo.InvariantCulture)));
            });
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
                    if (!bars.TryGetValue(step.Step, out var bar)) bars[step.Step] = bar = context.AddTask(step.Step, maxValue: step.Total);
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
        Row("map lines", $"{report.MapsMatched} of {report.MapsExpected} as recorded");
        Row("pinned", $"{report.PagesPinned} pages of {report.MappingsPinned} mappings");
        Row("refused", string.Join(", ", report.PagesRefused.Select(pair => $"{pair.Key} {pair.Value}")));
        Row("leaked pins", report.LeakedPins.ToString(CultureInfo.InvariantCulture));
        Row("audit", report.AuditFindings.Count == 0 ? "clean" : string.Join('\n', report.AuditFindings));
        AnsiConsole.Write(table);
        foreach (var difference in report.ReturnsDifferent)
            Console.WriteLine($"line {difference.Line}: {difference.Call} answered {difference.Actual}, recorded {difference.Expected}");
        foreach (var missing in report.MapsMissing) Console.WriteLine($"- {missing}");
        foreach (var unexpected in report.MapsUnexpected) Console.WriteLine($"+ {unexpected}");
    }
}
