using System.Net.Sockets;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.V1;
using FramePin.V1.Local;
using Grpc.Core;

namespace FramePin.Server.LocalCalls;

/// <summary>
/// A connection of a process on this host, and the thread that reads it: two system calls bring a message, the handler
/// runs behind them at once, and one more takes the answer away. Nobody else is woken.
/// </summary>
/// <remarks>Reads on its own thread; sends from any. Owns the socket.</remarks>
internal sealed class LocalConnection(Socket socket, LocalMethods methods, DaemonLimits limits) : IDisposable
{
    private readonly PacketReader _reader = new(limits.MessageBytesMax);
    private readonly PacketWriter _writer = new();
    private readonly Lock _sending = new();

    /// <summary>The thread that reads.</summary>
    private int _thread;
    private volatile CancellationTokenSource _cancelled = new();
    private LocalCall? _call;
    private bool _isBroken;
    private volatile bool _isStopping;

    /// <summary>A call is under way: its status has not gone out.</summary>
    private volatile bool _isBusy;

    /// <summary>Reads and runs calls until the client closes the connection or <see cref="Close"/> does.</summary>
    public void Run()
    {
        _thread = Environment.CurrentManagedThreadId;
        try
        {
            while (Receive())
                while (_reader.TryTake(out var kind)) Take(kind);
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException)
        {
            // The client is gone.
        }
        catch (Exception exception) when (exception is RpcException or InvalidDataException
            or Google.Protobuf.InvalidProtocolBufferException)
        {
            // What comes behind cannot be understood, or is too much.
            SendStatus(Explain(exception));
            Abandon();
            Drain();
        }
        finally
        {
            Abandon();
        }
    }

    /// <summary>This thread is the one that reads: if it waits for its client, nobody else does.</summary>
    public bool IsOwnThread => Environment.CurrentManagedThreadId == _thread;

    /// <summary>A send of so many bytes might have to wait for a client that leaves unread what it was sent.</summary>
    public bool MightWait(int bytes) => bytes > limits.ChunkBytesMax || !HasRoom();

    /// <summary>Ends the connection from another thread.</summary>
    public void Close()
    {
        try
        {
            socket.Shutdown(SocketShutdown.Both);
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException)
        {
            // It has ended by itself.
        }
    }

    /// <summary>
    /// Cancels the call that is under way, and ends the connection when its status has gone out; at once when there is
    /// none.
    /// </summary>
    public void Stop()
    {
        _isStopping = true;
        // Behind a status that is being sent.
        lock (_sending)
        {
            if (!_isBusy) Close();
        }

        _cancelled.Cancel();
    }

    /// <summary>Runs nothing: answers the first call with a refusal.</summary>
    public void Refuse(RpcException refusal)
    {
        SendStatus(refusal);
        Drain();
    }

    /// <summary>Sends a message; false when nobody reads it.</summary>
    public bool Send<T>(Marshaller<T> marshaller, T message)
    {
        lock (_sending)
        {
            _writer.Clear();
            _writer.Append(marshaller, message);
            return Flush();
        }
    }

    /// <summary>Sends the one answer of a call and its status.</summary>
    public void SendLast<T>(Marshaller<T> marshaller, T message)
    {
        lock (_sending)
        {
            _writer.Clear();
            _writer.Append(marshaller, message);
            _writer.Append(PacketKind.Status, null);
            FlushLast();
        }
    }

    /// <summary>Sends how a call ended; null: well.</summary>
    public void SendStatus(RpcException? refusal)
    {
        LocalStatus? status = null;
        if (refusal is not null)
        {
            status = new LocalStatus { Code = (int)refusal.StatusCode, Message = refusal.Status.Detail };
            LocalHeaders.Add(status.Trailers, refusal.Trailers);
        }

        lock (_sending)
        {
            _writer.Clear();
            _writer.Append(PacketKind.Status, status);
            FlushLast();
        }
    }

    /// <summary>Refuses a client that sends on and on while its call waits for something else.</summary>
    public void CheckUnread(int bytes)
    {
        if (bytes > limits.MessageBytesMax)
            throw Refusals.Limit("message_bytes_max", (ulong)limits.MessageBytesMax, (ulong)bytes);
    }

    public void Dispose() => socket.Dispose();

    private static RpcException Explain(Exception exception) => exception switch
    {
        InvalidDataException => Refusals.Explain(StatusCode.ResourceExhausted, exception.Message).ToRpcException(),
        Google.Protobuf.InvalidProtocolBufferException =>
            Refusals.Explain(StatusCode.InvalidArgument, "the bytes received are no message of this method")
                .ToRpcException(),
        _ => Refusals.From(exception),
    };

    private bool Receive()
    {
        // A receive that sleeps is woken too when the client has read what was sent to it (net/unix/af_unix.c:
        // unix_write_space); a poll is not.
        socket.Poll(Timeout.Infinite, SelectMode.SelectRead);
        var count = socket.Receive(_reader.Free.Span);
        _reader.Received(count);
        return count > 0;
    }

    /// <summary>
    /// The call that is under way finds nobody to answer. What its handler waits for ends by this, perhaps later.
    /// </summary>
    private void Abandon()
    {
        lock (_sending) _isBroken = true;
        _cancelled.Cancel();
    }

    /// <summary>
    /// Reads on for a while: a connection that is closed over unread bytes is reset, and the status on it lost.
    /// </summary>
    private void Drain()
    {
        try
        {
            socket.Shutdown(SocketShutdown.Send);
            socket.ReceiveTimeout = (int)limits.LocalPatience.TotalMilliseconds;
            var rest = new byte[limits.ChunkBytesMax];
            for (var left = 2 * limits.MessageBytesMax; left > 0;)
            {
                var count = socket.Receive(rest);
                if (count == 0) return;
                left -= count;
            }
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException)
        {
            // It is gone, or does not end: either way enough was done for it.
        }
    }

    private void Take(PacketKind kind)
    {
        switch (kind)
        {
            case PacketKind.Call when !_isBusy:
                Begin(LocalCallHeader.Parser.ParseFrom(_reader.PayloadAsReadOnlySequence()));
                break;
            case PacketKind.Message when _call is not null:
                // What comes for a call that is over was sent before its status was read.
                if (_isBusy) _call.Take(_reader);
                break;
            case PacketKind.End when _call is not null:
                if (_isBusy) _call.End();
                break;
            default:
                throw Refusals.Explain(StatusCode.InvalidArgument, $"a packet of kind {(int)kind} does not belong here")
                    .ToRpcException();
        }
    }

    private void Begin(LocalCallHeader call)
    {
        // Without the lock: the thread that sent the status before may hold it still, and was overtaken by the client's
        // next call.
        _cancelled = new CancellationTokenSource();
        _isBusy = true;
        if (_isStopping) throw Refusals.Unavailable("SHUTTING_DOWN", "the daemon is ending");
        Metadata headers;
        try
        {
            headers = LocalHeaders.From(call.Metadata);
        }
        catch (ArgumentException exception)
        {
            throw Refusals.Bad("metadata", exception.Message);
        }

        var context = new LocalCallContext(call.Method, headers, _cancelled.Token);
        _call = methods.Make(call.Method, this, context)
            ?? throw Refusals.Explain(
                StatusCode.Unimplemented, $"{call.Method} is no method of local calls").ToRpcException();
        _call.Begin();
    }

    /// <summary>
    /// Sends what ends a call. The thread may be another connection's, that of the driver who answered: it does not
    /// wait for this client to read. Under the lock.
    /// </summary>
    private void FlushLast()
    {
        if (IsOwnThread || !MightWait(_writer.Packets.Length)) EndCall();
        else ThreadPool.UnsafeQueueUserWorkItem(
            static connection => connection.EndCallLater(), this, preferLocal: false);
    }

    private void EndCallLater()
    {
        lock (_sending) EndCall();
    }

    private void EndCall()
    {
        // Before it is sent: the next call may be here before this thread is back.
        _isBusy = false;
        Flush();
        if (_isStopping) Close();
    }

    /// <summary>The kernel says so while three quarters of a socket's buffer are free.</summary>
    private bool HasRoom()
    {
        try
        {
            return socket.Poll(0, SelectMode.SelectWrite);
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException)
        {
            // Nothing will be sent.
            return true;
        }
    }

    /// <summary>
    /// One system call. A client that does not read for as long as limits say is taken for gone. Under the lock.
    /// </summary>
    private bool Flush()
    {
        if (_isBroken) return false;
        try
        {
            var packets = _writer.Packets.Span;
            while (packets.Length > 0) packets = packets[socket.Send(packets)..];
            return true;
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException)
        {
            _isBroken = true;
            Close();
            return false;
        }
    }
}
