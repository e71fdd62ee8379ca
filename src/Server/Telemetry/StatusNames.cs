using System.Diagnostics;
using Grpc.Core;

namespace FramePin.Server.Telemetry;

/// <summary>Status codes as spans tell them.</summary>
internal static class StatusNames
{
    /// <summary>By number, as gRPC spells the codes: NOT_FOUND.</summary>
    private static readonly string[] Names =
    [
        "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
        "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
        "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
    ];

    public static string Of(StatusCode code) => Names[(int)code];

    /// <summary>
    /// Notes the end of a call on its span. A status that the caller brought about is no error of the server: the
    /// semantic conventions name the six that are.
    /// </summary>
    public static void Note(Activity? span, StatusCode code, string detail)
    {
        if (span is null) return;
        span.SetTag(TelemetryNames.RpcStatus, Of(code));
        if (code is not (StatusCode.Unknown or StatusCode.DeadlineExceeded or StatusCode.Unimplemented
            or StatusCode.Internal or StatusCode.Unavailable or StatusCode.DataLoss)) return;
        span.SetTag(TelemetryNames.ErrorType, Of(code));
        span.SetStatus(ActivityStatusCode.Error, detail);
    }
}
