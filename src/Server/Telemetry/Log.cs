namespace FramePin.Server.Telemetry;

/// <summary>
/// Every event that the daemon logs, by number and name. Operators filter by both, so neither changes: a new event
/// takes a new number of its range (1 calls, 10 the daemon, 20 leases, 30 local memory, 40 local calls). No event is
/// logged under a lock.
/// </summary>
internal static partial class Log
{
    [LoggerMessage(EventId = 1, EventName = "CallFailed", Level = LogLevel.Error, Message = "{Method} failed")]
    public static partial void CallFailed(this ILogger log, string method, Exception exception);

    [LoggerMessage(
        EventId = 10, EventName = "AuditFinding", Level = LogLevel.Error, Message = "audit of {Machine}: {Finding}")]
    public static partial void AuditFinding(this ILogger log, string machine, string finding);

    [LoggerMessage(
        EventId = 11, EventName = "ExportFailed", Level = LogLevel.Warning,
        Message = "spans or metrics do not reach their receiver, and this is said once: {Reason}")]
    public static partial void ExportFailed(this ILogger log, string reason);

    [LoggerMessage(
        EventId = 12, EventName = "ExportConfigured", Level = LogLevel.Warning,
        Message = "the export of spans and metrics is not as its variables say: {Reason}")]
    public static partial void ExportConfigured(this ILogger log, string reason);

    [LoggerMessage(
        EventId = 20, EventName = "LeaseExpired", Level = LogLevel.Warning,
        Message = "lease {Lease} ({Owner}) ended: nothing was heard of it for {Seconds} s; "
            + "{Vectors} vectors with {Pages} pages released")]
    public static partial void LeaseExpired(
        this ILogger log, string lease, string owner, double seconds, int vectors, long pages);

    [LoggerMessage(
        EventId = 21, EventName = "LeaseReleaseFailed", Level = LogLevel.Error,
        Message = "lease {Lease} ended, and a thing of it could not be given back")]
    public static partial void LeaseReleaseFailed(this ILogger log, string lease, Exception exception);

    [LoggerMessage(
        EventId = 30, EventName = "AttachDenied", Level = LogLevel.Warning,
        Message = "process {Pid} of user {User} may not attach")]
    public static partial void AttachDenied(this ILogger log, int pid, uint user);

    [LoggerMessage(
        EventId = 31, EventName = "AttachmentEnded", Level = LogLevel.Information,
        Message = "an attachment ended: {Reason}")]
    public static partial void AttachmentEnded(this ILogger log, string reason);

    [LoggerMessage(
        EventId = 32, EventName = "HolderKilled", Level = LogLevel.Warning,
        Message = "process {Pid} (attachment {Attachment}) was killed: "
            + "it kept {Frames} free frames from the allocator, past the bound")]
    public static partial void HolderKilled(this ILogger log, int pid, string attachment, ulong frames);

    [LoggerMessage(
        EventId = 33, EventName = "HolderFenced", Level = LogLevel.Warning,
        Message = "process {Pid} (attachment {Attachment}) is fenced: it kept {Frames} free frames from the allocator, "
            + "past the bound; what it stores to them now lands in others' memory")]
    public static partial void HolderFenced(this ILogger log, int pid, string attachment, ulong frames);

    [LoggerMessage(
        EventId = 34, EventName = "AttachSocketFull", Level = LogLevel.Warning,
        Message = "nobody can attach for now: {Reason}")]
    public static partial void AttachSocketFull(this ILogger log, string reason);

    [LoggerMessage(
        EventId = 35, EventName = "QuarantineFailed", Level = LogLevel.Error,
        Message = "the bound of the quarantine of {Machine} could not be kept")]
    public static partial void QuarantineFailed(this ILogger log, string machine, Exception exception);

    [LoggerMessage(
        EventId = 40, EventName = "LocalConnectionFailed", Level = LogLevel.Error,
        Message = "a connection of local calls failed")]
    public static partial void LocalConnectionFailed(this ILogger log, Exception exception);

    [LoggerMessage(
        EventId = 41, EventName = "LocalConnectionsFull", Level = LogLevel.Warning,
        Message = "no more connections of local calls for now: {Reason}")]
    public static partial void LocalConnectionsFull(this ILogger log, string reason);
}
