using FramePin.Core.Inspection;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>The struct pages of a vector's frames (Core/Inspection/FrameQueries.cs).</summary>
    public override Task<GetPagesResponse> GetPages(GetPagesRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(context, request.FrameVector, Right.Read, "frame_vector");
        var most = options.Limits.PagesPerAnswer;
        if (request.Count > most) throw Refusals.Limit("pages_per_answer", most, request.Count);
        var record = host.Vectors.Get(number);
        var response = new GetPagesResponse();
        lock (record.Gate)
        {
            var count = (int)(request.Count == 0 ? most : request.Count);
            var first = (long)Math.Min(request.First, long.MaxValue);
            var query = new VectorPagesQuery(record.Content, first, count);
            foreach (var page in host.Machine.Query<VectorPagesQuery, IReadOnlyList<PageView>>(query))
                response.Pages.Add(ToWire(page));
        }

        return Task.FromResult(response);
    }

    private static Page ToWire(PageView view)
    {
        var page = new Page
        {
            Pfn = view.Pfn.Value,
            HasPage = view.HasPage,
            HeadPfn = view.Head.Value,
            Order = (uint)view.Order,
            RefCount = view.RefCount,
            PinCount = view.PinCount,
            MapCount = view.MapCount,
            MaybeDmaPinned = view.MaybeDmaPinned,
        };
        foreach (var flag in Enum.GetValues<Core.Frames.FrameFlags>())
            if (flag != 0 && (view.Flags & flag) != 0) page.Flags.Add(flag.ToString());
        return page;
    }
}
