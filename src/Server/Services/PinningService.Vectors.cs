using System.Diagnostics;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;
using PinRange = FramePin.Server.Machines.PinRange;

namespace FramePin.Server.Services;

/// <summary>The kernel's four calls one by one, raw GUP, and looks at vectors.</summary>
internal sealed partial class PinningService
{
    private const int PagesPerAnswer = 1024;

    public override Task<FrameVector> CreateFrameVector(CreateFrameVectorRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var lease = host.Leases.Find(request.Lease);
            var record = host.Vectors.Create(request.Frames, lease);
            host.Vectors.Publish(record);
            return Task.FromResult(WireMapping.ToWire(host, record, withRuns: false, options.Limits));
        });
    }

    public override Task<GetVaddrFramesResponse> GetVaddrFrames(
        GetVaddrFramesRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(request.FrameVector, "frame_vector");
        var (other, spaceId) = machines.Resolve(request.AddressSpace, Names.AddressSpaces, "address_space");
        if (other != host) throw Refusals.Bad("address_space", "belongs to another machine than the frame vector");
        return host.Requests.Run(context, request.RequestId, request, async cancelled =>
        {
            using var pin = pins.Begin(Activity.Current);
            var range = new PinRange(
                host.Spaces.Get(spaceId), request.Start, request.Pages,
                WireMapping.PinFlags(request.Write, request.Force), Activity.Current?.Context ?? default);
            pin.Reuse(host, host.Vectors.Get(number), request.Pages);
            var outcome = await pin.FillAsync(range, cancelled).ConfigureAwait(false);
            if (outcome.Result.Error != Errno.None) throw PinTransaction.Refused(range, outcome);
            var response = new GetVaddrFramesResponse
            {
                Frames = (ulong)pin.Record.Vector.Count,
                Kind = WireMapping.KindOf(pin.Record.Vector),
                StopReason = WireEnums.ToWire(outcome.Reason),
                Runs = request.OmitFrames ? null : WireMapping.ToRuns(pin.Record.Vector, options.Limits),
                Epoch = (ulong)outcome.Epoch,
                Retries = (uint)outcome.Retries,
            };
            pin.Commit();
            return response;
        });
    }

    public override Task<FrameVector> PutVaddrFrames(PutVaddrFramesRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(request.FrameVector, "frame_vector");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var record = host.Vectors.Get(number);
            lock (record.Gate)
            {
                record.CheckReady();
                LinkTo(record);
                telemetry.CountReleased(record.Vector.Count);
                if (request.Dirty) host.Machine.PutVaddrFramesDirty(record.Vector);
                else host.Machine.PutVaddrFrames(record.Vector);
            }

            return Task.FromResult(WireMapping.ToWire(host, record, withRuns: false, options.Limits));
        });
    }

    public override Task<DestroyFrameVectorResponse> DestroyFrameVector(
        DestroyFrameVectorRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(request.FrameVector, "frame_vector");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var record = host.Vectors.Get(number);
            lock (record.Gate)
            {
                if (record.Vector.Count > 0)
                    throw Refusals.State(
                        "VECTOR_NOT_EMPTY", "frame_vector_destroy wants an empty vector: put its frames first");
            }

            if (!host.Vectors.Release(record, dirty: false, out _)) throw record.NotReady();
            return Task.FromResult(new DestroyFrameVectorResponse());
        });
    }

    public override Task<FrameVector> GetFrameVector(GetFrameVectorRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(request.Name, "name");
        return Task.FromResult(WireMapping.ToWire(host, host.Vectors.Get(number), !request.OmitFrames, options.Limits));
    }

    public override Task<ListFrameVectorsResponse> ListFrameVectors(
        ListFrameVectorsRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        var (page, next) = Paging.ByNumber(
            host.Vectors.All, record => record.Number,
            new PageRequest(Names.Collection(host.Id, Names.FrameVectors), request.PageSize, request.PageToken),
            options.Limits);
        var response = new ListFrameVectorsResponse { NextPageToken = next };
        response.FrameVectors.Add(
            page.Select(record => WireMapping.ToWire(host, record, withRuns: false, options.Limits)));
        return Task.FromResult(response);
    }

    public override Task<GupResponse> Gup(GupRequest request, ServerCallContext context)
    {
        var (host, spaceId) = machines.Resolve(request.AddressSpace, Names.AddressSpaces, "address_space");
        var call = WireEnums.ToCore(request.Function, "function");
        return host.Requests.Run(context, request.RequestId, request, async cancelled =>
        {
            using var pin = pins.Begin(Activity.Current);
            var range = new PinRange(
                host.Spaces.Get(spaceId), request.Start, request.Pages, (Core.Abi.GupFlags)request.Flags,
                Activity.Current?.Context ?? default, call);
            pin.Create(new PinScope(host, host.Leases.Find(request.Lease), null), request.Pages);
            var outcome = await pin.FillAsync(range, cancelled).ConfigureAwait(false);
            if (outcome.Result.Error != Errno.None) throw PinTransaction.Refused(range, outcome);
            var response = new GupResponse
            {
                FrameVector = pin.Record.Name,
                Frames = (ulong)pin.Record.Vector.Count,
                Kind = WireMapping.KindOf(pin.Record.Vector),
                StopReason = WireEnums.ToWire(outcome.Reason),
                Runs = request.OmitFrames ? null : WireMapping.ToRuns(pin.Record.Vector, options.Limits),
                Epoch = (ulong)outcome.Epoch,
                Retries = (uint)outcome.Retries,
            };
            pin.Commit();
            return response;
        });
    }

    public override Task<GetPagesResponse> GetPages(GetPagesRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(request.FrameVector, "frame_vector");
        if (request.Count > PagesPerAnswer) throw Refusals.Limit("pages_per_answer", PagesPerAnswer, request.Count);
        var record = host.Vectors.Get(number);
        var response = new GetPagesResponse();
        lock (record.Gate)
        {
            var count = request.Count == 0 ? PagesPerAnswer : (int)request.Count;
            var first = (long)Math.Min(request.First, long.MaxValue);
            foreach (var page in host.Machine.ViewPages(record.Vector, first, count)) response.Pages.Add(ToWire(page));
        }

        return Task.FromResult(response);
    }

    public override Task<ResumePinsResponse> ResumePins(ResumePinsRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Machine, "machine"));
        return host.Requests.Run(context, request.RequestId, request,
            () => Task.FromResult(new ResumePinsResponse { Resumed = (uint)host.Parked.ResumeAll() }));
    }

    private static Page ToWire(Core.Inspection.PageView view)
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
