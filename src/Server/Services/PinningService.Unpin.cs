using System.Diagnostics;
using System.Globalization;
using FramePin.Server.Configuration;
using FramePin.Server.LocalMemory;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.Server.Telemetry;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

/// <summary>The frame helper over the wire; one file a call.</summary>
internal sealed partial class PinningService(
    MachineRegistry machines, Attachments attachments,
    PinTransactions pins, ServerTelemetry telemetry, DaemonOptions options)
    : V1.PinningService.PinningServiceBase
{
    /// <summary>put_vaddr_frames and frame_vector_destroy (Core/Pinning/FrameVectors.cs).</summary>
    public override Task<UnpinResponse> Unpin(UnpinRequest request, ServerCallContext context)
    {
        var (host, number) = ResolveVector(request.FrameVector, "frame_vector");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            // Given back whatever becomes of the vector: it is unmapped.
            if (request.Hold != 0) attachments.Find(request.Attachment)?.Release(request.Hold);
            var record = host.Vectors.Get(number);
            LinkTo(record);
            if (!host.Vectors.Release(record, request.Dirty, out var frames)) throw record.NotReady();
            Activity.Current?.SetTag(TelemetryNames.PagesReleased, frames);
            telemetry.CountReleased(frames);
            return Task.FromResult(new UnpinResponse { Frames = (ulong)frames });
        });
    }

    /// <summary>The span of the call points at the span that acquired the pin.</summary>
    private static void LinkTo(VectorRecord record)
    {
        if (Activity.Current is not { IsAllDataRequested: true } span) return;
        ActivityContext trace;
        lock (record.Gate) trace = record.Origin.Trace;
        if (trace == default) return;
        span.AddLink(new ActivityLink(trace));
        span.SetTag(TelemetryNames.FrameVector, (long)record.Number);
    }

    private (MachineHost Host, ulong Number) ResolveVector(string name, string field)
    {
        var (host, id) = machines.Resolve(name, Names.FrameVectors, field);
        return ulong.TryParse(id, NumberStyles.None, CultureInfo.InvariantCulture, out var number)
            ? (host, number)
            : throw Refusals.Bad(field, "the last segment of a frame vector's name is its number");
    }
}
