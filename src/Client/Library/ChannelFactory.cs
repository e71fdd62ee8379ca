using System.Net;
using System.Net.Sockets;
using FramePin.V1.Local;
using Grpc.Core;
using Grpc.Net.Client;

namespace FramePin.Client;

/// <summary>Makes the channel that a set of options describes.</summary>
internal static class ChannelFactory
{
    private const string Unix = "unix:";

    /// <summary>Path of the daemon's socket for local calls, or null when calls are to go over gRPC only.</summary>
    public static string? LocalPath(FramePinClientOptions options) =>
        options.IsLocal && options.CallCredentials is null && UnixPath(options.Endpoint) is { } path
            ? LocalSocket.PathFor(path)
            : null;

    /// <summary>Makes the channel. It connects at its first call, and owns its handler.</summary>
    /// <exception cref="ArgumentException">The endpoint is none, or a setting does not go with it.</exception>
    public static GrpcChannel Create(FramePinClientOptions options)
    {
        var path = UnixPath(options.Endpoint);
        if (path is not null && options.HttpHandler is not null)
            throw new ArgumentException("a handler of one's own cannot connect to a Unix socket", nameof(options));
        var address = path is not null ? new Uri("http://localhost") : HttpAddress(options.Endpoint);
        var isSecure = address.Scheme == Uri.UriSchemeHttps;
        if (options.CallCredentials is not null && path is null && !isSecure)
            throw new ArgumentException("call credentials on http: could be read by others", nameof(options));
        var credentials = options.Credentials
            ?? (isSecure ? ChannelCredentials.SecureSsl : ChannelCredentials.Insecure);
        return GrpcChannel.ForAddress(address, new GrpcChannelOptions
        {
            HttpHandler = options.HttpHandler ?? Handler(path),
            DisposeHttpClient = true,
            LoggerFactory = options.LoggerFactory,
            MaxReceiveMessageSize = options.MaxReceiveMessageBytes,
            Credentials = options.CallCredentials is { } calls
                ? ChannelCredentials.Create(credentials, calls)
                : credentials,
            // A Unix socket has no wire on which others could read the credentials.
            UnsafeUseInsecureChannelCallCredentials = path is not null,
        });
    }

    private static string? UnixPath(string endpoint) =>
        endpoint.StartsWith(Unix, StringComparison.Ordinal) ? endpoint[Unix.Length..] : null;

    private static Uri HttpAddress(string endpoint) =>
        Uri.TryCreate(endpoint, UriKind.Absolute, out var address)
        && (address.Scheme == Uri.UriSchemeHttp || address.Scheme == Uri.UriSchemeHttps)
            ? address
            : throw new ArgumentException(
                $"an endpoint is unix:/path, http://host:port or https://host:port, not '{endpoint}'", nameof(
                    endpoint));

    private static SocketsHttpHandler Handler(string? unixPath)
    {
        // The client's interceptor sets the W3C headers, and the handler is not to set them once more.
        var handler = new SocketsHttpHandler
        {
            ActivityHeadersPropagator = null,
            // The connection is made below; a proxy of the environment would get requests that are not for it.
            UseProxy = false,
            EnableMultipleHttp2Connections = true
        };
        handler.ConnectCallback = (context, cancellationToken) => ConnectAsync(
            unixPath is null ? context.DnsEndPoint : new UnixDomainSocketEndPoint(unixPath), cancellationToken);
        return handler;
    }

    private static async ValueTask<Stream> ConnectAsync(EndPoint endpoint, CancellationToken cancellationToken)
    {
        var socket = endpoint is UnixDomainSocketEndPoint
            ? new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified)
            : new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        try
        {
            await socket.ConnectAsync(endpoint, cancellationToken).ConfigureAwait(false);
            return new NetworkStream(socket, ownsSocket: true);
        }
        catch (SocketException exception)
        {
            socket.Dispose();
            throw new ConnectException(endpoint, exception);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }
}
