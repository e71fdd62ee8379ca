using System.Globalization;
using FramePin.V1;
using Google.Rpc;
using Grpc.Core;

namespace FramePin.Client;

/// <summary>A limit of the daemon that a request would have passed.</summary>
/// <param name="Name">The limit's name, such as "vector_pages_max".</param>
/// <param name="Value">The limit, in the unit that its name says.</param>
/// <param name="Asked">The value that the request needs.</param>
public readonly record struct FramePinLimit(string Name, ulong Value, ulong Asked);

/// <summary>A refusal of the daemon, or a daemon that cannot be reached.</summary>
/// <remarks>
/// The methods of this library throw it. The raw stubs of <see cref="FramePinClient"/> throw
/// <see cref="RpcException"/>, which <see cref="From"/> converts. A refused call has changed nothing, except where
/// <see cref="Reason"/> is "PARTLY_DONE". Immutable.
/// </remarks>
public sealed class FramePinException : Exception
{
    private FramePinException(string message, Exception? inner)
        : base(message, inner)
    {
    }

    /// <summary>The gRPC status.</summary>
    public StatusCode StatusCode { get; private init; }

    /// <summary>
    /// The reason in UPPER_SNAKE: the name of an errno or of a signal, or a word of the daemon's. "UNREACHABLE" or
    /// "PERMISSION_DENIED" for a daemon that could not be connected to.
    /// </summary>
    public string Reason { get; private init; } = "";

    /// <summary>Linux error number; 0 when the refusal is not one of the kernel's.</summary>
    public int Errno { get; private init; }

    /// <summary>Number of the signal that an access ended with, such as 7 for SIGBUS; 0 for none.</summary>
    public int Signal { get; private init; }

    /// <summary>The limit that would have been passed; null when there is none.</summary>
    public FramePinLimit? Limit { get; private init; }

    /// <summary>The address in bytes at which the call stopped; null when the refusal names none.</summary>
    public ulong? Address { get; private init; }

    /// <summary>Why a pin stopped; unspecified when the refusal does not say.</summary>
    public StopReason StopReason { get; private init; }

    /// <summary>The metadata of the refusal's google.rpc.ErrorInfo. Empty when it has none.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; private init; } = new Dictionary<string, string>();

    /// <summary>Reads a refusal.</summary>
    /// <param name="exception">The exception of a raw stub; it becomes <see cref="Exception.InnerException"/>.</param>
    public static FramePinException From(RpcException exception)
    {
        ArgumentNullException.ThrowIfNull(exception);
        var info = exception.GetRpcStatus()?.GetDetail<ErrorInfo>();
        var metadata = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var (key, value) in info?.Metadata ?? []) metadata[key] = value;
        var unreached = info is null ? ConnectException.Explain(exception) : null;
        return new FramePinException(unreached?.Message ?? exception.Status.Detail, exception)
        {
            StatusCode = IsClosedByDaemon(exception) ? StatusCode.Unavailable : exception.StatusCode,
            Reason = info?.Reason ?? unreached?.Reason ?? exception.StatusCode.ToString(),
            Metadata = metadata,
            Errno = (int)(Number(metadata, "errno") ?? 0),
            Signal = (int)(Number(metadata, "signal") ?? 0),
            Address = Number(metadata, "address"),
            StopReason = Enum.TryParse<StopReason>(metadata.GetValueOrDefault("stop_reason"), out var stop)
                ? stop
                : StopReason.Unspecified,
            Limit = metadata.TryGetValue("limit", out var limit)
                ? new FramePinLimit(limit, Number(metadata, "limit_value") ?? 0, Number(metadata, "asked") ?? 0)
                : null,
        };
    }

    /// <summary>
    /// The daemon closed the connection in order (GOAWAY without an error), which the runtime tells of a call as
    /// INTERNAL.
    /// </summary>
    private static bool IsClosedByDaemon(RpcException exception)
    {
        for (var cause = exception.Status.DebugException; cause is not null; cause = cause.InnerException)
            if (cause is HttpProtocolException { ErrorCode: 0 }) return true;
        return false;
    }

    /// <summary>A call that failed after it had changed something, as mprotect into a hole does.</summary>
    internal static FramePinException PartlyDone(string call, int errno) =>
        new(string.Create(CultureInfo.InvariantCulture, $"{call}: errno {errno}, after a part was done"), null)
        {
            StatusCode = StatusCode.FailedPrecondition,
            Reason = "PARTLY_DONE",
            Errno = errno,
        };

    /// <summary>An access that ended with a signal.</summary>
    internal static FramePinException Signalled(int signal) =>
        new(string.Create(CultureInfo.InvariantCulture, $"touch: {SignalName(signal)}"), null)
        {
            StatusCode = StatusCode.FailedPrecondition,
            Reason = SignalName(signal),
            Signal = signal,
        };

    private static string SignalName(int signal) => signal switch
    {
        7 => "SIGBUS",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        _ => string.Create(CultureInfo.InvariantCulture, $"SIGNAL_{signal}"),
    };

    /// <summary>A number in decimal, or in hex behind "0x". Null when there is none.</summary>
    private static ulong? Number(Dictionary<string, string> metadata, string key)
    {
        if (!metadata.TryGetValue(key, out var text)) return null;
        var isHex = text.StartsWith("0x", StringComparison.Ordinal);
        return ulong.TryParse(
            isHex ? text.AsSpan(2) : text, isHex ? NumberStyles.HexNumber : NumberStyles.None,
            CultureInfo.InvariantCulture, out var number)
            ? number
            : null;
    }
}
