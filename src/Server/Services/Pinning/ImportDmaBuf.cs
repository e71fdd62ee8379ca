using System.Diagnostics;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>
    /// A frame vector of its own over the pages of a dma-buf, as dma_buf_get takes a reference (drivers/dma-buf).
    /// </summary>
    public override Task<ImportDmaBufResponse> ImportDmaBuf(ImportDmaBufRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(context, request.Name, Right.Use, "name");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            using var pin = pins.Begin(Activity.Current);
            var source = host.Vectors.Get(number);
            pin.Import(new PinScope(host, host.Leases.Find(request.Lease), null), source);
            var response = new ImportDmaBufResponse
            {
                FrameVector = pin.Record.Name,
                Frames = (ulong)pin.Record.Vector.Count,
                Runs = WireFrames.ToRuns(pin.Record.Vector, options.Limits),
            };
            pin.Commit();
            pin.GiveBackWhenLost(context, request.RequestId);
            return Task.FromResult(response);
        });
    }
}
