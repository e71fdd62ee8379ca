using System.Diagnostics;
using FramePin.Server.Configuration;
using FramePin.Server.LocalMemory;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Telemetry;
using Grpc.Core;

namespace FramePin.Server.Services;

/// <summary>The frame helper over the wire; one file a call.</summary>
internal sealed partial class PinningService(
    MachineRegistry machines, Attachments attachments, PinTransactions pins, ServerTelemetry telemetry,
    DaemonOptions options)
    : V1.PinningService.PinningServiceBase
{
    /// <summary>The machine of a frame vector's name, and the vector's number.</summary>
    private (MachineHost Host, ulong Number) ResolveVector(
        ServerCallContext context, string name, Right right, string field)
    {
        var (host, id) = machines.Resolve(context, name, Names.FrameVectors, right, field);
        return (host, Names.Number(id, field));
    }

    /// <summary>The attachment of a request's field; null when it is empty.</summary>
    private Attachment? FindAttachment(MachineHost host, string name)
    {
        if (name.Length == 0) return null;
        return FindLive(host, name) ?? throw Attachments.Gone(name);
    }

    /// <summary>
    /// The attachment whose holds an unpin gives back; null when it has ended. Refuses that of another machine, which
    /// the caller may have no right to.
    /// </summary>
    private Attachment? FindLive(MachineHost host, string name)
    {
        var attachment = attachments.Find(name);
        return attachment is null || attachment.Host == host
            ? attachment
            : throw Refusals.Bad("attachment", "belongs to another machine");
    }

    /// <summary>The span of the call points at the span that acquired the pin.</summary>
    private static void LinkTo(VectorRecord record, Activity? span)
    {
        if (span is not { IsAllDataRequested: true }) return;
        ActivityContext trace;
        lock (record.Gate) trace = record.Origin.Trace;
        if (trace == default) return;
        span.AddLink(new ActivityLink(trace));
        span.SetTag(TelemetryNames.FrameVector, (long)record.Number);
    }
}
