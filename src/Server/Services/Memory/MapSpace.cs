using FramePin.Core.Abi;
using FramePin.Core.Access;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MemoryService
{
    /// <summary>
    /// Faults a range of an address space in, and holds its frames for a local process that maps them
    /// (Core/Access/AccessCommands.cs: HoldRangeCall).
    /// </summary>
    public override Task<MapSpaceResponse> MapSpace(MapSpaceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(
            context, request.AddressSpace, Names.AddressSpaces, Right.Use, "address_space");
        return host.Requests.Run(
            context, request.RequestId, request, cancelled => MapSpaceOnce(host, id, request, cancelled));
    }

    private async Task<MapSpaceResponse> MapSpaceOnce(
        MachineHost host, string spaceId, MapSpaceRequest request, CancellationToken cancelled)
    {
        var attachment = FindAttachment(host, request.Attachment, "address_space");
        if ((request.Start & 4095) != 0) throw Refusals.Bad("start", "must be a multiple of 4096");
        if (request.Pages == 0) throw Refusals.Bad("pages", "must be at least 1");
        if (request.Pages > options.Limits.TouchPagesMax)
            throw Refusals.Limit("touch_pages_max", options.Limits.TouchPagesMax, request.Pages);
        var space = host.Spaces.Get(spaceId).Thing;
        var call = new HoldRangeCall(space, request.Start, (long)request.Pages, request.Write);
        while (true)
        {
            var (hold, signal, failedAt) =
                await host.Commands.RunAsync<HoldRangeCall, HoldRangeResult>(call).ConfigureAwait(false);
            // A caller that gave up learns of no hold.
            if (hold is not null && cancelled.IsCancellationRequested) host.Machine.ReleaseHold(hold);
            cancelled.ThrowIfCancellationRequested();
            if (hold is not null)
                return new MapSpaceResponse { Hold = attachment.Hold(hold), Runs = WireFrames.ToRuns(hold.Runs) };
            if (signal != UserSignal.WaitsForHandler) throw Refusals.Signal(signal, failedAt);
            await host.Faults.WaitAsync(space, failedAt, cancelled).ConfigureAwait(false);
        }
    }
}
