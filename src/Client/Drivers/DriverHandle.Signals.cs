using FramePin.Client;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Drivers;

/// <summary>
/// Signals. A call that is cancelled on the wire may have its answer on the way, and a frame with it. So a token
/// signals the driver, and the call itself goes on until the driver has answered.
/// </summary>
public sealed partial class DriverHandle
{
    /// <summary>
    /// A driver that does not heed the signal for so long is not waited for. What it gives away later it takes back.
    /// </summary>
    private static readonly TimeSpan SignalPatience = TimeSpan.FromSeconds(2);

    /// <summary>Tags of this process begin at a random number, since two processes may hold one file.</summary>
    private static ulong _lastTag = (ulong)Random.Shared.NextInt64();

    private static ulong NewTag() => Interlocked.Increment(ref _lastTag) | 1UL << 63;

    private async Task<TAnswer> SignalledTypedAsync<TAnswer>(
        Func<CancellationToken, AsyncUnaryCall<TAnswer>> begin, ulong tag, Func<TAnswer, uint> errnoOf,
        CancellationToken cancellationToken)
    {
        try
        {
            return await SignalledAsync(begin, tag, errnoOf, cancellationToken).ConfigureAwait(false);
        }
        catch (RpcException exception)
        {
            cancellationToken.ThrowIfCancellationRequested();
            throw FramePinException.From(exception);
        }
    }

    private async Task<TAnswer> SignalledAsync<TAnswer>(
        Func<CancellationToken, AsyncUnaryCall<TAnswer>> begin, ulong tag, Func<TAnswer, uint> errnoOf,
        CancellationToken cancellationToken)
    {
        if (!cancellationToken.CanBeCanceled) return await begin(CancellationToken.None).ConfigureAwait(false);
        cancellationToken.ThrowIfCancellationRequested();
        using var abandoned = new CancellationTokenSource();
        using var call = begin(abandoned.Token);
        using var signal = cancellationToken.Register(() =>
        {
            abandoned.CancelAfter(SignalPatience);
            _ = InterruptAsync(tag);
        });
        var answer = await call.ConfigureAwait(false);
        // The signal came before anything was done.
        if (errnoOf(answer) == (uint)Errno.EINTR) cancellationToken.ThrowIfCancellationRequested();
        return answer;
    }

    private async Task InterruptAsync(ulong tag)
    {
        try
        {
            await _client.Drivers.InterruptDriverCallAsync(
                new InterruptDriverCallRequest { File = File, Tag = tag }).ConfigureAwait(false);
        }
        catch (Exception exception) when (exception is RpcException or ObjectDisposedException)
        {
            // The daemon or the connection is gone, and the call with it.
        }
    }
}
