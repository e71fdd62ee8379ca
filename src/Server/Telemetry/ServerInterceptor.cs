using System.Diagnostics;
using FramePin.Server.Mapping;
using Grpc.Core;
using Grpc.Core.Interceptors;

namespace FramePin.Server.Telemetry;

/// <summary>
/// Runs around every call: starts its span (child of the client's, by the W3C headers), measures its duration, and
/// gives an ErrorInfo to every error.
/// </summary>
internal sealed class ServerInterceptor(
    ServerTelemetry telemetry, ILogger<ServerInterceptor> log, TimeProvider time, IHostApplicationLifetime lifetime)
    : Interceptor
{
    public override Task<TResponse> UnaryServerHandler<TRequest, TResponse>(
        TRequest request, ServerCallContext context, UnaryServerMethod<TRequest, TResponse> continuation) =>
        Around(context, () => continuation(request, context));

    public override Task<TResponse> ClientStreamingServerHandler<TRequest, TResponse>(
        IAsyncStreamReader<TRequest> requestStream, ServerCallContext context,
        ClientStreamingServerMethod<TRequest, TResponse> continuation) =>
        Around(context, async () =>
        {
            using var requests = Stoppable(requestStream, context);
            return await continuation(requests, context).ConfigureAwait(false);
        });

    public override Task ServerStreamingServerHandler<TRequest, TResponse>(
        TRequest request, IServerStreamWriter<TResponse> responseStream, ServerCallContext context,
        ServerStreamingServerMethod<TRequest, TResponse> continuation) =>
        Around(context, async () =>
        {
            await continuation(request, responseStream, context).ConfigureAwait(false);
            return true;
        });

    public override Task DuplexStreamingServerHandler<TRequest, TResponse>(
        IAsyncStreamReader<TRequest> requestStream, IServerStreamWriter<TResponse> responseStream,
        ServerCallContext context,
        DuplexStreamingServerMethod<TRequest, TResponse> continuation) =>
        Around(context, async () =>
        {
            using var requests = Stoppable(requestStream, context);
            await continuation(requests, responseStream, context).ConfigureAwait(false);
            return true;
        });

    private async Task<T> Around<T>(ServerCallContext context, Func<Task<T>> call)
    {
        var method = context.Method[1..];
        var started = time.GetTimestamp();
        using var span = Start(method, context);
        var (status, detail) = (StatusCode.OK, "");
        try
        {
            return await call().ConfigureAwait(false);
        }
        catch (Exception exception)
        {
            var refusal = IsEndOfDaemon(exception)
                ? Refusals.Unavailable("SHUTTING_DOWN", "the daemon is ending")
                : Refusals.From(exception);
            (status, detail) = (refusal.StatusCode, refusal.Status.Detail);
            if (status == StatusCode.Internal) log.CallFailed(method, exception);
            if (ReferenceEquals(refusal, exception)) throw;
            throw refusal;
        }
        finally
        {
            StatusNames.Note(span, status, detail);
            if (telemetry.CallDuration.Enabled)
                telemetry.CallDuration.Record(
                    time.GetElapsedTime(started).TotalSeconds, new KeyValuePair<string, object?>(
                        TelemetryNames.RpcMethod, method));
        }
    }

    private StoppableReader<T> Stoppable<T>(IAsyncStreamReader<T> requests, ServerCallContext context) =>
        new(requests, context.CancellationToken, lifetime.ApplicationStopping);

    /// <summary>The call was cancelled by the daemon's end. A client that cancelled it reads no status.</summary>
    private bool IsEndOfDaemon(Exception exception) =>
        exception is OperationCanceledException && lifetime.ApplicationStopping.IsCancellationRequested;

    private Activity? Start(string method, ServerCallContext context)
    {
        if (!telemetry.Activities.HasListeners()) return null;
        var headers = context.RequestHeaders;
        // The parent is the client's context, and not the span that the web server may have made of it.
        ActivityContext.TryParse(
            headers.GetValue("traceparent"), headers.GetValue("tracestate"), isRemote: true, out var parent);
        var before = Activity.Current;
        Activity.Current = null;
        var span = telemetry.Activities.StartActivity(method, ActivityKind.Server, parent);
        if (span is null) Activity.Current = before;
        span?.SetTag(TelemetryNames.RpcSystem, "grpc");
        span?.SetTag(TelemetryNames.RpcMethod, method);
        return span;
    }
}
