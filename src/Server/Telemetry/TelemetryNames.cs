namespace FramePin.Server.Telemetry;

/// <summary>
/// Names of spans, attributes and metrics. Those of RPC follow the OpenTelemetry semantic conventions
/// (opentelemetry.io/docs/specs/semconv/rpc); the rest begin with "framepin.".
/// </summary>
internal static class TelemetryNames
{
    public const string Source = "FramePin.Server";

    public const string RpcSystem = "rpc.system.name";
    public const string RpcMethod = "rpc.method";
    public const string RpcStatus = "rpc.response.status_code";
    public const string ErrorType = "error.type";

    public const string Machine = "framepin.machine";
    public const string AddressSpace = "framepin.address_space";
    public const string Profile = "framepin.profile";
    public const string PagesRequested = "framepin.pages.requested";
    public const string PagesPinned = "framepin.pages.pinned";
    public const string PagesReleased = "framepin.pages.released";
    public const string Runs = "framepin.runs";
    public const string FrameVector = "framepin.frame_vector";
    public const string FrameKind = "framepin.frame_kind";
    public const string StopReason = "framepin.stop_reason";
    public const string Errno = "framepin.errno";
    public const string Retries = "framepin.fault.retries";
    public const string Epoch = "framepin.epoch";
    public const string Operations = "framepin.operations";

    public const string PhaseLookup = "framepin.lookup";
    public const string PhaseWalk = "framepin.walk";
    public const string PhaseTurnWait = "framepin.turn_wait";
    public const string PhaseFault = "framepin.fault";
    public const string PhaseReply = "framepin.reply";

    public const string PinsRefused = "framepin.pins.refused";
    public const string LeasesExpired = "framepin.leases.expired";
    public const string CallDuration = "rpc.server.call.duration";
}
