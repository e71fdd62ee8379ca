using FramePin.Client;
using FramePin.Drivers;
using Grpc.Core;
using Grpc.Core.Interceptors;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// A driver's kernel whose calls of one answer a test can have refused, one by number, as by a daemon with a fault.
/// </summary>
internal sealed class RefusedCalls : Interceptor, IAsyncDisposable
{
    private readonly FramePinClient _client;
    private int _left = -1;

    private RefusedCalls(string endpoint) =>
        _client = FramePinClient.Connect(endpoint, options => options.Interceptors.Add(this));

    public DriverKernel Kernel { get; private set; } = null!;

    /// <summary>Name of the call that was refused; null for none since <see cref="RefuseAfter"/>.</summary>
    public string? Refused { get; private set; }

    public static async Task<RefusedCalls> OpenAsync(KernelRig rig, bool isLocal)
    {
        var calls = new RefusedCalls(rig.Daemon.Endpoint);
        calls.Kernel = await DriverKernel.OpenAsync(calls._client, rig.MachineName, "refused", isLocal);
        return calls;
    }

    /// <summary>So many calls go on, and the one behind them is refused; those behind it go on again.</summary>
    public void RefuseAfter(int calls) => (Refused, _left) = (null, calls);

    /// <summary>No call is refused.</summary>
    public void RefuseNone() => _left = -1;

    public override AsyncUnaryCall<TResponse> AsyncUnaryCall<TRequest, TResponse>(
        TRequest request, ClientInterceptorContext<TRequest, TResponse> context,
        AsyncUnaryCallContinuation<TRequest, TResponse> continuation)
    {
        if (_left < 0 || _left-- > 0) return continuation(request, context);
        Refused = context.Method.Name;
        var status = new Status(StatusCode.Internal, "refused by the test");
        return new AsyncUnaryCall<TResponse>(
            Task.FromException<TResponse>(new RpcException(status)), Task.FromResult(new Metadata()), () => status,
            () => [], () => { });
    }

    public async ValueTask DisposeAsync()
    {
        RefuseNone();
        await Kernel.DisposeAsync();
        _client.Dispose();
    }
}
