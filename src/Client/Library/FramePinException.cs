using System.Globalization;
using Google.Rpc;
using Grpc.Core;

namespace FramePin.Client;

/// <summary>A refusal of the daemon, read back from its ErrorInfo.</summary>
public sealed class FramePinException : Exception
{
    private FramePinException(RpcException inner, ErrorInfo? info)
        : base(inner.Status.Detail, inner)
    {
        Code = inner.StatusCode;
        Reason = info?.Reason ?? inner.StatusCode.ToString();
        Metadata = info is null ? new Dictionary<string, string>() : new Dictionary<string, string>(info.Metadata);
        if (Metadata.TryGetValue("errno", out var text)
            && int.TryParse(text, CultureInfo.InvariantCulture, out var errno))
            Errno = errno;
    }

    public StatusCode Code { get; }

    /// <summary>UPPER_SNAKE: an errno's name, or what the daemon calls it.</summary>
    public string Reason { get; }

    /// <summary>Linux error number; 0 when the refusal is not one of the kernel's.</summary>
    public int Errno { get; }

    public IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>Turns what gRPC throws into a typed refusal.</summary>
    public static FramePinException From(RpcException exception) =>
        new(exception, exception.GetRpcStatus()?.GetDetail<ErrorInfo>());
}
