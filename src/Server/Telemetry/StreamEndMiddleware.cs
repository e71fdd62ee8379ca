using FramePin.Server.Configuration;
using Grpc.AspNetCore.Server;
using Grpc.Core;

namespace FramePin.Server.Telemetry;

/// <summary>
/// Ends the streams that are still open a moment after the daemon began to end: those whose client reads no more. Calls
/// that are no streams get the whole grace.
/// </summary>
internal sealed class StreamEndMiddleware(
    RequestDelegate next, IHostApplicationLifetime lifetime, DaemonOptions options, TimeProvider time)
{
    public Task InvokeAsync(HttpContext context) =>
        context.GetEndpoint()?.Metadata.GetMetadata<GrpcMethodMetadata>() is { Method.Type: not MethodType.Unary }
            ? WatchedAsync(context)
            : next(context);

    private async Task WatchedAsync(HttpContext context)
    {
        using var late = new CancellationTokenSource(Timeout.InfiniteTimeSpan, time);
        using var abort = late.Token.UnsafeRegister(static context => ((HttpContext)context!).Abort(), context);
        // Disposed first, and waits for a callback under way, so that no later request is meant.
        using var stopping = lifetime.ApplicationStopping.UnsafeRegister(
            _ => late.CancelAfter(options.Limits.StreamGrace), null);
        await next(context).ConfigureAwait(false);
    }
}
