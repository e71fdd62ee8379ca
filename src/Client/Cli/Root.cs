using System.CommandLine;
using Spectre.Console;

namespace FramePin.Cli;

/// <summary>The command framepin: its subcommands, and the one place where a command ends.</summary>
internal static class Root
{
    /// <summary>Columns of output that is no terminal's: more than any line has.</summary>
    private const int WidthOfFiles = 10_000;

    /// <summary>The tree of commands.</summary>
    public static RootCommand Create(CommandLine line)
    {
        var root = new RootCommand(
            "framepin: talks to the FramePin daemon.\n\nExamples:\n  framepin create --profile 6.18\n"
            + "  framepin map as1 64K --touch -m m1\n"
            + "  framepin pin as1 0x7ffff7fef000 16 --write -m m1\n  framepin demo")
        {
            line.Endpoint, line.OutputForm, line.Machine,
        };
        foreach (var command in SpaceCommands.Create(line).Concat(PinCommands.Create(line)).Concat(
            LeaseCommands.Create(line)).Concat(ReplayCommands.Create(line))
            .Concat(DriverCommands.Create(line)).Concat(V4l2Commands.Create(line)).Concat(FaultCommands.Create(line))
            .Concat(DemoCommands.Create(line)).Concat(ConformanceCommands.Create(line)))
            root.Subcommands.Add(command);
        return root;
    }

    /// <summary>
    /// Runs a command. Returns its exit code: everything that a command may end with is told here, in a sentence.
    /// </summary>
    public static async Task<int> RunAsync(string[] arguments)
    {
        using var signals = new Signals();
        var output = new StandardWriter(Console.Out, signals.Cancel);
        Console.SetOut(output);
        // Nobody is left to be told that standard error takes nothing.
        Console.SetError(new StandardWriter(Console.Error, static () => { }));
        AnsiConsole.Profile.Out = new AnsiConsoleOutput(output);
        // What goes to a program or a file is not fitted to a width.
        if (Console.IsOutputRedirected) AnsiConsole.Profile.Width = WidthOfFiles;
        var line = new CommandLine();
        var parsed = Create(line).Parse(arguments);
        line.Signals = signals;
        var failures = new Failures(line.IsJson(parsed, arguments), line.EndpointOf(parsed), signals);
        if (parsed.Errors.Count > 0)
            return failures.TellUsage(parsed.Errors.Select(error => error.Message).ToList());
        try
        {
            // The signals are this command's own, so that each command ends in order and says with what.
            var configuration = new InvocationConfiguration
            {
                EnableDefaultExceptionHandler = false,
                ProcessTerminationTimeout = null,
            };
            var exitCode = await parsed.InvokeAsync(configuration, signals.Token);
            return output.Failure is null ? exitCode : failures.TellUnwritten(output.Failure);
        }
        catch (Exception exception)
        {
            return output.Failure is null ? failures.Tell(exception) : failures.TellUnwritten(output.Failure);
        }
    }
}
