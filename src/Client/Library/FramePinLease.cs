using FramePin.V1;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace FramePin.Client;

/// <summary>
/// A lease that keeps itself alive until it is disposed. A request that carries its <see cref="Name"/> acquires in its
/// name, and the daemon releases that when the lease ends, also when this process is killed.
/// </summary>
/// <remarks>
/// Any thread. Owns one stream, which it opens anew when the connection breaks, as long as the time to live allows.
/// </remarks>
public sealed class FramePinLease : IAsyncDisposable
{
    private readonly FramePinClient _client;
    private readonly TimeProvider _time;
    private readonly CancellationTokenSource _stopping = new();
    private readonly CancellationTokenSource _lost = new();
    private readonly Task _keeping;

    private FramePinLease(FramePinClient client, Lease lease, TimeProvider time)
    {
        _client = client;
        _time = time;
        Ttl = lease.Ttl.ToTimeSpan();
        Name = LeaseName.Parse(lease.Name);
        Lost = _lost.Token;
        _keeping = KeepAsync();
    }

    /// <summary>"machines/{machine}/leases/{id}".</summary>
    public LeaseName Name { get; }

    /// <summary>
    /// Time without a sign of life after which the daemon ends the lease. A sign is sent three times as often.
    /// </summary>
    public TimeSpan Ttl { get; }

    /// <summary>Signalled when the lease has ended without being disposed: everything that it held is
    /// released.</summary>
    public CancellationToken Lost { get; }

    /// <summary>Opens a lease. One call, and a stream that lives as long as the lease.</summary>
    /// <param name="client">The daemon. It must outlive the lease.</param>
    /// <param name="machine">"machines/{machine}"; empty for the default machine.</param>
    /// <param name="owner">The client in its own words, for people.</param>
    /// <param name="ttl">Time without a sign of life after which the lease ends; the daemon's default when
    /// null.</param>
    /// <param name="time">The clock of the signs of life; the client's when null.</param>
    /// <param name="cancellationToken">Gives the opening up.</param>
    /// <exception cref="FramePinException">The machine is gone, the time is out of bounds, or leases_max is reached.
    /// </exception>
    public static async Task<FramePinLease> OpenAsync(
        FramePinClient client, string machine, string owner, TimeSpan? ttl = null, TimeProvider? time = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(client);
        var request = new OpenLeaseRequest
        {
            Parent = machine,
            Owner = owner,
            Ttl = ttl is { } wanted ? Duration.FromTimeSpan(wanted) : null,
            RequestId = FramePinCalls.NewRequestId(),
        };
        var lease = await client.Leases.OpenLeaseAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return new FramePinLease(client, lease, time ?? client.TimeProvider);
    }

    /// <summary>
    /// Ends the lease. The daemon releases what hangs on it, at once, or after the time to live when it cannot be
    /// reached. Does not throw.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        if (_stopping.IsCancellationRequested) return;
        await _stopping.CancelAsync().ConfigureAwait(false);
        await _keeping.ConfigureAwait(false);
        try
        {
            if (!Lost.IsCancellationRequested)
                await _client.Leases.CloseLeaseAsync(
                    new CloseLeaseRequest { Name = Name, RequestId = FramePinCalls.NewRequestId() }).ConfigureAwait(
                        false);
        }
        catch (RpcException exception)
        {
            // The lease has ended meanwhile, or the daemon is gone: nothing is left to be closed.
#pragma warning disable CA1873 // Both arguments are there already: to pass them costs nothing.
            Log.CloseLeaseFailed(_client.Logger, Name, exception.StatusCode);
#pragma warning restore CA1873
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
                Log.LeaseLost(_client.Logger, Name);
                await _lost.CancelAsync().ConfigureAwait(false);
                return;
            }
            catch (Exception exception) when (exception is OperationCanceledException or RpcException
                or InvalidOperationException or IOException)
            {
                // The connection broke. The lease lives on for the rest of its time, and the next stream keeps it.
                await PauseAsync().ConfigureAwait(false);
            }
        }
    }

    /// <summary>Reads the answers until the daemon ends the stream or the connection breaks.</summary>
    private async Task UntilEndAsync(IAsyncStreamReader<KeepAliveResponse> answers)
    {
        while (await answers.MoveNext(_stopping.Token).ConfigureAwait(false))
        {
        }
    }

    private Task PauseAsync() => Task.Delay(Ttl / 3, _time, _stopping.Token).ContinueWith(
        static _ => { }, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
}
