using System.Globalization;
using FramePin.Core.Abi;
using Google.Protobuf.WellKnownTypes;
using Google.Rpc;
using Grpc.Core;
using Status = Google.Rpc.Status;

namespace FramePin.Server.Mapping;

/// <summary>
/// The one place where refusals are built: a google.rpc.Status with exactly one ErrorInfo (reason in UPPER_SNAKE,
/// domain framepin.dev, and in its metadata the errno, the field, the limit and its value) and, where it helps, a
/// standard detail more.
/// </summary>
internal static class Refusals
{
    public const string Domain = "framepin.dev";

    /// <summary>Characters of a text of a refusal.</summary>
    private const int TextMax = 400;

    /// <summary>A field of the request that cannot be right, whatever the state.</summary>
    public static RpcException Bad(string field, string description)
    {
        var violation = new BadRequest.Types.FieldViolation { Field = field, Description = Shortened(description) };
        return Build(
            StatusCode.InvalidArgument, "BAD_FIELD", $"{field}: {description}", [("field", field)],
            new BadRequest { FieldViolations = { violation } });
    }

    /// <summary>A named limit would be passed.</summary>
    public static RpcException Limit(string limit, ulong value, ulong asked)
    {
        var violation = new QuotaFailure.Types.Violation
        {
            Subject = limit,
            Description = $"{asked} asked, {value} allowed"
        };
        return Build(
            StatusCode.ResourceExhausted, "LIMIT_EXCEEDED", $"{limit} is {value}, the request needs {asked}",
            [("limit", limit), ("limit_value", Text(value)), ("asked", Text(asked))],
            new QuotaFailure { Violations = { violation } });
    }

    public static RpcException NotFound(string kind, string name) =>
        Build(StatusCode.NotFound, $"{kind}_NOT_FOUND", $"there is no {name}", [("name", name)]);

    public static RpcException Exists(string name) =>
        Build(StatusCode.AlreadyExists, "NAME_TAKEN", $"{name} exists already: choose another id", [("name", name)]);

    /// <summary>The state does not allow it; the message says what to do first.</summary>
    public static RpcException State(string reason, string message, params (string Key, string Value)[] metadata)
    {
        var violation = new PreconditionFailure.Types.Violation { Type = reason, Description = Shortened(message) };
        return Build(
            StatusCode.FailedPrecondition, reason, message, metadata,
            new PreconditionFailure { Violations = { violation } });
    }

    /// <summary>A call that Linux answers with an errno.</summary>
    public static RpcException Errno(string call, Errno errno, params (string Key, string Value)[] metadata)
    {
        (string, string)[] all =
        [
            ("errno", ((int)errno).ToString(CultureInfo.InvariantCulture)), ("errno_name", errno.ToString()),
            ("call", call),
            .. metadata,
        ];
        var details = string.Join(", ", metadata.Select(pair => $"{pair.Key} {pair.Value}"));
        return Build(
            CodeOf(errno), errno.ToString(), $"{call}: {errno}{(details.Length > 0 ? $" ({details})" : "")}", all);
    }

    /// <summary>A load or a store that a program would die of.</summary>
    public static RpcException Signal(UserSignal signal, ulong address)
    {
        var (number, name, code) = WireEnums.ToSignal(signal);
        // A general protection tells a program no address.
        var told = signal == UserSignal.SigSegvNonCanonical ? 0 : address;
        return State(
            name, $"{name} ({code}) at 0x{address:x}",
            ("signal", Text(number)), ("signal_code", code), ("si_addr", $"0x{told:x}"), ("address", $"0x{address:x}"));
    }

    public static RpcException Reused(string requestId) =>
        Build(
            StatusCode.InvalidArgument, "REQUEST_ID_REUSED",
            "request_id was used before with other content: use a fresh one",
            [("request_id", requestId)]);

    public static RpcException Unavailable(string reason, string message) =>
        Build(
            StatusCode.Unavailable, reason, message, [],
            new RetryInfo { RetryDelay = Duration.FromTimeSpan(TimeSpan.FromSeconds(1)) });

    /// <summary>
    /// A call without a deadline has waited for as long as the daemon lets it: a signal, in the words of Linux.
    /// </summary>
    public static RpcException Expired(string call)
    {
        const Errno signal = Core.Abi.Errno.EINTR;
        return Build(
            StatusCode.DeadlineExceeded, "DEADLINE_EXCEEDED", $"{call}: the daemon's default deadline has passed",
            [
                ("errno", ((int)signal).ToString(CultureInfo.InvariantCulture)), ("errno_name", signal.ToString()),
                ("call", call),
            ]);
    }

    /// <summary>
    /// A refusal as it stands in a message of a stream: with the ErrorInfo that would end a unary call.
    /// </summary>
    /// <param name="refusal">What was refused.</param>
    /// <param name="errno">Its Linux error number; 0 when it is not one of the kernel's.</param>
    public static Status InStream(RpcException refusal, out uint errno)
    {
        var status = From(refusal).GetRpcStatus()!;
        var metadata = status.GetDetail<ErrorInfo>()?.Metadata;
        errno = metadata is not null && metadata.TryGetValue("errno", out var text)
            ? uint.Parse(text, CultureInfo.InvariantCulture)
            : 0;
        return status;
    }

    /// <summary>The refusal with one more entry in the metadata of its ErrorInfo.</summary>
    public static RpcException With(RpcException refusal, string key, ulong value)
    {
        var status = From(refusal).GetRpcStatus()!;
        var info = status.GetDetail<ErrorInfo>()!;
        info.Metadata[key] = Text(value);
        // The ErrorInfo is the first detail: Make puts it there.
        status.Details[0] = Any.Pack(info);
        return status.ToRpcException();
    }

    /// <summary>
    /// The status with its ErrorInfo; anything thrown in a handler that is not one already becomes INTERNAL.
    /// </summary>
    public static RpcException From(Exception exception) => exception switch
    {
        RpcException already when already.GetRpcStatus() is not null => already,
        RpcException bare =>
            Build(bare.StatusCode, bare.StatusCode.ToString().ToUpperInvariant(), bare.Status.Detail, []),
        // The client reset its stream: nobody reads this answer.
        IOException => Build(StatusCode.Cancelled, "CLIENT_GONE", "the client ended the call", []),
        OperationCanceledException =>
            Build(StatusCode.Cancelled, "CANCELLED", "the call was cancelled or its deadline passed", []),
        ObjectDisposedException =>
            Build(StatusCode.NotFound, "MACHINE_NOT_FOUND", "the machine was deleted meanwhile", []),
        // What the machine's host has not: memory, descriptors. The message says which.
        System.ComponentModel.Win32Exception host =>
            Build(StatusCode.ResourceExhausted, "HOST_REFUSED", host.Message, []),
        _ => Build(StatusCode.Internal, "INTERNAL", "the daemon failed: please report it with the trace id", []),
    };

    /// <summary>Details for a status that gRPC itself made before any handler ran.</summary>
    public static Status Explain(StatusCode code, string message)
    {
        var reason = code switch
        {
            StatusCode.ResourceExhausted => "MESSAGE_TOO_LARGE",
            StatusCode.Unimplemented => "NO_SUCH_METHOD",
            StatusCode.DeadlineExceeded => "DEADLINE_EXCEEDED",
            StatusCode.Cancelled => "CANCELLED",
            StatusCode.InvalidArgument => "MALFORMED_MESSAGE",
            _ => "INTERNAL",
        };
        return Make(code, reason, message, [], []);
    }

    private static string Text(ulong value) => value.ToString(CultureInfo.InvariantCulture);

    private static StatusCode CodeOf(Errno errno) => errno switch
    {
        Core.Abi.Errno.EINVAL => StatusCode.InvalidArgument,
        Core.Abi.Errno.ENOMEM or Core.Abi.Errno.EAGAIN or Core.Abi.Errno.ENOSPC => StatusCode.ResourceExhausted,
        Core.Abi.Errno.EPERM or Core.Abi.Errno.EACCES => StatusCode.PermissionDenied,
        Core.Abi.Errno.EEXIST => StatusCode.AlreadyExists,
        Core.Abi.Errno.EINTR => StatusCode.Aborted,
        Core.Abi.Errno.EOVERFLOW => StatusCode.OutOfRange,
        Core.Abi.Errno.EOPNOTSUPP or Core.Abi.Errno.ENOSYS => StatusCode.Unimplemented,
        Core.Abi.Errno.ESRCH or Core.Abi.Errno.ENOENT => StatusCode.NotFound,
        _ => StatusCode.FailedPrecondition,
    };

    private static RpcException Build(
        StatusCode code, string reason, string message, (string Key, string Value)[] metadata,
        params Google.Protobuf.IMessage[] details) =>
        Make(code, reason, message, metadata, details).ToRpcException();

    /// <summary>
    /// A text of a refusal: it repeats what the request said, and all of it travels in headers, of which clients take
    /// 8 KiB.
    /// </summary>
    private static string Shortened(string text)
    {
        if (text.Length <= TextMax) return text;
        // No half of a pair of surrogates stays.
        var end = char.IsHighSurrogate(text[TextMax - 2]) ? TextMax - 2 : TextMax - 1;
        return text[..end] + "…";
    }

    private static Status Make(
        StatusCode code, string reason, string message, (string Key, string Value)[] metadata,
        Google.Protobuf.IMessage[] details)
    {
        message = Shortened(message);
        var info = new ErrorInfo { Reason = reason, Domain = Domain };
        foreach (var (key, value) in metadata) info.Metadata[key] = Shortened(value);
        var status = new Status { Code = (int)code, Message = message, Details = { Any.Pack(info) } };
        foreach (var detail in details) status.Details.Add(Any.Pack(detail));
        return status;
    }
}
