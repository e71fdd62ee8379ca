using Grpc.Core;
using Microsoft.AspNetCore.Http.Features;

namespace FramePin.Server.Sessions;

/// <summary>What the answer of a call gives away. It is taken back when the answer does not go out.</summary>
internal interface IHandover
{
    /// <summary>
    /// Runs an action, once and on any thread, when the answer of the call does not reach its caller.
    /// </summary>
    void WhenLost(Action takeBack);
}

/// <summary>The same for calls of both transports.</summary>
internal static class Handover
{
    private const string StatusHeader = "grpc-status";
    private const string Ok = "0";

    /// <summary>
    /// Runs an action when the answer of the call does not go out: its deadline passes while the answer is written, its
    /// caller cancels it, or the connection breaks. A call with a request_id needs none, since a repeat gets the
    /// answer.
    /// </summary>
    /// <remarks>
    /// HTTP/2 tells no server that a client has read an answer. An answer counts as taken when gRPC has chosen the
    /// status OK and handed it to the connection's queue, also if its client leaves while it waits there
    /// (DEVIATIONS.md).
    /// </remarks>
    public static void WhenLost(this ServerCallContext context, Action takeBack)
    {
        if (context is IHandover call)
        {
            call.WhenLost(takeBack);
            return;
        }

        // Told when the answer is handed to the connection's queue. gRPC has chosen the status by then.
        var http = context.GetHttpContext();
        http.Response.OnCompleted(() =>
        {
            var trailers = http.Features.Get<IHttpResponseTrailersFeature>()?.Trailers;
            var isSent = trailers is not null && trailers[StatusHeader] == Ok
                && !http.RequestAborted.IsCancellationRequested;
            if (!isSent) takeBack();
            return Task.CompletedTask;
        });
    }
}
