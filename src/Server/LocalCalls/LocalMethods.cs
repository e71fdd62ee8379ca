using FramePin.Server.Services;
using FramePin.Server.Telemetry;
using Grpc.Core;

namespace FramePin.Server.LocalCalls;

/// <summary>
/// The methods that are served as local calls: those on a frame's way, of the services that serve them over HTTP/2 too.
/// </summary>
/// <remarks>Any thread. One service object for all calls; the services keep nothing of a call.</remarks>
internal sealed class LocalMethods : ServiceBinderBase
{
    private readonly Dictionary<string, Func<LocalConnection, ServerCallContext, LocalCall>> _methods = new(
        StringComparer.Ordinal);
    private readonly ServerInterceptor _around;

    public LocalMethods(IServiceProvider services, ServerInterceptor around)
    {
        _around = around;
        V1.PinningService.BindService(this, ActivatorUtilities.CreateInstance<PinningService>(services));
        V1.DriverService.BindService(this, ActivatorUtilities.CreateInstance<DriverService>(services));
    }

    /// <summary>The call of a method, not begun; null when there is no such method here.</summary>
    public LocalCall? Make(string method, LocalConnection connection, ServerCallContext context) =>
        _methods.TryGetValue(method, out var make) ? make(connection, context) : null;

    public override void AddMethod<TRequest, TResponse>(
        Method<TRequest, TResponse> method, UnaryServerMethod<TRequest, TResponse>? handler)
    {
        if (handler is null) return;
        _methods.Add(method.FullName, (connection, context) => new LocalUnaryCall<TRequest, TResponse>(
            connection, method, request => _around.UnaryServerHandler(request, context, handler)));
    }

    public override void AddMethod<TRequest, TResponse>(
        Method<TRequest, TResponse> method, DuplexStreamingServerMethod<TRequest, TResponse>? handler)
    {
        if (handler is null) return;
        _methods.Add(method.FullName, (connection, context) => new LocalDuplexCall<TRequest, TResponse>(
            connection, method, (requests, responses) =>
                _around.DuplexStreamingServerHandler(requests, responses, context, handler)));
    }
}
