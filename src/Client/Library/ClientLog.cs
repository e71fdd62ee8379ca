using Microsoft.Extensions.Logging;

namespace FramePin.Client;

/// <summary>Every log event of the client, numbered.</summary>
internal static partial class ClientLog
{
    [LoggerMessage(1, LogLevel.Warning, "Disposal could not unpin {Pin}: {Reason}", EventName = "UnpinFailed")]
    public static partial void UnpinFailed(ILogger logger, string pin, string reason, Exception exception);

    [LoggerMessage(2, LogLevel.Warning, "Lease {Lease} has ended on the daemon", EventName = "LeaseLost")]
    public static partial void LeaseLost(ILogger logger, string lease);

    [LoggerMessage(3, LogLevel.Information, "Disposal could not close lease {Lease}: {Reason}",
        EventName = "CloseLeaseFailed")]
    public static partial void CloseLeaseFailed(ILogger logger, string lease, string reason);
}
