using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class AddressSpaceService
{
    public override Task<ListAddressSpacesResponse> ListAddressSpaces(
        ListAddressSpacesRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Parent, Right.Read, "parent");
        var list = Names.Collection(host.Id, Names.AddressSpaces);
        var (page, next) = Paging.ByNumber(
            host.Spaces.All.OrderBy(space => space.Thing.Value), space => (ulong)space.Thing.Value,
            new PageRequest(list, request.PageSize, request.PageToken), options.Limits);
        var response = new ListAddressSpacesResponse { NextPageToken = next };
        response.AddressSpaces.Add(page.Select(space => Views.Find(host, space)).OfType<AddressSpace>());
        return Task.FromResult(response);
    }
}
