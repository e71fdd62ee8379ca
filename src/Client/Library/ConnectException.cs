using System.Net.Http;
using System.Net.Sockets;
using Grpc.Core;

namespace FramePin.Client;

/// <summary>A daemon's socket that could not be reached, in a sentence that names it.</summary>
internal sealed class ConnectException(string path, SocketException cause)
    : IOException(
        cause.SocketErrorCode == SocketError.AccessDenied
            ? $"permission denied: {path}"
            : $"no daemon at {path}: {Reason(cause)}",
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
            switch (cause)
            {
                case ConnectException connect:
                    return (connect.Message, connect.IsDenied ? "PERMISSION_DENIED" : "UNREACHABLE");
                case HttpRequestException { InnerException: SocketException } http:
                    return ($"no daemon: {http.Message}", "UNREACHABLE");
            }

        return null;
    }

    private static string Reason(SocketException cause) => cause.SocketErrorCode switch
    {
        SocketError.ConnectionRefused => "nobody listens there",
        SocketError.AddressNotAvailable => "there is no such file",
        _ => cause.Message,
    };
}
