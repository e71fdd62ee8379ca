using System.Globalization;
using FramePin.Server.Mapping;
using FramePin.Server.Telemetry;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;
using GupCall = FramePin.Core.Pinning.GupCall;
using LockedArgument = FramePin.Core.Pinning.LockedArgument;

namespace FramePin.Server.Services;

/// <summary>The kernel's four calls one by one, raw GUP, and looks at vectors.</summary>
internal sealed partial class PinningService
{
    private const int PagesPerAnswer = 1024;

    public override Task<FrameVector> CreateFrameVector(CreateFrameVectorRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        return host.Requests.Run(nameof(CreateFrameVector), request.RequestId, request, () =>
        {
            var lease = leases.Find(request.Lease);
            var record = host.CreateVector(request.Frames);
            record.Lease = lease;
            host.Publish(record);
            return Task.FromResult(WireMapping.ToWire(host, record, withRuns: false, options.Limits));
        });
    }

    public override Task<PinResponse> GetVaddrFrames(GetVaddrFramesRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(request.FrameVector, "frame_vector");
        var (other, spaceId) = machines.Resolve(request.AddressSpace, Names.AddressSpaces, "address_space");
        if (other != host) throw Refusals.Bad("address_space", "belongs to another machine than the frame vector");
        return host.Requests.Run(nameof(GetVaddrFrames), request.RequestId, request, async () =>
        {
            var space = host.Space(spaceId);
            var record = Find(host, number);
            lock (record.Gate)
            {
                if (record.IsDestroyed || record.IsFilling) throw host.NotReady(record);
                if (record.Vector.Count > 0 && request.Pages > 0)
                    throw Refusals.State(
                        "VECTOR_NOT_EMPTY", "the vector holds frames, which a second get would leak: put them first");
                record.IsFilling = true;
            }

            try
            {
                var flags = WireMapping.PinFlags(request.Write, request.Force);
                var trace = PinTrace.Begin(System.Diagnostics.Activity.Current);
                var outcome = await Fill(
                    host, record, space, request.Start, Math.Min(request.Pages, long.MaxValue), flags, trace,
                    context.CancellationToken).ConfigureAwait(false);
                if (outcome.Result.Error != Errno.None) throw Refused(outcome, request.Start, request.Pages);
                TelemetryNames.PinnedPages.Add(outcome.Result.Pages);
                return Answer(host, record, outcome, request.OmitFrames);
            }
            finally
            {
                record.IsFilling = false;
                // The lease could not release what was being filled.
                if (record.Lease is { Ended.IsCancellationRequested: true }) host.Release(record, dirty: false, out _);
            }
        });
    }

    public override Task<FrameVector> PutVaddrFrames(PutVaddrFramesRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(request.FrameVector, "frame_vector");
        return host.Requests.Run(nameof(PutVaddrFrames), request.RequestId, request, () =>
        {
            var record = Find(host, number);
            lock (record.Gate)
            {
                if (record.IsDestroyed || record.IsFilling) throw host.NotReady(record);
                LinkTo(record);
                TelemetryNames.ReleasedPages.Add(record.Vector.Count);
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
        return host.Requests.Run(nameof(DestroyFrameVector), request.RequestId, request, () =>
        {
            var record = Find(host, number);
            lock (record.Gate)
            {
                if (record.Vector.Count > 0)
                    throw Refusals.State(
                        "VECTOR_NOT_EMPTY", "frame_vector_destroy wants an empty vector: put its frames first");
            }

            if (!host.Release(record, dirty: false, out _)) throw host.NotReady(record);
            return Task.FromResult(new DestroyFrameVectorResponse());
        });
    }

    public override Task<FrameVector> GetFrameVector(GetFrameVectorRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(request.Name, "name");
        return Task.FromResult(WireMapping.ToWire(host, Find(host, number), !request.OmitFrames, options.Limits));
    }

    public override Task<ListFrameVectorsResponse> ListFrameVectors(
        ListFrameVectorsRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        if (request.PageSize > 1000) throw Refusals.Limit("page_size", 1000, request.PageSize);
        var size = request.PageSize == 0 ? 100 : (int)request.PageSize;
        var after = 0UL;
        if (request.PageToken.Length > 0
            && !ulong.TryParse(request.PageToken, NumberStyles.None, CultureInfo.InvariantCulture, out after))
            throw Refusals.Bad("page_token", "is not one that this call has given out");
        var found = host.VectorsAfter(after, size);
        var response = new ListFrameVectorsResponse();
        foreach (var record in found)
            response.FrameVectors.Add(WireMapping.ToWire(host, record, withRuns: false, options.Limits));
        if (found.Count == size) response.NextPageToken = found[^1].Number.ToString(CultureInfo.InvariantCulture);
        return Task.FromResult(response);
    }

    public override Task<PinResponse> Gup(GupRequest request, ServerCallContext context)
    {
        var (host, spaceId) = machines.Resolve(request.AddressSpace, Names.AddressSpaces, "address_space");
        if (request.Function is GupFunction.Unspecified or > GupFunction.GetUserPagesFastOnly)
            throw Refusals.Bad("function", "must name one of the GUP calls");
        return host.Requests.Run(nameof(Gup), request.RequestId, request, async () =>
        {
            var space = host.Space(spaceId);
            var lease = leases.Find(request.Lease);
            var record = host.CreateVector(request.Pages);
            record.Lease = lease;
            var call = (GupCall)(request.Function - 1);
            var outcome = host.Machine.Gup(
                space, call, request.Start, (long)request.Pages, (Core.Abi.GupFlags)request.Flags, LockedArgument.Held,
                record.Vector);
            if (outcome.Parked is { } parked)
            {
                using var expiry = new CancellationTokenSource(options.Limits.DefaultDeadline, time);
                using var either = CancellationTokenSource.CreateLinkedTokenSource(
                    context.CancellationToken, expiry.Token, lease?.Ended ?? default);
                outcome = await host.WaitAsync(parked, either.Token).ConfigureAwait(false);
                if (context.CancellationToken.IsCancellationRequested)
                {
                    // Whoever gave the call up learns of no vector.
                    host.Release(record, dirty: false, out _);
                    throw new OperationCanceledException(context.CancellationToken);
                }
            }

            record.Space = space;
            record.Start = request.Start;
            record.PinnedAt = time.GetUtcNow();
            record.Trace = System.Diagnostics.Activity.Current?.Context ?? default;
            if (outcome.Result.Error != Errno.None)
            {
                host.Release(record, dirty: false, out _);
                throw Refusals.Errno(
                    request.Function.ToString(), outcome.Result.Error, ("stop_reason", outcome.Reason.ToString()));
            }

            host.Publish(record);
            return Answer(host, record, outcome, request.OmitFrames);
        });
    }

    public override Task<GetPagesResponse> GetPages(GetPagesRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(request.FrameVector, "frame_vector");
        if (request.Count > PagesPerAnswer) throw Refusals.Limit("pages_per_answer", PagesPerAnswer, request.Count);
        var record = Find(host, number);
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
        return host.Requests.Run(
            nameof(ResumePins), request.RequestId, request,
            () => Task.FromResult(new ResumePinsResponse { Resumed = (uint)host.ResumeAll() }));
    }

    private static Page ToWire(Core.Machines.PageView view)
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
