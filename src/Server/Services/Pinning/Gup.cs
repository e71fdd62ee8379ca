using System.Diagnostics;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;
using PinRange = FramePin.Server.Machines.PinRange;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>A raw call of mm/gup.c (Core/Pinning/GupCalls.cs).</summary>
    public override Task<GupResponse> Gup(GupRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(
            context, request.AddressSpace, Names.AddressSpaces, Right.Use, "address_space");
        var call = WireEnums.ToCore(request.Function, "function");
        return host.Requests.Run(context, request.RequestId, request, async cancelled =>
        {
            using var pin = pins.Begin(Activity.Current);
            var range = new PinRange(
                host.Spaces.Get(id), request.Start, request.Pages, (Core.Abi.GupFlags)request.Flags,
                Activity.Current?.Context ?? default, call);
            pin.Create(new PinScope(host, host.Leases.Find(request.Lease), null), request.Pages);
            var outcome = await pin.FillAsync(range, cancelled).ConfigureAwait(false);
            if (outcome.Result.Error != Errno.None) throw PinTransaction.Refused(range, outcome);
            var response = new GupResponse
            {
                FrameVector = pin.Record.Name,
                Frames = (ulong)pin.Record.Vector.Count,
                Kind = WireFrames.KindOf(pin.Record.Vector),
                StopReason = WireEnums.ToWire(outcome.Reason),
                Runs = request.OmitFrames ? null : WireFrames.ToRuns(pin.Record.Vector, options.Limits),
                Epoch = (ulong)outcome.Epoch,
                Retries = (uint)outcome.Retries,
            };
            pin.Commit();
            pin.GiveBackWhenLost(context, request.RequestId);
            return response;
        });
    }
}
