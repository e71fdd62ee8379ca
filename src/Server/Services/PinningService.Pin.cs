using System.Diagnostics;
using System.Globalization;
using FramePin.Core.Machines;
using FramePin.Server.LocalMemory;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.Server.Telemetry;
using FramePin.V1;
using Grpc.Core;
using AddressSpace = FramePin.Core.Vmas.AddressSpace;
using PinOutcome = FramePin.Core.Machines.PinOutcome;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>frame_vector_create and get_vaddr_frames (Core/Pinning/VaddrFrames.cs).</summary>
    public override Task<PinResponse> Pin(PinRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.AddressSpace, Names.AddressSpaces, "address_space");
        return host.Requests.Run(nameof(Pin), request.RequestId, request, () => PinOnce(host, id, request, context));
    }

    private async Task<PinResponse> PinOnce(
        MachineHost host, string spaceId, PinRequest request, ServerCallContext context)
    {
        var span = Activity.Current;
        var trace = PinTrace.Begin(span);
        var space = host.Space(spaceId);
        var lease = leases.Find(request.Lease);
        var attachment = FindAttachment(host, request.Attachment);
        var flags = WireMapping.PinFlags(request.Write, request.Force);
        if (request.AllOrNothing) CheckWhole(host, space, request, flags);
        var record = host.CreateVector(request.Pages);
        record.Lease = lease;
        PinOutcome outcome;
        try
        {
            outcome = await Fill(
                host, record, space, request.Start, request.Pages, flags, trace, context.CancellationToken)
                .ConfigureAwait(false);
        }
        catch
        {
            host.Release(record, dirty: false, out _);
            throw;
        }

        Tag(span, host, space, request.Pages, record, outcome);
        var isShort = outcome.Result.Pages != (long)request.Pages;
        if (outcome.Result.Error != Core.Abi.Errno.None || (isShort && request.AllOrNothing))
        {
            host.Release(record, dirty: false, out _);
            throw Refused(outcome, request.Start, request.Pages);
        }

        PinResponse response;
        try
        {
            response = Answer(host, record, outcome, request.OmitFrames);
            if (attachment is not null && record.Vector.GotRef) response.Hold = attachment.Hold(record);
        }
        catch (RpcException)
        {
            // The answer would be too long to send, or the attachment has ended: nobody would know what to unpin.
            host.Release(record, dirty: false, out _);
            throw;
        }

        try
        {
            host.Publish(record);
        }
        catch (RpcException)
        {
            // The lease has ended, and the vector is gone with it.
            if (response.Hold != 0) attachment!.Release(response.Hold);
            throw;
        }

        TelemetryNames.PinnedPages.Add(outcome.Result.Pages);
        trace?.End();
        return response;
    }

    /// <summary>The attachment of a request's field; null when it is empty.</summary>
    private Attachment? FindAttachment(MachineHost host, string name)
    {
        if (name.Length == 0) return null;
        var attachment = attachments.Get(Names.AttachmentId(name, "attachment"));
        return attachment.Host == host ? attachment : throw Refusals.Bad("attachment", "belongs to another machine");
    }

    /// <summary>
    /// Refuses what cannot be pinned whole before a page is faulted in for it, so that the refusal leaves nothing
    /// behind.
    /// </summary>
    private void CheckWhole(MachineHost host, AddressSpace space, PinRequest request, Core.Abi.GupFlags flags)
    {
        if (request.Pages > options.Limits.VectorPagesMax) return;
        var pages = host.Machine.CountPinnable(space, request.Start, (long)request.Pages, flags, out var reason);
        // None at all is an errno, which the pin itself answers.
        if (pages == 0 || pages == (long)request.Pages) return;
        var outcome = new PinOutcome { Result = Core.Pinning.GupResult.Of(pages), Reason = reason };
        throw Refused(outcome, request.Start, request.Pages);
    }

    /// <summary>Fills a vector, waiting where the pin parks, and notes who did it.</summary>
    private async Task<PinOutcome> Fill(
        MachineHost host, VectorRecord record, AddressSpace space, ulong start, ulong pages, Core.Abi.GupFlags flags,
        PinTrace? trace, CancellationToken cancelled)
    {
        record.Space = space;
        record.Start = start;
        record.IsWrite = (flags & Core.Abi.GupFlags.Write) != 0;
        record.PinnedAt = time.GetUtcNow();
        record.Trace = Activity.Current?.Context ?? default;
        var outcome = host.Machine.GetVaddrFrames(space, start, (long)pages, flags, record.Vector, trace);
        if (outcome.Parked is { } parked)
        {
            record.IsFilling = true;
            // A call without a deadline of its own does not wait for ever: the daemon's default ends it.
            using var expiry = new CancellationTokenSource(options.Limits.DefaultDeadline, time);
            using var either = CancellationTokenSource.CreateLinkedTokenSource(
                cancelled, expiry.Token, record.Lease?.Ended ?? default);
            outcome = await host.WaitAsync(parked, either.Token).ConfigureAwait(false);
            record.IsFilling = false;
            // Whoever gave the call up learns of no vector: what it has by now is given back.
            cancelled.ThrowIfCancellationRequested();
            if (host.IsStopping && outcome.Result.Error == Core.Abi.Errno.EINTR)
                throw Refusals.Unavailable("SHUTTING_DOWN", "the daemon is ending and nobody will resume this pin");
        }

        record.Epoch = outcome.Epoch;
        return outcome;
    }

    private static void Tag(
        Activity? span, MachineHost host, AddressSpace space, ulong asked, VectorRecord record, PinOutcome outcome)
    {
        if (span is not { IsAllDataRequested: true }) return;
        span.SetTag(TelemetryNames.Machine, host.Id);
        span.SetTag(TelemetryNames.AddressSpace, space.Name);
        span.SetTag(TelemetryNames.Profile, host.Machine.Profile.Name);
        span.SetTag(TelemetryNames.PagesRequested, (long)asked);
        span.SetTag(TelemetryNames.PagesPinned, outcome.Result.Pages);
        span.SetTag(TelemetryNames.Runs, record.Vector.RunCount);
        span.SetTag(TelemetryNames.FrameVector, (long)record.Number);
        span.SetTag(TelemetryNames.FrameKind, WireMapping.KindOf(record.Vector).ToString());
        span.SetTag(TelemetryNames.StopReason, outcome.Reason.ToString());
        span.SetTag(TelemetryNames.Errno, outcome.Result.Error.ToString());
        span.SetTag(TelemetryNames.Retries, outcome.Retries);
        span.SetTag(TelemetryNames.Epoch, outcome.Epoch);
    }

    private static RpcException Refused(PinOutcome outcome, ulong start, ulong asked)
    {
        var stoppedAt = (start & ~0xfffUL) + ((ulong)outcome.Result.Pages << 12);
        (string, string)[] metadata =
        [
            ("address", $"0x{stoppedAt:x}"), ("stop_reason", outcome.Reason.ToString()),
            ("pages", outcome.Result.Pages.ToString(CultureInfo.InvariantCulture)),
            ("pages_asked", asked.ToString(CultureInfo.InvariantCulture)),
        ];
        if (outcome.Result.Error == Core.Abi.Errno.None)
            return Refusals.State(
                "PARTIAL_PIN",
                $"only {outcome.Result.Pages} of {asked} pages could be pinned: {outcome.Reason} at 0x{stoppedAt:x}",
                metadata);
        CountRefused(outcome);
        return Refusals.Errno("get_vaddr_frames", outcome.Result.Error, metadata);
    }

    private static void CountRefused(PinOutcome outcome) =>
        TelemetryNames.RefusedPins.Add(
            1, new KeyValuePair<string, object?>(TelemetryNames.Errno, outcome.Result.Error.ToString()));

    private PinResponse Answer(MachineHost host, VectorRecord record, PinOutcome outcome, bool omitFrames) => new()
    {
        FrameVector = host.VectorName(record.Number),
        Frames = (ulong)record.Vector.Count,
        Kind = WireMapping.KindOf(record.Vector),
        StopReason = WireMapping.ToWire(outcome.Reason),
        Runs = omitFrames ? null : WireMapping.ToRuns(record.Vector, options.Limits),
        Epoch = (ulong)outcome.Epoch,
        Retries = (uint)outcome.Retries,
    };
}
