using System.Diagnostics;
using System.Globalization;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Drivers;

/// <summary>
/// A pinning stream that a driver keeps open: what it pins and puts goes over it, a message each, which costs the
/// daemon less than a call. Where the line is taken, by a pin that waits for its pages perhaps, calls do the same.
/// </summary>
/// <remarks>
/// Any thread. The messages belong to a session of the daemon, so that one whose answer was lost with the stream is
/// answered from memory on the next stream and pins nothing twice.
/// </remarks>
internal sealed class PinLine(
    FramePinClient client, string machine, string lease, string attachment, CancellationToken lost) : IAsyncDisposable
{
    private readonly SemaphoreSlim _turn = new(1, 1);
    private readonly CancellationTokenSource _ended = CancellationTokenSource.CreateLinkedTokenSource(lost);
    private AsyncDuplexStreamingCall<PinBatch, PinBatchResult>? _stream;
    private int _sessions;
    private ulong _sequence;
    private bool _isDisposed;

    /// <summary>
    /// Has operations worked off in order. Null: the line is taken, or the lease is lost, and calls have to do. Throws
    /// RpcException when the daemon cannot be reached or refuses the message.
    /// </summary>
    public async Task<IReadOnlyList<PinOperationResult>?> TryRunAsync(IEnumerable<PinOperation> operations)
    {
        if (_ended.IsCancellationRequested || !_turn.Wait(0, CancellationToken.None)) return null;
        try
        {
            var batch = new PinBatch
            {
                Sequence = _sequence + 1,
                Acknowledged = _sequence,
                Session = string.Create(CultureInfo.InvariantCulture, $"{lease}#{_sessions}"),
                Machine = machine,
                Lease = lease,
                Attachment = attachment,
                Operations = { operations },
            };
            var results = await SendAsync(batch).ConfigureAwait(false);
            _sequence = batch.Sequence;
            return results;
        }
        catch (RpcException)
        {
            // The message may have run, so no other message gets its number. Its pins go with the lease.
            _sessions++;
            _sequence = 0;
            if (_ended.IsCancellationRequested) return null;
            throw;
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>The caller's trace, for the span of an operation.</summary>
    public static string Traceparent => Activity.Current?.Id ?? "";

    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _isDisposed, true)) return;
        // A pin that waits is given up, as a call would be.
        await _ended.CancelAsync().ConfigureAwait(false);
        await _turn.WaitAsync(CancellationToken.None).ConfigureAwait(false);
        _stream?.Dispose();
        _ended.Dispose();
        _turn.Dispose();
    }

    private async Task<IReadOnlyList<PinOperationResult>> SendAsync(PinBatch batch)
    {
        if (_stream is not null)
        {
            try
            {
                return await AskAsync(_stream, batch).ConfigureAwait(false);
            }
            catch (RpcException) when (!_ended.IsCancellationRequested)
            {
                // Sent again, on a new stream.
                _stream.Dispose();
            }
        }

        _stream = client.Pinning.PinStream(cancellationToken: _ended.Token);
        try
        {
            return await AskAsync(_stream, batch).ConfigureAwait(false);
        }
        catch (RpcException)
        {
            _stream.Dispose();
            _stream = null;
            throw;
        }
    }

    private static async Task<IReadOnlyList<PinOperationResult>> AskAsync(
        AsyncDuplexStreamingCall<PinBatch, PinBatchResult> stream, PinBatch batch)
    {
        try
        {
            await stream.RequestStream.WriteAsync(batch).ConfigureAwait(false);
        }
        catch (Exception exception) when (exception is IOException or InvalidOperationException)
        {
            // A write to a broken stream throws this. A read of one throws RpcException.
            throw new RpcException(new Status(StatusCode.Unavailable, exception.Message, exception));
        }

        if (await stream.ResponseStream.MoveNext(CancellationToken.None).ConfigureAwait(false))
            return stream.ResponseStream.Current.Results;
        throw new RpcException(new Status(StatusCode.Unavailable, "the daemon ended the stream"));
    }
}
