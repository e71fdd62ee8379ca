using System.Collections.Concurrent;
using System.Net.Sockets;
using FramePin.V1.Local;
using Grpc.Core;

namespace FramePin.Client.Local;

/// <summary>
/// Takes the calls on a frame's way to a daemon on this host without HTTP/2 (framepin/v1/local.proto), all others to
/// gRPC; these too where the daemon has no socket for local calls.
/// </summary>
/// <remarks>Any thread. Owns the connections that wait for their next call.</remarks>
/// <param name="remote">gRPC.</param>
/// <param name="path">The daemon's socket for local calls.</param>
internal sealed class LocalCallInvoker(CallInvoker remote, string path) : CallInvoker, IDisposable
{
    /// <summary>Idle connections kept: each is a thread of the daemon's that sleeps.</summary>
    private const int IdleMax = 4;

    /// <summary>The latest used first: its thread in the daemon is the warmest.</summary>
    private readonly ConcurrentStack<LocalConnection> _idle = new();
    private volatile bool _isDisposed;

    public override TResponse BlockingUnaryCall<TRequest, TResponse>(
        Method<TRequest, TResponse> method, string? host, CallOptions options, TRequest request)
    {
        if (!IsLocal(method.FullName) || TryConnect() is not { } connection)
            return remote.BlockingUnaryCall(method, host, options, request);
        var call = new LocalUnaryCall<TRequest, TResponse>(method, options, connection, Keep);
        return call.RunAsync(request).GetAwaiter().GetResult();
    }

    public override AsyncUnaryCall<TResponse> AsyncUnaryCall<TRequest, TResponse>(
        Method<TRequest, TResponse> method, string? host, CallOptions options, TRequest request)
    {
        if (!IsLocal(method.FullName) || TryConnect() is not { } connection)
            return remote.AsyncUnaryCall(method, host, options, request);
        var call = new LocalUnaryCall<TRequest, TResponse>(method, options, connection, Keep);
        return new AsyncUnaryCall<TResponse>(
            call.RunAsync(request), Task.FromResult(Metadata.Empty), () => call.Status, () =>
                call.Trailers, call.Dispose);
    }

    public override AsyncDuplexStreamingCall<TRequest, TResponse> AsyncDuplexStreamingCall<TRequest, TResponse>(
        Method<TRequest, TResponse> method, string? host, CallOptions options)
    {
        if (!IsLocal(method.FullName) || TryConnect() is not { } connection)
            return remote.AsyncDuplexStreamingCall(method, host, options);
        var call = new LocalDuplexCall<TRequest, TResponse>(method, options, connection);
        return new AsyncDuplexStreamingCall<TRequest, TResponse>(
            call, call, Task.FromResult(Metadata.Empty), () => call.Status, () => call.Trailers, call.Dispose);
    }

    public override AsyncServerStreamingCall<TResponse> AsyncServerStreamingCall<TRequest, TResponse>(
        Method<TRequest, TResponse> method, string? host, CallOptions options, TRequest request) =>
        remote.AsyncServerStreamingCall(method, host, options, request);

    public override AsyncClientStreamingCall<TRequest, TResponse> AsyncClientStreamingCall<TRequest, TResponse>(
        Method<TRequest, TResponse> method, string? host, CallOptions options) =>
        remote.AsyncClientStreamingCall(method, host, options);

    public void Dispose()
    {
        _isDisposed = true;
        while (_idle.TryPop(out var connection)) connection.Dispose();
    }

    /// <summary>
    /// The calls that each frame between a driver and an application needs. The other calls are rare, or need the
    /// flow control of HTTP/2.
    /// </summary>
    private static bool IsLocal(string method) => method is
        "/framepin.v1.PinningService/PinStream" or "/framepin.v1.DriverService/ServeDriver"
            or "/framepin.v1.DriverService/Ioctl";

    /// <summary>A connection that is idle, or a new one; null where nobody listens.</summary>
    private LocalConnection? TryConnect()
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        while (_idle.TryPop(out var idle))
        {
            if (idle.IsAlive) return idle;
            idle.Dispose();
        }

        if (!File.Exists(path)) return null;
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            socket.Connect(new UnixDomainSocketEndPoint(path));
            return new LocalConnection(socket);
        }
        catch (SocketException)
        {
            // Left over by a daemon that was killed, or not this user's.
            socket.Dispose();
            return null;
        }
    }

    private void Keep(LocalConnection connection)
    {
        if (_idle.Count >= IdleMax) connection.Dispose();
        else _idle.Push(connection);
        // Disposed meanwhile, perhaps.
        if (_isDisposed) Dispose();
    }
}
