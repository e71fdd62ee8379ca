using Grpc.Core;

namespace FramePin.Server.LocalCalls;

/// <summary>What a handler learns about a local call: the same as of one over HTTP/2.</summary>
/// <remarks>
/// The client counts its deadline itself and closes the connection, which <paramref name="cancelled"/> tells.
/// </remarks>
internal sealed class LocalCallContext(string method, Metadata headers, CancellationToken cancelled) : ServerCallContext
{
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
        throw new NotSupportedException("calls of this daemon lead to no further ones");

    /// <summary>There are no headers on the way back.</summary>
    protected override Task WriteResponseHeadersAsyncCore(Metadata responseHeaders) => Task.CompletedTask;
}
