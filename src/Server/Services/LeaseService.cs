using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

/// <summary>Leases over the wire.</summary>
internal sealed class LeaseService(LeaseRegistry leases, IHostApplicationLifetime lifetime)
    : V1.LeaseService.LeaseServiceBase
{
    public override Task<V1.Lease> OpenLease(OpenLeaseRequest request, ServerCallContext context) =>
        leases.Requests.Run(nameof(OpenLease), request.RequestId, request, () =>
        {
            // Longer than any bound, without overflow.
            var ttl = TimeSpan.FromMilliseconds((long)Math.Min(request.TtlMs, 1UL << 40));
            return Task.FromResult(WireMapping.ToWire(leases.Open(request.LeaseId, request.Owner, ttl)));
        });

    public override async Task KeepAlive(
        IAsyncStreamReader<KeepAliveRequest> requestStream, IServerStreamWriter<KeepAliveResponse> responseStream,
        ServerCallContext context)
    {
        if (!await requestStream.MoveNext(context.CancellationToken).ConfigureAwait(false)) return;
        var name = requestStream.Current.Lease;
        var lease = leases.Get(Names.LeaseId(name, "lease"));
        using var either = CancellationTokenSource.CreateLinkedTokenSource(
            context.CancellationToken, lease.Ended, lifetime.ApplicationStopping);
        try
        {
            do
            {
                if (requestStream.Current.Lease != name) throw Refusals.Bad("lease", "stays the same within a stream");
                if (!lease.Renew()) throw LeaseRegistry.Gone(lease.Id);
                await responseStream.WriteAsync(
                    new KeepAliveResponse { LeftMs = (ulong)lease.Left.TotalMilliseconds }, either.Token)
                        .ConfigureAwait(false);
            }
            while (await requestStream.MoveNext(either.Token).ConfigureAwait(false));
        }
        catch (OperationCanceledException) when (lifetime.ApplicationStopping.IsCancellationRequested)
        {
            throw Refusals.Unavailable("SHUTTING_DOWN", "the daemon is ending");
        }
        catch (Exception exception) when (exception is OperationCanceledException or RpcException
            && lease.Ended.IsCancellationRequested)
        {
            throw LeaseRegistry.Gone(lease.Id);
        }
    }

    public override Task<CloseLeaseResponse> CloseLease(CloseLeaseRequest request, ServerCallContext context) =>
        leases.Requests.Run(nameof(CloseLease), request.RequestId, request, () =>
        {
            var (vectors, pages) = leases.Close(leases.Get(Names.LeaseId(request.Name, "name")));
            return Task.FromResult(new CloseLeaseResponse { FrameVectors = (uint)vectors, PinnedPages = (ulong)pages });
        });

    public override Task<V1.Lease> GetLease(GetLeaseRequest request, ServerCallContext context) =>
        Task.FromResult(WireMapping.ToWire(leases.Get(Names.LeaseId(request.Name, "name"))));

    public override Task<ListLeasesResponse> ListLeases(ListLeasesRequest request, ServerCallContext context)
    {
        var response = new ListLeasesResponse();
        foreach (var lease in leases.All) response.Leases.Add(WireMapping.ToWire(lease));
        return Task.FromResult(response);
    }
}
