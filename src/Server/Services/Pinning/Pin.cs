using System.Diagnostics;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;
using GupResult = FramePin.Core.Pinning.GupResult;
using PinnableQuery = FramePin.Core.Pinning.PinnableQuery;
using PinOutcome = FramePin.Core.Pinning.PinOutcome;
using PinRange = FramePin.Server.Machines.PinRange;
using StopReason = FramePin.Core.Pinning.StopReason;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>frame_vector_create and get_vaddr_frames (Core/Pinning/VaddrFrames.cs).</summary>
    public override Task<PinResponse> Pin(PinRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(
            context, request.AddressSpace, Names.AddressSpaces, Right.Use, "address_space");
        return host.Requests.Run(
            context, request.RequestId, request,
            (Service: this, Host: host, Id: id, Request: request, Context: context),
            static (call, cancelled) => call.Service.PinOnce(
                call.Host, call.Id, call.Request, call.Context, cancelled));
    }

    private async Task<PinResponse> PinOnce(
        MachineHost host, string spaceId, PinRequest request, ServerCallContext context,
        CancellationToken cancelled)
    {
        using var pin = pins.Begin(Activity.Current);
        var range = new PinRange(
            host.Spaces.Get(spaceId), request.Start, request.Pages, WireMapping.PinFlags(request.Write, request.Force),
            Activity.Current?.Context ?? default);
        var scope = new PinScope(host, host.Leases.Find(request.Lease), FindAttachment(host, request.Attachment));
        if (request.AllOrNothing) CheckWhole(host, range);
        pin.Create(scope, request.Pages);
        var outcome = await pin.FillAsync(range, cancelled).ConfigureAwait(false);
        var isShort = outcome.Result.Pages != (long)request.Pages;
        if (outcome.Result.Error != Errno.None || (isShort && request.AllOrNothing))
            throw PinTransaction.Refused(range, outcome);
        var response = new PinResponse
        {
            FrameVector = pin.Record.Name,
            Frames = (ulong)pin.Record.Vector.Count,
            Kind = WireFrames.KindOf(pin.Record.Vector),
            StopReason = WireEnums.ToWire(outcome.Reason),
            Runs = request.OmitFrames ? null : WireFrames.ToRuns(pin.Record.Vector, options.Limits),
            Epoch = (ulong)outcome.Epoch,
            Retries = (uint)outcome.Retries,
            Hold = pin.Hold(),
        };
        pin.Commit();
        pin.GiveBackWhenLost(context, request.RequestId);
        return response;
    }

    /// <summary>
    /// Refuses a range that cannot be pinned whole before a page is faulted in for it, so that the refusal leaves
    /// nothing behind.
    /// </summary>
    private void CheckWhole(MachineHost host, in PinRange range)
    {
        if (range.Pages > options.Limits.VectorPagesMax) return;
        var query = new PinnableQuery(range.Space!.Thing, range.Start, (long)range.Pages, range.Flags);
        var (pages, reason) = host.Machine.Query<PinnableQuery, (long, StopReason)>(query);
        // None at all is an errno, which the pin itself answers.
        if (pages == 0 || pages == (long)range.Pages) return;
        throw PinTransaction.Refused(range, new PinOutcome { Result = GupResult.Of(pages), Reason = reason });
    }
}
