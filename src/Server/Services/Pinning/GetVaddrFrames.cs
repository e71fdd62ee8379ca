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
    /// <summary>get_vaddr_frames into an empty vector (Core/Pinning/VaddrFrames.cs).</summary>
    public override Task<GetVaddrFramesResponse> GetVaddrFrames(
        GetVaddrFramesRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(context, request.FrameVector, Right.Use, "frame_vector");
        return host.Requests.Run(context, request.RequestId, request, async cancelled =>
        {
            using var pin = pins.Begin(Activity.Current);
            var range = new PinRange(
                host.Spaces.Get(request.AddressSpace, "address_space"), request.Start, request.Pages,
                WireMapping.PinFlags(request.Write, request.Force), Activity.Current?.Context ?? default);
            pin.Reuse(host, host.Vectors.Get(number), request.Pages);
            var outcome = await pin.FillAsync(range, cancelled).ConfigureAwait(false);
            if (outcome.Result.Error != Errno.None) throw PinTransaction.Refused(range, outcome);
            var response = new GetVaddrFramesResponse
            {
                Frames = (ulong)pin.Record.Vector.Count,
                Kind = WireFrames.KindOf(pin.Record.Vector),
                StopReason = WireEnums.ToWire(outcome.Reason),
                Runs = request.OmitFrames ? null : WireFrames.ToRuns(pin.Record.Vector, options.Limits),
                Epoch = (ulong)outcome.Epoch,
                Retries = (uint)outcome.Retries,
            };
            pin.Commit();
            return response;
        });
    }
}
