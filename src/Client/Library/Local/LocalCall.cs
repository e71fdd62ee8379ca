using FramePin.V1.Local;
using Grpc.Core;

namespace FramePin.Client.Local;

/// <summary>A call on a connection of its own: what it ends with, and what ends it before its time.</summary>
/// <remarks>Any thread.</remarks>
internal abstract class LocalCall : IDisposable
{
    private readonly CallOptions _options;
    private readonly CancellationTokenSource? _deadline;
    private readonly CancellationTokenRegistration _cancellation;
    private readonly CancellationTokenRegistration _expiry;
    private (Status Status, Metadata Trailers)? _end;
    private volatile bool _isCancelled;

    protected LocalCall(CallOptions options, LocalConnection connection)
    {
        _options = options;
        Connection = connection;
        // A send or receive under way notices that the connection is closed, and asks why.
        _cancellation = options.CancellationToken.UnsafeRegister(
            static connection => ((LocalConnection)connection!).Dispose(), connection);
        if (options.Deadline is not { } deadline || deadline == DateTime.MaxValue) return;
        var left = deadline.ToUniversalTime() - DateTime.UtcNow;
        _deadline = new CancellationTokenSource(left > TimeSpan.Zero ? left : TimeSpan.Zero);
        _expiry = _deadline.Token.UnsafeRegister(
            static connection => ((LocalConnection)connection!).Dispose(), connection);
    }

    /// <summary>What it ended with. Throws <see cref="InvalidOperationException"/> before.</summary>
    public Status Status => _end?.Status ?? throw new InvalidOperationException("the call has not ended");

    /// <summary>What came with the status. Throws <see cref="InvalidOperationException"/> before.</summary>
    public Metadata Trailers => _end?.Trailers ?? throw new InvalidOperationException("the call has not ended");

    protected LocalConnection Connection { get; }

    protected bool HasEnded => _end is not null;

    /// <summary>Cancels it, unless it is over.</summary>
    public abstract void Dispose();

    /// <summary>Gives it up.</summary>
    protected void Cancel()
    {
        _isCancelled = true;
        Connection.Dispose();
    }

    /// <summary>Begins the call; nothing is sent.</summary>
    protected void Begin(string method) => Connection.Begin(method, _options.Headers);

    /// <summary>The packet just read ends the call. Throws what it ended with, unless that is OK.</summary>
    protected void End()
    {
        StopWatching();
        var end = Connection.ReadStatus();
        _end = end;
        if (end.Status.StatusCode != StatusCode.OK) throw new RpcException(end.Status, end.Trailers);
    }

    /// <summary>The caller has given it up, or its deadline has passed.</summary>
    protected bool IsGivenUp => _isCancelled || _options.CancellationToken.IsCancellationRequested
        || _deadline is { IsCancellationRequested: true };

    /// <summary>The connection broke, or brought what is no answer: what the call's user is to be told.</summary>
    protected RpcException Break(Exception cause)
    {
        StopWatching();
        Connection.Dispose();
        var status = _isCancelled || _options.CancellationToken.IsCancellationRequested
            ? new Status(StatusCode.Cancelled, "the call was cancelled")
            : _deadline is { IsCancellationRequested: true }
                ? new Status(StatusCode.DeadlineExceeded, "the deadline passed")
            : cause is RpcException refusal ? refusal.Status
            : new Status(StatusCode.Internal, cause.Message, cause);
        _end ??= (status, Metadata.Empty);
        return new RpcException(status);
    }

    /// <summary>
    /// Ends the watch of the deadline and the token. A close that has begun is over when this returns, so the
    /// connection can be given to the next call.
    /// </summary>
    private void StopWatching()
    {
        _cancellation.Dispose();
        _expiry.Dispose();
        _deadline?.Dispose();
    }
}

/// <summary>One message, one answer. Its connection is kept for the next.</summary>
internal sealed class LocalUnaryCall<TRequest, TResponse>(
    Method<TRequest, TResponse> method, CallOptions options, LocalConnection connection, Action<LocalConnection> keep)
    : LocalCall(options, connection)
    where TRequest : class
    where TResponse : class
{
    /// <summary>It has given its connection away.</summary>
    private bool _isOver;

    /// <summary>Throws RpcException with the status that it ended with.</summary>
    public async Task<TResponse> RunAsync(TRequest request)
    {
        try
        {
            Begin(method.FullName);
            Connection.Writer.Append(method.RequestMarshaller, request);
            await Connection.FlushAsync().ConfigureAwait(false);
            TResponse? response = null;
            while (await Connection.ReceiveAsync().ConfigureAwait(false) == PacketKind.Message)
                response = Connection.Read(method.ResponseMarshaller);
            End();
            return response ?? throw new RpcException(new Status(StatusCode.Internal, "the daemon answered nothing"));
        }
        catch (Exception exception) when (!HasEnded)
        {
            throw Break(exception);
        }
        finally
        {
            if (HasEnded && !Interlocked.Exchange(ref _isOver, true)) keep(Connection);
        }
    }

    public override void Dispose()
    {
        if (!Interlocked.Exchange(ref _isOver, true)) Cancel();
    }
}

/// <summary>Messages both ways. Its connection ends with it.</summary>
internal sealed class LocalDuplexCall<TRequest, TResponse>
    : LocalCall, IClientStreamWriter<TRequest>, IAsyncStreamReader<TResponse>
    where TRequest : class
    where TResponse : class
{
    private readonly Method<TRequest, TResponse> _method;
    private readonly Task _begun;

    public LocalDuplexCall(Method<TRequest, TResponse> method, CallOptions options, LocalConnection connection)
        : base(options, connection)
    {
        _method = method;
        Begin(method.FullName);
        _begun = connection.FlushAsync().AsTask();
    }

    public WriteOptions? WriteOptions { get; set; }

    public TResponse Current { get; private set; } = null!;

    /// <summary>
    /// Throws RpcException when the connection is broken; a status that the daemon sent before is left to
    /// <see cref="MoveNext"/>.
    /// </summary>
    public Task WriteAsync(TRequest message) => WriteAsync(message, CancellationToken.None);

    /// <summary>Its token cancels the call.</summary>
    public async Task WriteAsync(TRequest message, CancellationToken cancellationToken)
    {
        using var cancellation = CancelOn(cancellationToken);
        try
        {
            await _begun.ConfigureAwait(false);
            Connection.Writer.Append(_method.RequestMarshaller, message);
            await Connection.FlushAsync().ConfigureAwait(false);
        }
        catch (Exception exception) when (IsGivenUp)
        {
            throw Break(exception);
        }
    }

    /// <summary>Throws as <see cref="WriteAsync(TRequest)"/> does.</summary>
    public async Task CompleteAsync()
    {
        try
        {
            await _begun.ConfigureAwait(false);
            Connection.Writer.Append(PacketKind.End, null);
            await Connection.FlushAsync().ConfigureAwait(false);
        }
        catch (Exception exception) when (IsGivenUp)
        {
            throw Break(exception);
        }
    }

    /// <summary>
    /// False when the daemon ended the call with OK. Throws RpcException with any other status. Its token cancels the
    /// call.
    /// </summary>
    public async Task<bool> MoveNext(CancellationToken cancellationToken)
    {
        if (HasEnded) return Status.StatusCode == StatusCode.OK ? false : throw new RpcException(Status, Trailers);
        using var cancellation = CancelOn(cancellationToken);
        try
        {
            await _begun.ConfigureAwait(false);
            if (await Connection.ReceiveAsync().ConfigureAwait(false) == PacketKind.Message)
            {
                Current = Connection.Read(_method.ResponseMarshaller);
                return true;
            }

            End();
            Connection.Dispose();
            return false;
        }
        catch (Exception exception) when (!HasEnded)
        {
            throw Break(exception);
        }
    }

    public override void Dispose() => Cancel();

    private CancellationTokenRegistration CancelOn(CancellationToken token) =>
        token.UnsafeRegister(static call => ((LocalDuplexCall<TRequest, TResponse>)call!).Cancel(), this);
}
