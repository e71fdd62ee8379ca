using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    public override Task<ListFrameVectorsResponse> ListFrameVectors(
        ListFrameVectorsRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Parent, Right.Read, "parent");
        var list = Names.Collection(host.Id, Names.FrameVectors);
        var (page, next) = Paging.ByNumber(
            host.Vectors.All, record => record.Number, new PageRequest(list, request.PageSize, request.PageToken),
            options.Limits);
        var response = new ListFrameVectorsResponse { NextPageToken = next };
        response.FrameVectors.Add(page.Select(record => Views.Of(host, record, withRuns: false, options.Limits)));
        return Task.FromResult(response);
    }
}
