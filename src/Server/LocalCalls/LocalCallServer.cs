using System.Collections.Concurrent;
using System.Net.Sockets;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.Server.Native;
using FramePin.Server.Telemetry;
using FramePin.V1.Local;

namespace FramePin.Server.LocalCalls;

/// <summary>
/// Serves the pin and driver calls to processes on this host without HTTP/2 (framepin/v1/local.proto). A message costs
/// the daemon three system calls and wakes one thread; over HTTP/2 it wakes about six. Beside the daemon's Unix socket
/// PATH it listens on PATH.calls, made with the same permissions.
/// </summary>
internal sealed class LocalCallServer(
    DaemonOptions options, DaemonSockets sockets, LocalMethods methods, TimeProvider time,
    ILogger<LocalCallServer> log) : BackgroundService
{
    private const int StackBytes = 1 << 20;

    /// <summary>Pause before the next accept when descriptors or threads have run out.</summary>
    private static readonly TimeSpan Respite = TimeSpan.FromMilliseconds(100);

    private readonly ConcurrentDictionary<LocalConnection, TaskCompletionSource> _connections = new();

    /// <summary>
    /// Cancels the calls under way, all at once, and waits until each client has been told. A client that does not read
    /// is not waited for longer than the limit <see cref="DaemonLimits.StreamGrace"/>.
    /// </summary>
    public override async Task StopAsync(CancellationToken cancellationToken)
    {
        await base.StopAsync(cancellationToken).ConfigureAwait(false);
        foreach (var connection in _connections.Keys) connection.Stop();
        var ending = Task.WhenAll(_connections.Values.Select(ended => ended.Task));
        await Task.WhenAny(ending, Task.Delay(options.Limits.StreamGrace, time, cancellationToken))
            .ConfigureAwait(false);
        foreach (var connection in _connections.Keys) connection.StopLate();
        await ending.WaitAsync(cancellationToken).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        if (sockets.Calls is not { } listener) return;
        using var _ = listener;
        try
        {
            while (true) await ServeNextAsync(listener.Socket, stoppingToken).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            // The daemon ends.
        }
    }

    private async Task ServeNextAsync(Socket listener, CancellationToken stopping)
    {
        try
        {
            Serve(await listener.AcceptAsync(stopping).ConfigureAwait(false));
        }
        catch (Exception exception) when (exception is SocketException or OutOfMemoryException)
        {
            // Out of descriptors, or of threads. The open connections go on, and make room when they close.
            log.LocalConnectionsFull(exception.Message);
            await Task.Delay(Respite, time, stopping).ConfigureAwait(false);
        }
    }

    private void Serve(Socket socket)
    {
        socket.SendTimeout = (int)options.Limits.LocalPatience.TotalMilliseconds;
        var connection = new LocalConnection(socket, methods, options.Limits);
        var ended = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        _connections.TryAdd(connection, ended);
        var isTooMany = _connections.Count > options.Limits.LocalConnectionsMax;
        try
        {
            new Thread(() => Run(connection, ended, isTooMany), StackBytes)
            {
                IsBackground = true,
                Name = "local calls"
            }.Start();
        }
        catch
        {
            Forget(connection, ended);
            throw;
        }
    }

    private void Forget(LocalConnection connection, TaskCompletionSource ended)
    {
        connection.Dispose();
        _connections.TryRemove(connection, out _);
        ended.SetResult();
    }

    private void Run(LocalConnection connection, TaskCompletionSource ended, bool isTooMany)
    {
        try
        {
            var most = (ulong)options.Limits.LocalConnectionsMax;
            if (isTooMany) connection.Refuse(Refusals.Limit("local_connections_max", most, most + 1));
            else connection.Run();
        }
        catch (Exception exception)
        {
            log.LocalConnectionFailed(exception);
        }
        finally
        {
            Forget(connection, ended);
        }
    }
}
