using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MachineService
{
    public override Task<ListMachinesResponse> ListMachines(ListMachinesRequest request, ServerCallContext context)
    {
        var (page, next) = Paging.ByName(
            machines.AllFor(context), host => host.Id,
            new PageRequest(Names.Machines, request.PageSize, request.PageToken), options.Limits);
        var response = new ListMachinesResponse { NextPageToken = next };
        response.Machines.Add(page.Select(Views.Find).OfType<Machine>());
        return Task.FromResult(response);
    }
}
