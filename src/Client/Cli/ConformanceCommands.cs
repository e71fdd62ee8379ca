using System.CommandLine;
using System.CommandLine.Parsing;
using System.ComponentModel;
using System.Globalization;
using FramePin.Conformance;
using FramePin.Conformance.Matrix;
using FramePin.Conformance.Scripts;

namespace FramePin.Cli;

/// <summary>The running kernel against FramePin.</summary>
internal static class ConformanceCommands
{
    private static readonly Option<long> Steps = Numbers.Option(
        "--steps", "Steps to compare:", 20_000L, 1, long.MaxValue);

    private static readonly Option<int> Seed = Numbers.Option(
        "--seed", "Seed of the first script:", 1, int.MinValue, int.MaxValue);

    private static readonly Option<int> Most = Numbers.Option(
        "--max-divergences", "Differences after which to stop:", 1, 1, int.MaxValue);

    private static readonly Option<FileInfo?> Script =
        new("--script") { Description = "Runs the steps of this file instead of random ones." };

    private static readonly Option<FileInfo?> Keep = new("--keep")
    {
        Description = "With --script: writes the steps and the kernel's answers to this file, as a regression that "
            + "runs without root.",
    };

    private static readonly Option<int?> User = Numbers.Optional(
        "--user", "Compares as this user id, without root's rights. Takes root. User:", 1, int.MaxValue);

    private static readonly Option<bool> Swap = new("--swap")
    {
        Description = "Pages out for real: borrows swap (zram) from the host during the run. Takes root.",
    };

    private static readonly Option<ScriptFocus?> Focus = new("--focus")
    {
        Description = "Makes every script about this: everything, sharing (huge pages between processes), reclaim "
            + "(locking and paging out).",
    };

    private static readonly Option<FileInfo?> Report =
        new("--report") { Description = "Also writes the result to this file, as a page in Markdown." };

    private static readonly Option<FileInfo?> Matrix = new("--matrix")
    {
        Description = "Instead: measures kinds of mapping × paths into user memory on this kernel, writes the table "
            + "to this file and compares it with FramePin.",
    };

    public static IEnumerable<Command> Create(CommandLine line)
    {
        var command = new Command(
            "conformance",
            "Runs random scripts of memory calls on the running kernel and on FramePin, and compares after each step."
            + "\n\nExample:\n  framepin conformance --steps 100000 --seed 7\n"
            + "  framepin conformance --steps 100000 --user 65534\n  framepin conformance --steps 100000 --swap")
        {
            Steps, Seed, Most, User, Swap, Focus, Script, Keep, Report, Matrix,
        };
        CommandLine.Refuse(
            command, "has no meaning here: no daemon takes part", line.Endpoint, line.Machine, line.OutputForm);
        command.Validators.Add(RefuseUnused);
        command.SetAction((parsed, cancelled) => Task.Run(() => Run(line, parsed, cancelled), CancellationToken.None));
        yield return command;
    }

    /// <summary>Refuses options that the chosen kind of run would pass over in silence.</summary>
    private static void RefuseUnused(CommandResult result)
    {
        bool IsGiven(Option option) => result.GetResult(option) is { Implicit: false };
        Option[] random = [Steps, Seed, Most, User, Focus, Report];
        var kind = IsGiven(Script) ? Script : IsGiven(Matrix) ? Matrix : null;
        if (IsGiven(Script) && IsGiven(Matrix)) result.AddError("--script and --matrix exclude each other");
        foreach (var option in random)
            if (kind is not null && IsGiven(option)) result.AddError($"{option.Name} has no meaning with {kind.Name}");
        if (IsGiven(Swap) && kind == Matrix) result.AddError("--swap has no meaning with --matrix");
        if (IsGiven(Keep) && !IsGiven(Script)) result.AddError("--keep goes with --script");
    }

    private static int Run(CommandLine line, ParseResult parsed, CancellationToken cancelled)
    {
        try
        {
            return Act(line, parsed, cancelled);
        }
        catch (Win32Exception exception)
        {
            var reason = new Win32Exception(exception.NativeErrorCode).Message;
            Console.Error.WriteLine(
                $"the kernel refused {exception.Message}: {reason}. "
                + "This command traces processes of its own (ptrace); --user takes root.");
            return CommandLine.Refused;
        }
        catch (FramePin.Conformance.Kernel.SwapUnavailableException exception)
        {
            Console.Error.WriteLine($"--swap: {exception.Message}");
            return CommandLine.Refused;
        }
        catch (FramePin.Conformance.Kernel.HostUnsuitableException exception)
        {
            Console.Error.WriteLine(exception.Message);
            return CommandLine.Refused;
        }
    }

    private static int Act(CommandLine line, ParseResult parsed, CancellationToken cancelled)
    {
        // A script or the matrix is one step to the signals: the exit gives the host's settings back.
        using var ends = parsed.GetValue(Script) is null && parsed.GetValue(Matrix) is null
            ? default
            : cancelled.Register(() => Environment.Exit(line.Signals!.ExitCode));
        if (parsed.GetValue(Script) is { } file)
            return RunScript(file, parsed.GetValue(Keep), parsed.GetValue(Swap));
        if (parsed.GetValue(Matrix) is { } table) return MeasureMatrix(table);
        var started = TimeProvider.System.GetTimestamp();
        var result = Runner.Run(new RunOptions
        {
            Steps = parsed.GetValue(Steps),
            Seed = parsed.GetValue(Seed),
            MaxDivergences = parsed.GetValue(Most),
            AsUser = parsed.GetValue(User),
            WithSwap = parsed.GetValue(Swap),
            Focus = parsed.GetValue(Focus),
            Cancelled = cancelled,
        }, new Progress(started).Tell);
        Print(result, TimeProvider.System.GetElapsedTime(started));
        if (parsed.GetValue(Report) is { } page) File.WriteAllText(page.FullName, result.ToMarkdown());
        cancelled.ThrowIfCancellationRequested();
        return result.Divergences.Count == 0 ? CommandLine.Ok : CommandLine.Refused;
    }

    private static int MeasureMatrix(FileInfo file)
    {
        var (kernel, ours) = Runner.MeasureMatrix();
        File.WriteAllLines(file.FullName, kernel);
        var different = 0;
        for (var row = 1; row < kernel.Count; row++)
        {
            var (theirs, here) = (kernel[row].Split('\t'), ours[row].Split('\t'));
            if (theirs.Length > 1 && theirs[1].StartsWith("map:", StringComparison.Ordinal))
            {
                Console.WriteLine(
                    $"{theirs[0]}: this kernel does not make the mapping ({theirs[1][4..]}), not compared");
                continue;
            }

            for (var column = 1; column < Math.Max(theirs.Length, here.Length); column++)
            {
                var (a, b) = (theirs.ElementAtOrDefault(column) ?? "", here.ElementAtOrDefault(column) ?? "");
                if (AccessMatrix.Comparable(a) == AccessMatrix.Comparable(b)) continue;
                different++;
                Console.WriteLine($"{theirs[0]} × {AccessMatrix.Columns[column - 1].Name}: kernel {a}, FramePin {b}");
            }
        }

        Console.WriteLine(
            $"{kernel.Count - 1} kinds of mapping × {AccessMatrix.Columns.Count} paths into {file.Name}: "
            + $"{different} cells differ");
        return different == 0 ? CommandLine.Ok : CommandLine.Refused;
    }

    private static int RunScript(FileInfo file, FileInfo? keep, bool withSwap)
    {
        var steps = File.ReadLines(file.FullName).Where(
            line => line.Length > 0 && line[0] != '#').Select(Step.Parse).ToList();
        if (keep is not null)
        {
            File.WriteAllText(keep.FullName, Runner.Record(steps, withSwap).Format());
            return CommandLine.Ok;
        }

        var divergence = Runner.Replay(steps, Console.WriteLine, withSwap);
        if (divergence is not null) Console.WriteLine(divergence);
        return divergence is null ? CommandLine.Ok : CommandLine.Refused;
    }

    /// <summary>
    /// Tells differences as they are found, and how far the run is: all the time on a terminal, once a minute
    /// elsewhere.
    /// </summary>
    private sealed class Progress(long started)
    {
        private int _told;
        private int _minutes;

        public void Tell(ConformanceReport report)
        {
            foreach (var (seed, divergence) in report.Divergences.Skip(_told))
            {
                Console.WriteLine($"seed {seed}: differs after {divergence.Steps.Count} steps:");
                Console.WriteLine(divergence);
            }

            _told = report.Divergences.Count;
            if (!Console.IsErrorRedirected)
            {
                Console.Error.Write($"\r{report.Steps} steps");
                return;
            }

            var minutes = (int)TimeProvider.System.GetElapsedTime(started).TotalMinutes;
            if (minutes == _minutes) return;
            _minutes = minutes;
            Console.Error.WriteLine(
                $"{report.Steps} steps after {minutes} min, {report.Divergences.Count} differences");
        }
    }

    private static void Print(ConformanceReport report, TimeSpan elapsed)
    {
        foreach (var (seed, divergence) in report.Unrepeated)
            Console.WriteLine(
                $"seed {seed}: gone when run again: {divergence.Step}: kernel {divergence.KernelAnswer}, "
                + $"FramePin {divergence.FramePinAnswer}");
        foreach (var note in report.NotModelled) Console.WriteLine($"not modelled: {note}");
        foreach (var (name, hits) in report.DeviationHits) Console.WriteLine($"deviation {name}: {hits}");
        foreach (var (kind, (succeeded, failed)) in report.Kinds)
            Console.WriteLine($"{kind,-16} {succeeded,9} ok {failed,9} refused");
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{report.Steps} steps in {report.Scripts} scripts on Linux {report.Kernel}, profile {report.Profile}, "
            + $"seed {report.Seed}: {report.Divergences.Count} differences, {elapsed.TotalSeconds:f1} s"));
    }
}
