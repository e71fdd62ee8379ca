using Grpc.Core;
using Grpc.Core.Interceptors;
using Microsoft.Extensions.Logging;

namespace FramePin.Client;

/// <summary>The settings of a connection to a daemon.</summary>
/// <remarks>
/// Not synchronised. <see cref="FramePinClient"/> reads every setting once, when it is constructed. The objects in it
/// stay the caller's, except <see cref="HttpHandler"/>.
/// </remarks>
public sealed class FramePinClientOptions
{
    /// <summary>The endpoint of a daemon that was started with "--tcp 7461" on this host.</summary>
    public const string DefaultEndpoint = "http://127.0.0.1:7461";

    /// <summary>
    /// Where the daemon listens: "unix:/path/of/socket", "http://host:port" or "https://host:port". The client connects
    /// at the first call. <see cref="DefaultEndpoint"/> unless it is set.
    /// </summary>
    public string Endpoint { get; set; } = DefaultEndpoint;

    /// <summary>
    /// Credentials of the channel. Null means <see cref="ChannelCredentials.Insecure"/> for "unix:" and "http:", and
    /// <see cref="ChannelCredentials.SecureSsl"/> for "https:".
    /// </summary>
    public ChannelCredentials? Credentials { get; set; }

    /// <summary>
    /// Credentials that every call carries, such as a token. They are refused on "http:", where others could read them.
    /// Null for none. With call credentials every call goes over gRPC, as if <see cref="IsLocal"/> were false.
    /// </summary>
    public CallCredentials? CallCredentials { get; set; }

    /// <summary>
    /// The HTTP/2 handler of the channel. The client disposes it. Null means a <see cref="SocketsHttpHandler"/> of the
    /// client's own. A handler has to connect to the endpoint by itself: for "unix:" it is refused, since only the
    /// client's own handler knows the socket's path.
    /// </summary>
    public HttpMessageHandler? HttpHandler { get; set; }

    /// <summary>
    /// Interceptors of every call, the first one outermost. They also see the calls that
    /// <see cref="IsLocal"/> takes past HTTP/2. The client's own interceptor for spans and deadlines runs inside them.
    /// </summary>
    public IList<Interceptor> Interceptors { get; } = [];

    /// <summary>
    /// The logs of the client and of its channel. The category of the client is "FramePin.Client". Null for none.
    /// </summary>
    public ILoggerFactory? LoggerFactory { get; set; }

    /// <summary>
    /// Deadline of calls that set none; 30 seconds unless it is set. A stream in both directions has no deadline.
    /// </summary>
    public TimeSpan DefaultDeadline { get; set; } = TimeSpan.FromSeconds(30);

    /// <summary>The clock of deadlines, of signs of life and of retries.</summary>
    public TimeProvider TimeProvider { get; set; } = TimeProvider.System;

    /// <summary>
    /// Takes the calls on a frame's way past HTTP/2 where <see cref="Endpoint"/> is a Unix socket and its daemon offers
    /// that (framepin/v1/local.proto). Answers, refusals and traces are the same. True unless it is set.
    /// </summary>
    public bool IsLocal { get; set; } = true;

    /// <summary>Most bytes of a message that the client receives; 64 MiB unless it is set.</summary>
    public int MaxReceiveMessageBytes { get; set; } = 64 << 20;
}
