using FramePin.Server.Services;
using FramePin.Server.Telemetry;
using Grpc.Core;

namespace FramePin.Server.LocalCalls;

/// <summary>
/// The methods that are served as local calls: those of PinningService and DriverService, by the same handlers as over
/// HTTP/2.
/// </summary>
/// <remarks>Any thread. One service object serves all calls, since a service keeps no state of a call.</remarks>
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

    /// <summary>A call of a method, not begun; null for a method that is not served here.</summary>
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
