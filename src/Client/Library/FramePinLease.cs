using FramePin.V1;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace FramePin.Client;

/// <summary>
/// A lease that keeps itself alive until it is disposed: pass its <see cref="Name"/> in requests, and what they acquire
/// is released when the lease ends, also when this process is killed.
/// </summary>
/// <remarks>
/// Any thread. Owns one stream, which it opens anew when the connection breaks, as long as the time to live allows.
/// </remarks>
public sealed class FramePinLease : IAsyncDisposable
{
    private readonly FramePinClient _client;
    private readonly TimeProvider _time;
    private readonly TimeSpan _ttl;
    private readonly CancellationTokenSource _stopping = new();
    private readonly CancellationTokenSource _lost = new();
    private readonly Task _keeping;

    private FramePinLease(FramePinClient client, Lease lease, TimeProvider time)
    {
        _client = client;
        _time = time;
        _ttl = lease.Ttl.ToTimeSpan();
        Name = lease.Name;
        Lost = _lost.Token;
        _keeping = KeepAsync();
    }

    /// <summary>"machines/{m}/leases/{l}".</summary>
    public string Name { get; }

    /// <summary>Cancelled when the lease has ended without being disposed: everything it held is gone.</summary>
    public CancellationToken Lost { get; }

    /// <summary>Opens a lease.</summary>
    /// <param name="client">The daemon; it must outlive the lease.</param>
    /// <param name="machine">"machines/{m}"; empty for the default machine.</param>
    /// <param name="owner">Who it is, for people.</param>
    /// <param name="ttl">How long the daemon waits for a sign of life; its default when null. One is sent three times
    /// as often.</param>
    /// <param name="time">The clock of the signs of life.</param>
    /// <param name="cancelled">Gives the opening up.</param>
    public static async Task<FramePinLease> OpenAsync(
        FramePinClient client, string machine, string owner, TimeSpan? ttl = null, TimeProvider? time = null,
        CancellationToken cancelled = default)
    {
        ArgumentNullException.ThrowIfNull(client);
        var request = new OpenLeaseRequest
        {
            Parent = machine,
            Owner = owner,
            Ttl = ttl is { } wanted ? Duration.FromTimeSpan(wanted) : null,
            RequestId = Guid.NewGuid().ToString("N"),
        };
        var lease = await client.Leases.OpenLeaseAsync(request, cancellationToken: cancelled).ConfigureAwait(false);
        return new FramePinLease(client, lease, time ?? TimeProvider.System);
    }

    /// <summary>
    /// Ends the lease; what hangs on it is released. A daemon that cannot be reached ends it by itself.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        if (_stopping.IsCancellationRequested) return;
        await _stopping.CancelAsync().ConfigureAwait(false);
        await _keeping.ConfigureAwait(false);
        try
        {
            if (!Lost.IsCancellationRequested)
                await _client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = Name }).ConfigureAwait(false);
        }
        catch (RpcException)
        {
            // It ended meanwhile, or the daemon is gone: nothing is left to be closed.
        }

        _stopping.Dispose();
        _lost.Dispose();
    }

    private async Task KeepAsync()
    {
        while (!_stopping.IsCancellationRequested)
        {
            try
            {
                using var stream = _client.Leases.KeepAlive(cancellationToken: _stopping.Token);
                var ended = UntilEndAsync(stream.ResponseStream);
                while (!ended.IsCompleted)
                {
                    await stream.RequestStream.WriteAsync(
                        new KeepAliveRequest { Lease = Name }, _stopping.Token).ConfigureAwait(false);
                    await Task.WhenAny(ended, PauseAsync()).ConfigureAwait(false);
                }

                await ended.ConfigureAwait(false);
            }
            catch (RpcException exception) when (exception.StatusCode == StatusCode.NotFound)
            {
                await _lost.CancelAsync().ConfigureAwait(false);
                return;
            }
            catch (Exception exception) when (exception is OperationCanceledException or RpcException
                or InvalidOperationException or IOException)
            {
                // The connection broke: tried again in a moment. The lease lives on for the rest of its time.
                await PauseAsync().ConfigureAwait(false);
            }
        }
    }

    /// <summary>
    /// Reads the answers, which say nothing new, until the daemon ends the stream or the connection breaks.
    /// </summary>
    private async Task UntilEndAsync(IAsyncStreamReader<KeepAliveResponse> answers)
    {
        while (await answers.MoveNext(_stopping.Token).ConfigureAwait(false))
        {
        }
    }

    private Task PauseAsync() => Task.Delay(_ttl / 3, _time, _stopping.Token).ContinueWith(
        static _ => { }, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
}
