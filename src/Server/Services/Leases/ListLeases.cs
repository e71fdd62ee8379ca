using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class LeaseService
{
    public override Task<ListLeasesResponse> ListLeases(ListLeasesRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Parent, Right.Read, "parent");
        var list = Names.Collection(host.Id, Names.Leases);
        var (page, next) = Paging.ByNumber(
            host.Leases.All, lease => lease.Number, new PageRequest(list, request.PageSize, request.PageToken),
            options.Limits);
        var response = new ListLeasesResponse { NextPageToken = next };
        response.Leases.Add(page.Select(Views.Of));
        return Task.FromResult(response);
    }
}
