using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class FileService
{
    public override Task<ListFilesResponse> ListFiles(ListFilesRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Parent, Right.Read, "parent");
        var list = Names.Collection(host.Id, Names.Files);
        var (page, next) = Paging.ByNumber(
            host.Files.All.OrderBy(file => file.Thing.Value), file => (ulong)file.Thing.Value,
            new PageRequest(list, request.PageSize, request.PageToken), options.Limits);
        var response = new ListFilesResponse { NextPageToken = next };
        response.Files.Add(page.Select(file => Views.Find(host, file)).OfType<V1.File>());
        return Task.FromResult(response);
    }
}
