using FramePin.Server.Drivers;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class DriverService
{
    public override Task<ListDriversResponse> ListDrivers(ListDriversRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Parent, Right.Read, "parent");
        var list = Names.Collection(host.Id, Names.Drivers);
        var (page, next) = Paging.ByName(
            drivers.Of(host), driver => driver.Node, new PageRequest(list, request.PageSize, request.PageToken),
            options.Limits);
        var response = new ListDriversResponse { NextPageToken = next };
        response.Drivers.Add(page.Select(driver => new Driver
        {
            Name = DriverRegistry.NameOf(driver),
            Driver_ = driver.Driver,
            OpenFiles = (uint)driver.Files.Count,
            Calls = (ulong)driver.Answered,
        }));
        return Task.FromResult(response);
    }
}
