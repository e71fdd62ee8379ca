using System.CommandLine;
using System.Globalization;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Cli;

/// <summary>The options that every command has, and how a command is run: connect, call, report refusals.</summary>
internal sealed class CommandLine
{
    /// <summary>Exit codes: done, refused by the daemon, wrong usage or input, daemon not reached.</summary>
    public const int Ok = 0;
    public const int Refused = 1;
    public const int Usage = 2;
    public const int Unreachable = 3;

    public Option<string> Endpoint { get; } = new("--endpoint", "-e")
    {
        Description = "Daemon: http://127.0.0.1:7461 or unix:/path (or FRAMEPIN_ENDPOINT).",
        DefaultValueFactory = _ => Environment.GetEnvironmentVariable("FRAMEPIN_ENDPOINT") ?? "http://127.0.0.1:7461",
        Recursive = true,
    };

    public Option<string> OutputForm { get; } = CreateOutput();

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
            using var client = FramePinClient.Connect(parsed.GetValue(Endpoint)!);
            try
            {
                var output = new Output(parsed.GetValue(OutputForm) == "json");
                await run(parsed, client, output, cancelled);
                return output.HasFindings ? Refused : Ok;
            }
            catch (Exception exception) when (RefusalOf(exception) is { Reason: "PERMISSION_DENIED" })
            {
                Console.Error.WriteLine(RefusalOf(exception)!.Message);
                return Unreachable;
            }
            catch (Exception exception) when (RefusalOf(exception) is { StatusCode: StatusCode.Unavailable })
            {
                Console.Error.WriteLine(
                    $"no daemon at {parsed.GetValue(Endpoint)}: start one with 'framepind', or name another with "
                    + "--endpoint");
                return Unreachable;
            }
            catch (Exception exception) when (RefusalOf(exception) is { } refusal)
            {
                Console.Error.WriteLine($"refused: {refusal.Message} [{refusal.StatusCode}, {refusal.Reason}]");
                return Refused;
            }
            catch (ErrnoException exception)
            {
                Console.Error.WriteLine($"refused: {exception.Message}");
                return Refused;
            }
            catch (Exception exception) when (exception is FormatException or IOException or UnauthorizedAccessException
                or System.Net.Sockets.SocketException)
            {
                Console.Error.WriteLine(exception.Message);
                return Usage;
            }
        });
        return command;
    }

    /// <summary>The refusal that an exception of a stub or of the library tells; null for any other
    /// exception.</summary>
    public static FramePinException? RefusalOf(Exception exception) =>
        exception as FramePinException
        ?? (exception is RpcException refused ? FramePinException.From(refused) : null);

    public string SpaceName(ParseResult parsed, Argument<string> argument) =>
        Values.Name(parsed.GetValue(argument)!, parsed.GetValue(Machine)!, "addressSpaces");

    public string VectorName(ParseResult parsed, Argument<string> argument) =>
        Values.Name(parsed.GetValue(argument)!, parsed.GetValue(Machine)!, "frameVectors");

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

/// <summary>A driver's errno, as the end of a command.</summary>
internal sealed class ErrnoException(string message) : Exception(message);
