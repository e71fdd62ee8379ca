using FramePin.Core.Inspection;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class AddressSpaceService
{
    /// <summary>/proc/PID/pagemap (Core/Inspection/PagemapQuery.cs).</summary>
    public override Task<GetPagemapResponse> GetPagemap(GetPagemapRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(
            context, request.AddressSpace, Names.AddressSpaces, Right.Read, "address_space");
        if ((request.Start & 0xfff) != 0) throw Refusals.Bad("start", "must be a multiple of 4096");
        if (request.Pages > options.Limits.PagemapPagesMax)
            throw Refusals.Limit("pagemap_pages_max", options.Limits.PagemapPagesMax, request.Pages);
        if (request.Start > host.Machine.TaskSize) throw Refusals.Bad("start", "lies above the user address space");
        var query = new PagemapQuery(host.Spaces.Get(id).Thing, request.Start, (int)request.Pages);
        var response = new GetPagemapResponse();
        response.Entries.AddRange(host.Machine.Query<PagemapQuery, ulong[]>(query));
        return Task.FromResult(response);
    }
}
