using FramePin.Server.Configuration;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

/// <summary>Leases over the wire.</summary>
internal sealed class LeaseService(
    MachineRegistry machines, DaemonOptions options, IHostApplicationLifetime lifetime)
    : V1.LeaseService.LeaseServiceBase
{
    public override Task<V1.Lease> OpenLease(OpenLeaseRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var ttl = WireTimes.Read(request.Ttl, "ttl");
            return Task.FromResult(WireMapping.ToWire(host.Leases.Open(request.LeaseId, request.Owner, ttl)));
        });
    }

    public override async Task KeepAlive(
        IAsyncStreamReader<KeepAliveRequest> requestStream, IServerStreamWriter<KeepAliveResponse> responseStream,
        ServerCallContext context)
    {
        if (!await requestStream.MoveNext(context.CancellationToken).ConfigureAwait(false)) return;
        var name = requestStream.Current.Lease;
        var (host, id) = machines.Resolve(name, Names.Leases, "lease");
        var lease = host.Leases.Get(id);
        using var either = CancellationTokenSource.CreateLinkedTokenSource(
            context.CancellationToken, lease.Ended, lifetime.ApplicationStopping);
        try
        {
            do
            {
                if (requestStream.Current.Lease != name)
                    throw Refusals.Bad("lease", "stays the same within a stream");
                if (!lease.Renew()) throw LeaseRegistry.Gone(lease.Name);
                await responseStream.WriteAsync(
                    new KeepAliveResponse { Left = WireTimes.ToWire(lease.Left) }, either.Token).ConfigureAwait(false);
            }
            while (await requestStream.MoveNext(either.Token).ConfigureAwait(false));
        }
        catch (OperationCanceledException) when (lifetime.ApplicationStopping.IsCancellationRequested)
        {
            throw Refusals.Unavailable("SHUTTING_DOWN", "the daemon is ending");
        }
        catch (Exception exception)
            when (exception is OperationCanceledException or RpcException && lease.Ended.IsCancellationRequested)
        {
            throw LeaseRegistry.Gone(lease.Name);
        }
    }

    public override Task<CloseLeaseResponse> CloseLease(CloseLeaseRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.Name, Names.Leases, "name");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var (vectors, pages) = host.Leases.Close(host.Leases.Get(id));
            return Task.FromResult(
                new CloseLeaseResponse { FrameVectors = (uint)vectors, PinnedPages = (ulong)pages });
        });
    }

    public override Task<V1.Lease> GetLease(GetLeaseRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.Name, Names.Leases, "name");
        return Task.FromResult(WireMapping.ToWire(host.Leases.Get(id)));
    }

    public override Task<ListLeasesResponse> ListLeases(ListLeasesRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        var (page, next) = Paging.ByNumber(
            host.Leases.All, lease => lease.Number,
            new PageRequest(Names.Collection(host.Id, Names.Leases), request.PageSize, request.PageToken),
            options.Limits);
        var response = new ListLeasesResponse { NextPageToken = next };
        response.Leases.Add(page.Select(WireMapping.ToWire));
        return Task.FromResult(response);
    }
}
