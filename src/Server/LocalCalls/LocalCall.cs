using FramePin.Server.Mapping;
using FramePin.V1.Local;
using Google.Protobuf;
using Grpc.Core;

namespace FramePin.Server.LocalCalls;

/// <summary>
/// A call on a connection. The connection's thread reads each message and continues the handler; a handler that waits
/// for nothing but messages runs on no other thread.
/// </summary>
internal abstract class LocalCall(LocalConnection connection)
{
    protected LocalConnection Connection { get; } = connection;

    /// <summary>Messages go both ways until one side ends the call.</summary>
    public abstract bool IsStream { get; }

    /// <summary>The call packet was read.</summary>
    public abstract void Begin();

    /// <summary>A message packet was read.</summary>
    public abstract void Take(PacketReader packet);

    /// <summary>The client sends no more messages.</summary>
    public abstract void End();

    protected void Refuse(Exception exception) => Connection.SendStatus(Refusals.From(exception));
}

/// <summary>One message, one answer.</summary>
internal sealed class LocalUnaryCall<TRequest, TResponse>(
    LocalConnection connection, Method<TRequest, TResponse> method, Func<TRequest, Task<TResponse>> handler)
        : LocalCall(connection)
    where TRequest : class
    where TResponse : class
{
    private bool _isBegun;

    public override bool IsStream => false;

    public override void Begin()
    {
    }

    public override void Take(PacketReader packet)
    {
        if (_isBegun)
            throw Refusals.Explain(StatusCode.InvalidArgument, $"{method.FullName} takes one message").ToRpcException();
        _isBegun = true;
        _ = AnswerAsync(packet.Read(method.RequestMarshaller));
    }

    public override void End()
    {
    }

    private async Task AnswerAsync(TRequest request)
    {
        try
        {
            var response = await handler(request).ConfigureAwait(false);
            Connection.SendLast(method.ResponseMarshaller, response);
        }
        catch (Exception exception)
        {
            Refuse(exception);
        }
    }
}

/// <summary>Messages both ways.</summary>
internal sealed class LocalDuplexCall<TRequest, TResponse>(
    LocalConnection connection, Method<TRequest, TResponse> method,
    Func<IAsyncStreamReader<TRequest>, IServerStreamWriter<TResponse>, Task> handler)
    : LocalCall(connection), IAsyncStreamReader<TRequest>, IServerStreamWriter<TResponse>
    where TRequest : class
    where TResponse : class
{
    private readonly Lock _lock = new();
    private readonly Queue<(TRequest Message, int Length)> _unread = new();
    private TaskCompletionSource<bool>? _reader;
    private CancellationTokenRegistration _cancellation;
    private int _unreadBytes;
    private bool _isEnded;

    public override bool IsStream => true;

    public TRequest Current { get; private set; } = null!;

    public WriteOptions? WriteOptions { get; set; }

    public override void Begin() => _ = RunAsync();

    public override void Take(PacketReader packet)
    {
        var message = packet.Read(method.RequestMarshaller);
        TaskCompletionSource<bool>? reader;
        lock (_lock)
        {
            reader = TakeReader();
            if (reader is not null)
            {
                Current = message;
            }
            else
            {
                // The handler waits for something else than messages. HTTP/2 would hold the client back by now; here
                // a bound on the bytes does.
                _unreadBytes += packet.PayloadLength;
                Connection.CheckUnread(_unreadBytes);
                _unread.Enqueue((message, packet.PayloadLength));
            }
        }

        reader?.SetResult(true);
    }

    public override void End()
    {
        TaskCompletionSource<bool>? reader;
        lock (_lock)
        {
            _isEnded = true;
            reader = TakeReader();
        }

        reader?.SetResult(false);
    }

    public Task<bool> MoveNext(CancellationToken cancellationToken)
    {
        if (cancellationToken.IsCancellationRequested) return Task.FromCanceled<bool>(cancellationToken);
        TaskCompletionSource<bool> reader;
        lock (_lock)
        {
            if (_unread.TryDequeue(out var next))
            {
                Current = next.Message;
                _unreadBytes -= next.Length;
                return Task.FromResult(true);
            }

            if (_isEnded) return Task.FromResult(false);
            // The handler continues on the thread that completes this: the connection's, after the next message.
            reader = _reader = new TaskCompletionSource<bool>();
        }

        Watch(reader, cancellationToken);
        return reader.Task;
    }

    public Task WriteAsync(TResponse message) => WriteAsync(message, CancellationToken.None);

    public Task WriteAsync(TResponse message, CancellationToken cancellationToken)
    {
        if (cancellationToken.IsCancellationRequested) return Task.FromCanceled(cancellationToken);
        if (!Connection.IsOwnThread && Connection.MightWait((message as IMessage)?.CalculateSize() ?? 0))
            return Task.Run(() => Send(message), CancellationToken.None);
        try
        {
            Send(message);
            return Task.CompletedTask;
        }
        catch (IOException exception)
        {
            return Task.FromException(exception);
        }
    }

    private void Send(TResponse message)
    {
        if (!Connection.Send(method.ResponseMarshaller, message))
            throw new IOException("the client is gone, or does not read");
    }

    private async Task RunAsync()
    {
        try
        {
            await handler(this, this).ConfigureAwait(false);
            Connection.SendStatus(null);
        }
        catch (Exception exception)
        {
            Refuse(exception);
        }
    }

    /// <summary>Ends a wait when its token is cancelled. The token may be cancelled before this is called.</summary>
    private void Watch(TaskCompletionSource<bool> reader, CancellationToken token)
    {
        if (!token.CanBeCanceled) return;
        var registration = token.UnsafeRegister(
            _ =>
            {
                lock (_lock)
                {
                    if (_reader != reader) return;
                    _reader = null;
                }

                // On the pool: the handler goes on there and sends to its client, for which the thread that cancels
                // has no time.
                ThreadPool.UnsafeQueueUserWorkItem(
                    static wait => wait.Reader.TrySetCanceled(wait.Token), (Reader: reader, Token: token),
                    preferLocal: false);
            },
            null);
        lock (_lock)
        {
            if (_reader == reader)
            {
                _cancellation = registration;
                return;
            }
        }

        registration.Unregister();
    }

    /// <summary>The handler's wait for a message, which cannot be cancelled any more. Under the lock.</summary>
    private TaskCompletionSource<bool>? TakeReader()
    {
        var reader = _reader;
        _reader = null;
        if (reader is not null)
        {
            _cancellation.Unregister();
            _cancellation = default;
        }

        return reader;
    }
}
