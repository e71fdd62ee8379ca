using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using FramePin.Client;
using Grpc.Core;

namespace FramePin.Cli;

/// <summary>
/// The ends of commands that do not do their work. Each is told in a sentence on standard error, or as a JSON object
/// there with "-o json". No stack trace reaches the user.
/// </summary>
/// <param name="isJson">The command answers in JSON.</param>
/// <param name="endpoint">The daemon as the user named it.</param>
/// <param name="signals">The signals of this process.</param>
internal sealed class Failures(bool isJson, string endpoint, Signals signals)
{
    /// <summary>The refusal that an exception of a stub or of the library tells; null for any other
    /// exception.</summary>
    public static FramePinException? RefusalOf(Exception exception) =>
        exception as FramePinException
        ?? (exception is RpcException refused ? FramePinException.From(refused) : null);

    /// <summary>Tells what is wrong with a command line. Returns the exit code.</summary>
    public int TellUsage(IReadOnlyList<string> messages)
    {
        // The parser lists permitted values one a line.
        var lines = messages.Select(
            message => string.Join(' ', message.Split([' ', '\n', '\t', '\r'], StringSplitOptions.RemoveEmptyEntries)));
        if (isJson) return Tell(CommandLine.Usage, string.Join("; ", lines), "USAGE");
        foreach (var message in lines) Console.Error.WriteLine(Values.Show(message));
        Console.Error.WriteLine("see framepin --help");
        return CommandLine.Usage;
    }

    /// <summary>Tells that standard output takes nothing. Returns the exit code.</summary>
    public int TellUnwritten(Exception exception) =>
        Tell(CommandLine.Usage, $"standard output: {FirstSentence(exception)}", "OUTPUT");

    /// <summary>Tells with what a command ended. Returns the exit code.</summary>
    public int Tell(Exception exception)
    {
        if (signals.ExitCode != 0 && IsCancellation(exception)) return signals.ExitCode;
        if (RefusalOf(exception) is { } refusal) return Tell(refusal);
        return exception switch
        {
            DaemonSilentException => Tell(CommandLine.Unreachable, exception.Message, "NO_ANSWER"),
            ErrnoException => Tell(CommandLine.Refused, $"refused: {exception.Message}", "ERRNO"),
            OperationCanceledException => Tell(CommandLine.Refused, "the call was cancelled", "CANCELLED"),
            FormatException or IOException or UnauthorizedAccessException or System.Net.Sockets.SocketException
                or ArgumentException { ParamName: "endpoint" or "options" } =>
                Tell(CommandLine.Usage, FirstSentence(exception), "USAGE"),
            _ => Tell(
                CommandLine.Fault, $"framepin has a fault of its own: {exception.GetType().Name}: "
                    + $"{FirstSentence(exception)}", "FAULT"),
        };
    }

    private int Tell(FramePinException refusal)
    {
        switch (refusal.StatusCode)
        {
            case var _ when refusal.Reason == "PERMISSION_DENIED":
                return Tell(CommandLine.Unreachable, refusal.Message, refusal.Reason);
            case StatusCode.Unavailable:
            case var _ when refusal.Reason == "UNREACHABLE":
                return Tell(
                    CommandLine.Unreachable,
                    $"{WhyUnreached(refusal)}: start one with 'framepind', or name another with --endpoint",
                    "UNAVAILABLE");
            case StatusCode.DeadlineExceeded:
                return Tell(
                    CommandLine.Unreachable, $"the daemon at {endpoint} did not answer before the call's deadline: it "
                        + "is stopped, or has more to do than it can", "DEADLINE_EXCEEDED");
        }

        var code = UpperSnake(refusal.StatusCode.ToString());
        if (!isJson)
        {
            var reason = refusal.Reason == refusal.StatusCode.ToString() ? "" : $", {refusal.Reason}";
            var sentence = refusal.Message.Length > 0 ? refusal.Message : "the daemon gives no reason";
            return Tell(CommandLine.Refused, $"refused: {sentence} [{code}{reason}]", code);
        }

        var error = Error(CommandLine.Refused, refusal.Message, code);
        error["reason"] = refusal.Reason;
        if (refusal.Errno != 0) error["errno"] = refusal.Errno;
        if (refusal.Signal != 0) error["signal"] = refusal.Signal;
        if (refusal.Address is { } address) error["address"] = Values.Hex(address);
        if (refusal.Limit is { } limit)
            error["limit"] = new JsonObject { ["name"] = limit.Name, ["value"] = limit.Value, ["asked"] = limit.Asked };
        return Tell(error);
    }

    /// <summary>The daemon as the user named it, and why it cannot be had.</summary>
    private string WhyUnreached(FramePinException refusal) => refusal.Reason switch
    {
        // "no daemon at PLACE: REASON" of the library.
        "UNREACHABLE" => $"no daemon at {endpoint}: {refusal.Message[(refusal.Message.LastIndexOf(": ",
            StringComparison.Ordinal) + 2)..]}",
        "SHUTTING_DOWN" => $"the daemon at {endpoint} is ending",
        _ => $"no daemon at {endpoint} any more: the connection to it broke",
    };

    private int Tell(int exitCode, string message, string code)
    {
        if (isJson) return Tell(Error(exitCode, message, code));
        Console.Error.WriteLine(Values.Show(message));
        return exitCode;
    }

    private static int Tell(JsonObject error)
    {
        Console.Error.WriteLine(new JsonObject { ["error"] = error }.ToJsonString(
            new JsonSerializerOptions { WriteIndented = true }));
        return error["exit_code"]!.GetValue<int>();
    }

    private static JsonObject Error(int exitCode, string message, string code) =>
        new() { ["exit_code"] = exitCode, ["code"] = code, ["message"] = message };

    private static bool IsCancellation(Exception exception) =>
        exception is OperationCanceledException
        || RefusalOf(exception) is { StatusCode: StatusCode.Cancelled or StatusCode.Unavailable };

    /// <summary>The message without the name of a parameter, which means nothing to a user.</summary>
    private static string FirstSentence(Exception exception) =>
        exception.Message.Split(" (Parameter '", 2)[0].ReplaceLineEndings(" ");

    private static string UpperSnake(string name)
    {
        var text = new StringBuilder();
        foreach (var letter in name)
        {
            if (char.IsUpper(letter) && text.Length > 0) text.Append('_');
            text.Append(char.ToUpper(letter, CultureInfo.InvariantCulture));
        }

        return text.ToString();
    }
}

/// <summary>A driver's errno, as the end of a command.</summary>
internal sealed class ErrnoException(string message) : Exception(message);

/// <summary>The daemon took the connection and does not answer; the message says for how long.</summary>
internal sealed class DaemonSilentException(string message, Exception inner) : Exception(message, inner);
