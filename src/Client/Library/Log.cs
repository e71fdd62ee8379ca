using Grpc.Core;
using Microsoft.Extensions.Logging;

namespace FramePin.Client;

/// <summary>Every log event of the client, numbered.</summary>
internal static partial class Log
{
    [LoggerMessage(
        EventId = 1, EventName = "UnpinFailed", Level = LogLevel.Warning,
        Message = "Disposal could not unpin {Pin}: {Reason}")]
    public static partial void UnpinFailed(ILogger logger, string pin, string reason, Exception exception);

    [LoggerMessage(
        EventId = 2, EventName = "LeaseLost", Level = LogLevel.Warning,
        Message = "Lease {Lease} has ended on the daemon")]
    public static partial void LeaseLost(ILogger logger, string lease);

    [LoggerMessage(
        EventId = 3, EventName = "CloseLeaseFailed", Level = LogLevel.Information,
        Message = "Disposal could not close lease {Lease}: {Reason}")]
    public static partial void CloseLeaseFailed(ILogger logger, string lease, StatusCode reason);
}
