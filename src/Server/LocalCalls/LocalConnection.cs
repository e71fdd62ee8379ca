using System.Net.Sockets;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.V1;
using FramePin.V1.Local;
using Grpc.Core;

namespace FramePin.Server.LocalCalls;

/// <summary>
/// A connection of a process on this host, and the thread that reads it. Two system calls receive a message, the
/// handler runs on the same thread, and one system call sends the answer. No other thread is woken.
/// </summary>
/// <remarks>Reads on its own thread; sends from any. Owns the socket.</remarks>
internal sealed class LocalConnection(Socket socket, LocalMethods methods, DaemonLimits limits) : IDisposable
{
    private readonly PacketReader _reader = new(limits.MessageBytesMax);
    private readonly PacketWriter _writer = new();
    private readonly Lock _sending = new();

    /// <summary>Managed id of the thread that reads.</summary>
    private int _thread;
    private volatile CancellationTokenSource _cancelled = new();
    private volatile LocalCall? _call;

    /// <summary>The call under way, or the last one.</summary>
    private volatile LocalCallContext? _context;
    private bool _isBroken;
    private volatile bool _isStopping;

    /// <summary>A call is under way: its status has not been sent.</summary>
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
        catch (SocketException exception) when (exception.SocketErrorCode == SocketError.ConnectionReset)
        {
            // The client has closed the connection over bytes that it had not read (net/unix/af_unix.c:
            // unix_release_sock): the last answer is lost.
            _context?.Lose();
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException)
        {
            // The client is gone.
        }
        catch (Exception exception) when (exception is RpcException or InvalidDataException
            or Google.Protobuf.InvalidProtocolBufferException)
        {
            // The bytes that follow cannot be understood, or are too many.
            SendStatus(Explain(exception));
            Abandon();
            Drain();
        }
        finally
        {
            Abandon();
        }
    }

    /// <summary>The calling thread is the one that reads: a wait for the client there delays no other client.</summary>
    public bool IsOwnThread => Environment.CurrentManagedThreadId == _thread;

    /// <summary>A send of so many bytes might wait for the client to read earlier ones.</summary>
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
    /// Cancels the call that is under way, and ends the connection when its status has been sent; ends it at once when
    /// no call is under way. Waits for nothing: a thread that sends looks for <see cref="_isStopping"/> behind its
    /// lock.
    /// </summary>
    public void Stop()
    {
        _isStopping = true;
        if (_sending.TryEnter())
        {
            try
            {
                if (!_isBusy) Close();
            }
            finally
            {
                _sending.Exit();
            }
        }

        _cancelled.Cancel();
    }

    /// <summary>
    /// Ends the connection of a stream that is open still, and of a client that leaves an answer unread.
    /// </summary>
    public void StopLate()
    {
        var isFree = _sending.TryEnter();
        if (isFree) _sending.Exit();
        if (!isFree || _call is { IsStream: true }) Close();
    }

    /// <summary>Runs nothing: answers the first call with a refusal.</summary>
    public void Refuse(RpcException refusal)
    {
        SendStatus(refusal);
        Drain();
    }

    /// <summary>Sends a message. False: the client is gone, or does not read.</summary>
    public bool Send<T>(Marshaller<T> marshaller, T message)
    {
        bool isSent;
        lock (_sending)
        {
            _writer.Clear();
            _writer.Append(marshaller, message);
            isSent = Flush();
        }

        CloseWhenStopped();
        return isSent;
    }

    /// <summary>Sends the one answer of a call, and its status with it.</summary>
    public void SendLast<T>(Marshaller<T> marshaller, T message)
    {
        lock (_sending)
        {
            _writer.Clear();
            _writer.Append(marshaller, message);
            _writer.Append(PacketKind.Status, null);
            FlushLast();
        }

        CloseWhenStopped();
    }

    /// <summary>Sends the status of a call; null means OK.</summary>
    public void SendStatus(RpcException? refusal)
    {
        LocalStatus? status = null;
        if (refusal is not null)
        {
            status = new LocalStatus { Code = (int)refusal.StatusCode, Message = refusal.Status.Detail };
            LocalHeaders.Add(status.Trailers, refusal.Trailers);
            // The call's answer, if there was one, could not be sent.
            if (_isBusy) _context?.Lose();
        }

        lock (_sending)
        {
            _writer.Clear();
            _writer.Append(PacketKind.Status, status);
            FlushLast();
        }

        CloseWhenStopped();
    }

    /// <summary>Refuses a client that sends more than one message's bytes while its handler reads none.</summary>
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
        // A sleeping receive is also woken when the client has read earlier answers (net/unix/af_unix.c:
        // unix_write_space); a poll for reading is not.
        socket.Poll(Timeout.Infinite, SelectMode.SelectRead);
        var count = socket.Receive(_reader.Free.Span);
        _reader.Received(count);
        return count > 0;
    }

    /// <summary>
    /// The call under way has no client any more: its sends fail, and its token is cancelled.
    /// </summary>
    private void Abandon()
    {
        lock (_sending) _isBroken = true;
        _cancelled.Cancel();
    }

    /// <summary>
    /// Reads on for a while, since a connection that is closed over unread bytes is reset, and the status on it lost.
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
            // The client is gone, or does not end: the status was sent either way.
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
                // A message for a call that is over was sent before the client read the status.
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
        // Without the lock: the thread that sent the last status may still hold it, and the client's next call may be
        // here before that thread has gone on.
        _cancelled = new CancellationTokenSource();
        _context = null;
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

        var context = _context = new LocalCallContext(call.Method, headers, _cancelled.Token);
        _call = methods.Make(call.Method, this, context)
            ?? throw Refusals.Explain(
                StatusCode.Unimplemented, $"{call.Method} is no method of local calls").ToRpcException();
        _call.Begin();
    }

    /// <summary>
    /// Sends the last packets of a call. The thread may be another connection's, for example of the driver that
    /// answered, and must not wait for this client to read: the pool does. Under the lock.
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
        CloseWhenStopped();
    }

    private void EndCall()
    {
        // Before the send: the client's next call may arrive before this thread returns from it.
        var context = _context;
        _isBusy = false;
        if (!Flush()) context?.Lose();
        if (_isStopping) Close();
    }

    /// <summary>
    /// Ends a connection without a call. <see cref="Stop"/> passes over one whose lock is held; its holder comes here
    /// behind the lock.
    /// </summary>
    private void CloseWhenStopped()
    {
        if (_isStopping && !_isBusy) Close();
    }

    /// <summary>
    /// A send would not wait: the kernel says so while three quarters of the socket's buffer are free.
    /// </summary>
    private bool HasRoom()
    {
        try
        {
            return socket.Poll(0, SelectMode.SelectWrite);
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException)
        {
            // The connection is gone, and a send returns at once.
            return true;
        }
    }

    /// <summary>
    /// Sends the packets, by one system call as a rule. A client that does not read within the limit counts as gone.
    /// Under the lock.
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
