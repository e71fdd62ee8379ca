using System.Net;
using System.Net.Sockets;
using Grpc.Core;

namespace FramePin.Client;

/// <summary>A daemon's socket that could not be reached, in a sentence that names it.</summary>
internal sealed class ConnectException(EndPoint place, SocketException cause)
    : IOException(
        cause.SocketErrorCode == SocketError.AccessDenied
            ? $"permission denied: {Name(place)}"
            : $"no daemon at {Name(place)}: {Reason(cause)}",
        cause)
{
    /// <summary>The caller may not connect: the daemon may be there.</summary>
    public bool IsDenied => cause.SocketErrorCode == SocketError.AccessDenied;

    /// <summary>
    /// Why a call did not reach a daemon, for its user; null when a daemon answered, or the cause is not known.
    /// </summary>
    public static (string Message, string Reason)? Explain(RpcException exception)
    {
        for (var cause = exception.Status.DebugException; cause is not null; cause = cause.InnerException)
            if (cause is ConnectException connect)
                return (connect.Message, connect.IsDenied ? "PERMISSION_DENIED" : "UNREACHABLE");
        return null;
    }

    private static string Name(EndPoint place) =>
        place is DnsEndPoint host ? $"{host.Host}:{host.Port}" : place.ToString()!;

    private static string Reason(SocketException cause) => cause.SocketErrorCode switch
    {
        SocketError.ConnectionRefused => "nobody listens there",
        SocketError.AddressNotAvailable => "there is no such file",
        _ => cause.Message,
    };
}
