using System.Net;
using System.Net.Sockets;

namespace FramePin.Server.Native;

/// <summary>
/// The sockets that the daemon listens on: bound before anything else is made, all of them or none.
/// </summary>
/// <remarks>Owns them. Their files go when it is disposed.</remarks>
internal sealed class DaemonSockets : IDisposable
{
    private const int Backlog = 512;

    /// <summary>HTTP/2 under a path; null for none.</summary>
    public UnixListener? Grpc { get; private set; }

    /// <summary>Local calls; null for none.</summary>
    public UnixListener? Calls { get; private set; }

    /// <summary>Local memory; null for none.</summary>
    public UnixListener? Attach { get; private set; }

    /// <summary>HTTP/2 on the loopback; null for none.</summary>
    public Socket? Tcp { get; private set; }

    /// <summary>Binds them. Throws <see cref="StartException"/>, and then holds none.</summary>
    /// <param name="grpc">Path for gRPC.</param>
    /// <param name="calls">Path for local calls.</param>
    /// <param name="attach">Path for local memory.</param>
    /// <param name="port">TCP port; 0 takes a free one.</param>
    public static DaemonSockets Bind(string? grpc, string? calls, string? attach, int? port)
    {
        var sockets = new DaemonSockets();
        try
        {
            if (grpc is not null) sockets.Grpc = UnixListener.Bind(grpc);
            if (calls is not null) sockets.Calls = UnixListener.Bind(calls);
            // Every user may connect. Credentials decide, and a user without the right is told why.
            if (attach is not null) sockets.Attach = UnixListener.Bind(attach, (UnixFileMode)0b110_110_110);
            if (port is { } number) sockets.Tcp = Loopback(number);
            return sockets;
        }
        catch
        {
            sockets.Dispose();
            throw;
        }
    }

    /// <summary>Where HTTP/2 is served.</summary>
    public IEnumerable<EndPoint> Http2
    {
        get
        {
            if (Grpc is { } unix) yield return unix.EndPoint;
            if (Tcp is { LocalEndPoint: { } loopback }) yield return loopback;
        }
    }

    /// <summary>The same for people.</summary>
    public IEnumerable<string> Addresses =>
        Http2.Select(endpoint => endpoint is IPEndPoint ? $"http://{endpoint}" : $"http://unix:{endpoint}");

    /// <summary>The bound socket of one of <see cref="Http2"/>.</summary>
    public Socket Of(EndPoint endpoint) =>
        Grpc is { } unix && endpoint is UnixDomainSocketEndPoint ? unix.Socket
        : Tcp is { } loopback && endpoint is IPEndPoint ? loopback
        : throw new InvalidOperationException($"{endpoint} is no endpoint of the command line");

    public void Dispose()
    {
        Grpc?.Dispose();
        Calls?.Dispose();
        Attach?.Dispose();
        Tcp?.Dispose();
    }

    private static Socket Loopback(int port)
    {
        if (port is < IPEndPoint.MinPort or > IPEndPoint.MaxPort)
            throw new StartException($"port {port}: a port is a number from 0 to {IPEndPoint.MaxPort}");
        var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            socket.Bind(new IPEndPoint(IPAddress.Loopback, port));
            socket.Listen(Backlog);
            return socket;
        }
        catch (SocketException exception)
        {
            socket.Dispose();
            throw new StartException(
                exception.SocketErrorCode == SocketError.AddressAlreadyInUse
                    ? $"port {port} of 127.0.0.1: in use by another process"
                    : $"port {port} of 127.0.0.1: {exception.Message}",
                exception);
        }
    }
}
