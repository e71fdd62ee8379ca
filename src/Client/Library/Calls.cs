using Grpc.Core;

namespace FramePin.Client;

/// <summary>Turns the exceptions of the raw stubs into those of the library's own methods.</summary>
internal static class Calls
{
    /// <summary>Awaits a call.</summary>
    /// <exception cref="FramePinException">The daemon refused it or cannot be reached.</exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancelled"/> was signalled.</exception>
    public static async Task<T> TypedAsync<T>(this AsyncUnaryCall<T> call, CancellationToken cancelled)
    {
        try
        {
            return await call.ResponseAsync.ConfigureAwait(false);
        }
        catch (RpcException exception)
        {
            throw Typed(exception, cancelled);
        }
    }

    /// <summary>The exception to throw in place of <paramref name="exception"/>.</summary>
    public static Exception Typed(RpcException exception, CancellationToken cancelled) =>
        exception.StatusCode == StatusCode.Cancelled && cancelled.IsCancellationRequested
            ? new OperationCanceledException(exception.Status.Detail, exception, cancelled)
            : FramePinException.From(exception);

    /// <summary>An identifier for a request, so that a repeat of it gets the first answer.</summary>
    public static string NewRequestId() => Guid.NewGuid().ToString("N");
}
