using System.Net;
using System.Net.Sockets;
using FramePin.Client.Native;
using Grpc.Core;

namespace FramePin.Client;

/// <summary>A daemon's socket that could not be reached, in a sentence that names it.</summary>
internal sealed class ConnectException(EndPoint place, SocketException cause)
    : IOException(
        cause.SocketErrorCode == SocketError.AccessDenied
            ? $"permission denied: {Name(place)}"
            : $"no daemon at {Name(place)}: {Reason(place, cause)}",
        cause)
{
    /// <summary>
    /// In the message of a handler whose connection was taken by something that is no server of HTTP/2. No number tells
    /// it.
    /// </summary>
    private const string Handshake = "HTTP/2 handshake";

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
            else if (cause is HttpRequestException or IOException
                && cause.Message.Contains(Handshake, StringComparison.Ordinal))
                return ("no daemon there: what listens speaks no HTTP/2", "UNREACHABLE");
        return null;
    }

    private static string Name(EndPoint place) =>
        place is DnsEndPoint host ? $"{host.Host}:{host.Port}" : place.ToString()!;

    private static string Reason(EndPoint place, SocketException cause) => cause.SocketErrorCode switch
    {
        // The kernel refuses the same way where a file is no socket (net/unix/af_unix.c: unix_find_bsd).
        SocketError.ConnectionRefused when place is UnixDomainSocketEndPoint && !FileKind.IsSocket(place.ToString()!) =>
            "the file is no socket",
        SocketError.ConnectionRefused => "nobody listens there",
        SocketError.AddressNotAvailable => "there is no such file",
        _ => cause.Message,
    };
}
