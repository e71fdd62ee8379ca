using System.Diagnostics;
using Grpc.Core;
using Grpc.Core.Interceptors;

namespace FramePin.Client;

/// <summary>
/// Starts a client span for each call, hands its W3C context to the daemon, and sets a deadline where there is none.
/// </summary>
internal sealed class ClientInterceptor(TimeSpan deadline, TimeProvider time) : Interceptor
{
    /// <summary>Name of the source to listen to for client spans.</summary>
    public const string SourceName = "FramePin.Client";

    internal static readonly ActivitySource Activities = new(SourceName);

    public override AsyncUnaryCall<TResponse> AsyncUnaryCall<TRequest, TResponse>(
        TRequest request, ClientInterceptorContext<TRequest, TResponse> context,
        AsyncUnaryCallContinuation<TRequest, TResponse> continuation)
    {
        var before = Activity.Current;
        var span = Activities.StartActivity(context.Method.FullName[1..], ActivityKind.Client);
        var call = continuation(request, Prepare(context, span, withDeadline: true));
        // The span belongs to the call, not to what its caller does next.
        Activity.Current = before;
        if (span is null) return call;
        return new AsyncUnaryCall<TResponse>(
            End(call.ResponseAsync, span), call.ResponseHeadersAsync, call.GetStatus, call.GetTrailers, call.Dispose);
    }

    public override AsyncServerStreamingCall<TResponse> AsyncServerStreamingCall<TRequest, TResponse>(
        TRequest request, ClientInterceptorContext<TRequest, TResponse> context,
        AsyncServerStreamingCallContinuation<TRequest, TResponse> continuation) =>
        continuation(request, Prepare(context, Activity.Current, withDeadline: true));

    public override AsyncClientStreamingCall<TRequest, TResponse> AsyncClientStreamingCall<TRequest, TResponse>(
        ClientInterceptorContext<TRequest, TResponse> context,
        AsyncClientStreamingCallContinuation<TRequest, TResponse> continuation) =>
        continuation(Prepare(context, Activity.Current, withDeadline: true));

    public override AsyncDuplexStreamingCall<TRequest, TResponse> AsyncDuplexStreamingCall<TRequest, TResponse>(
        ClientInterceptorContext<TRequest, TResponse> context,
        AsyncDuplexStreamingCallContinuation<TRequest, TResponse> continuation) =>
        // A stream lives as long as its user wants: no deadline of ours.
        continuation(Prepare(context, Activity.Current, withDeadline: false));

    private ClientInterceptorContext<TRequest, TResponse> Prepare<TRequest, TResponse>(
        ClientInterceptorContext<TRequest, TResponse> context, Activity? span, bool withDeadline)
        where TRequest : class
        where TResponse : class
    {
        var options = context.Options;
        if (withDeadline && options.Deadline is null)
            options = options.WithDeadline(time.GetUtcNow().UtcDateTime + deadline);
        if (span is { IdFormat: ActivityIdFormat.W3C })
        {
            span.SetTag("rpc.system.name", "grpc");
            span.SetTag("rpc.method", context.Method.FullName[1..]);
            var headers = new Metadata();
            foreach (var entry in options.Headers ?? []) headers.Add(entry);
            headers.Add("traceparent", span.Id!);
            if (span.TraceStateString is { } state) headers.Add("tracestate", state);
            options = options.WithHeaders(headers);
        }

        return new ClientInterceptorContext<TRequest, TResponse>(context.Method, context.Host, options);
    }

    private static async Task<T> End<T>(Task<T> response, Activity span)
    {
        using (span)
        {
            try
            {
                return await response.ConfigureAwait(false);
            }
            catch (RpcException exception)
            {
                span.SetStatus(ActivityStatusCode.Error, exception.Status.Detail);
                throw;
            }
        }
    }
}
