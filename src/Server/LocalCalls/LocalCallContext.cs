using FramePin.Server.Sessions;
using Grpc.Core;

namespace FramePin.Server.LocalCalls;

/// <summary>The context of a local call, as its handler sees it: the same members as over HTTP/2.</summary>
/// <remarks>
/// A local call has no deadline here. The client measures its own and closes the connection, which cancels
/// <paramref name="cancelled"/>.
/// </remarks>
internal sealed class LocalCallContext(string method, Metadata headers, CancellationToken cancelled)
    : ServerCallContext, IHandover
{
    /// <summary>Takes back what the answer gives away; null for nothing. Written and read atomically.</summary>
    private Action? _takeBack;

    public void WhenLost(Action takeBack) => Volatile.Write(ref _takeBack, takeBack);

    /// <summary>
    /// The answer has not reached the client. On a thread of its own, since the connection's lock may be held.
    /// </summary>
    public void Lose()
    {
        if (Interlocked.Exchange(ref _takeBack, null) is { } takeBack)
            ThreadPool.UnsafeQueueUserWorkItem(static takeBack => takeBack(), takeBack, preferLocal: false);
    }

    protected override string MethodCore => method;

    protected override string HostCore => "localhost";

    protected override string PeerCore => "unix:";

    protected override DateTime DeadlineCore => DateTime.MaxValue;

    protected override Metadata RequestHeadersCore => headers;

    protected override CancellationToken CancellationTokenCore => cancelled;

    protected override Metadata ResponseTrailersCore { get; } = [];

    protected override Status StatusCore { get; set; }

    protected override WriteOptions? WriteOptionsCore { get; set; }

    protected override AuthContext AuthContextCore { get; } = new(null, []);

    protected override ContextPropagationToken CreatePropagationTokenCore(ContextPropagationOptions? options) =>
        throw new NotSupportedException("the daemon makes no calls of its own");

    /// <summary>Does nothing: an answer of a local call has no headers.</summary>
    protected override Task WriteResponseHeadersAsyncCore(Metadata responseHeaders) => Task.CompletedTask;
}
