using Grpc.Core;

namespace FramePin.Client;

/// <summary>Calls of the raw stubs with the exceptions of this library.</summary>
public static class FramePinCalls
{
    /// <summary>Awaits a call of a raw stub.</summary>
    /// <typeparam name="T">The answer.</typeparam>
    /// <param name="call">The call.</param>
    /// <param name="cancellationToken">The token that the call was made with.</param>
    /// <exception cref="FramePinException">The daemon refused the call or cannot be reached.</exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancellationToken"/> was signalled.</exception>
    public static async Task<T> TypedAsync<T>(
        this AsyncUnaryCall<T> call, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(call);
        try
        {
            return await call.ResponseAsync.ConfigureAwait(false);
        }
        catch (RpcException exception)
        {
            throw Typed(exception, cancellationToken);
        }
    }

    /// <summary>The exception to throw in place of <paramref name="exception"/>.</summary>
    internal static Exception Typed(RpcException exception, CancellationToken cancellationToken) =>
        exception.StatusCode == StatusCode.Cancelled && cancellationToken.IsCancellationRequested
            ? new OperationCanceledException(exception.Status.Detail, exception, cancellationToken)
            : FramePinException.From(exception);

    /// <summary>A fresh identifier for a request, so that a repeat of the request gets the first answer.</summary>
    internal static string NewRequestId() => Guid.NewGuid().ToString("N");
}
