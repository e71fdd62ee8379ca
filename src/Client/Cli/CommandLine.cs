using System.CommandLine;
using System.Globalization;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Cli;

/// <summary>The options that every command has, and how a command is run: connect, call, report refusals.</summary>
internal sealed class CommandLine
{
    /// <summary>Exit codes: done, refused by the daemon, wrong usage or input, daemon not reached, a fault of this
    /// program.</summary>
    public const int Ok = 0;
    public const int Refused = 1;
    public const int Usage = 2;
    public const int Unreachable = 3;
    public const int Fault = 4;

    /// <summary>A command that takes longer than this asks whether the daemon answers at all.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(3);

    /// <summary>Time in which a daemon that is alive answers that question.</summary>
    private static readonly TimeSpan ProbeDeadline = TimeSpan.FromSeconds(5);

    public Option<string> Endpoint { get; } = new("--endpoint", "-e")
    {
        Description = "Daemon: http://127.0.0.1:7461, HOST:PORT, unix:/path or /path (or FRAMEPIN_ENDPOINT).",
        DefaultValueFactory = _ => Environment.GetEnvironmentVariable(Endpoints.Variable) ?? "http://127.0.0.1:7461",
        Recursive = true,
    };

    public Option<string> OutputForm { get; } = CreateOutput();

    /// <summary>The signals of the process that runs a command; null while none runs.</summary>
    public Signals? Signals { get; set; }

    public Option<string> Machine { get; } = new("--machine", "-m")
    {
        Description = "Machine that short names belong to.",
        DefaultValueFactory = _ => "default",
        Recursive = true,
    };

    /// <summary>A command that talks to the daemon.</summary>
    public Command Create(
        string name, string description, string example, Symbol[] symbols,
        Func<ParseResult, FramePinClient, Output, CancellationToken, Task> run)
    {
        var command = new Command(name, $"{description}\n\nExample:\n  framepin {example}");
        foreach (var symbol in symbols)
        {
            if (symbol is Option option) command.Options.Add(option);
            else if (symbol is Argument argument) command.Arguments.Add(argument);
        }

        command.SetAction(async (parsed, cancelled) =>
        {
            using var client = FramePinClient.Connect(Endpoints.Parse(parsed.GetValue(Endpoint)!));
            var output = new Output(parsed.GetValue(OutputForm) == "json");
            await RunWatchedAsync(run, parsed, client, output, cancelled);
            return output.HasFindings ? Refused : Ok;
        });
        return command;
    }

    /// <summary>Refuses an option that a command would pass over in silence.</summary>
    public static void Refuse(Command command, string reason, params Option[] options) =>
        command.Validators.Add(result =>
        {
            foreach (var option in options)
                if (result.GetResult(option) is { Implicit: false })
                    result.AddError($"{option.Name} {reason}");
        });

    /// <summary>The option stands on the command line.</summary>
    public static bool IsGiven(ParseResult parsed, Option option) => parsed.GetResult(option) is { Implicit: false };

    /// <summary>The form of the answer, also of a command line with errors.</summary>
    public bool IsJson(ParseResult parsed, string[] arguments)
    {
        if (parsed.Errors.Count == 0) return parsed.GetValue(OutputForm) == "json";
        var at = Array.FindIndex(arguments, argument => argument is "-o" or "--output");
        return (at >= 0 && at + 1 < arguments.Length && arguments[at + 1] == "json")
            || arguments.Any(argument => argument is "-o=json" or "--output=json" or "-ojson");
    }

    /// <summary>The daemon as the user named it; empty for a command line that cannot be read.</summary>
    public string EndpointOf(ParseResult parsed) =>
        parsed.Errors.Count == 0 && parsed.GetResult(Endpoint) is { Tokens.Count: <= 1 }
            ? parsed.GetValue(Endpoint) ?? ""
            : "";

    public string SpaceName(ParseResult parsed, Argument<string> argument) =>
        Values.Name(parsed.GetValue(argument)!, parsed.GetValue(Machine)!, "addressSpaces");

    public string VectorName(ParseResult parsed, Argument<string> argument) =>
        Values.Number(parsed.GetValue(argument)!, parsed.GetValue(Machine)!, "frameVectors", "frame vector");

    /// <summary>Runs as text: "0x100+3, 0x200", at most forty of them.</summary>
    public static string Describe(FrameRuns? runs)
    {
        if (runs is null) return "";
        const int most = 40;
        var parts = runs.FirstPfns.Take(most).Select((pfn, i) =>
            runs.Counts.Count > 0 && runs.Counts[i] > 1 ? $"{Values.Hex(pfn)}+{runs.Counts[i]}" : Values.Hex(pfn));
        var rest = runs.FirstPfns.Count - most;
        return string.Join(' ', parts)
            + (rest > 0 ? string.Create(CultureInfo.InvariantCulture, $" … {rest} runs more") : "");
    }

    /// <summary>
    /// Runs a command, and asks the daemon for a sign of life when the command takes long. A daemon that is stopped
    /// takes connections and never answers: the command ends then, with a sentence.
    /// </summary>
    private async Task RunWatchedAsync(
        Func<ParseResult, FramePinClient, Output, CancellationToken, Task> run, ParseResult parsed,
        FramePinClient client, Output output, CancellationToken cancelled)
    {
        using var ends = CancellationTokenSource.CreateLinkedTokenSource(cancelled);
        using var done = new CancellationTokenSource();
        var watching = IsSilentAsync(client, ends, done.Token);
        var running = run(parsed, client, output, ends.Token);
        try
        {
            await running;
        }
        catch (Exception exception) when (ends.IsCancellationRequested && !cancelled.IsCancellationRequested)
        {
            var time = string.Create(CultureInfo.InvariantCulture, $"{(Patience + ProbeDeadline).TotalSeconds:0}");
            throw new DaemonSilentException(
                $"the daemon at {parsed.GetValue(Endpoint)} took the connection and has not answered for {time} s: "
                + "it is stopped, or has more to do than it can", exception);
        }
        finally
        {
            await done.CancelAsync();
            await watching;
        }
    }

    private static async Task IsSilentAsync(
        FramePinClient client, CancellationTokenSource ends, CancellationToken done)
    {
        try
        {
            await Task.Delay(Patience, TimeProvider.System, done);
            await client.Machines.ListMachinesAsync(
                new ListMachinesRequest { PageSize = 1 }, deadline: TimeProvider.System.GetUtcNow().UtcDateTime
                    + ProbeDeadline, cancellationToken: done);
        }
        catch (RpcException exception) when (exception.StatusCode == StatusCode.DeadlineExceeded)
        {
            await ends.CancelAsync();
        }
        catch (Exception exception) when (exception is OperationCanceledException or RpcException)
        {
            // The command has ended, or the daemon has answered in some way.
        }
    }

    private static Option<string> CreateOutput()
    {
        var option = new Option<string>("--output", "-o")
        {
            Description = "table or json.",
            DefaultValueFactory = _ => "table",
            Recursive = true,
        };
        option.AcceptOnlyFromAmong("table", "json");
        return option;
    }
}
