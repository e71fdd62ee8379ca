using System.Diagnostics;
using FramePin.Core.Machines;
using FramePin.Server.LocalMemory;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.Server.Telemetry;
using FramePin.V1;
using Grpc.Core;
using AddressSpace = FramePin.Core.Vmas.AddressSpace;
using Errno = FramePin.Core.Abi.Errno;
using PinOutcome = FramePin.Core.Machines.PinOutcome;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>Batches of pin, unpin and convert: one span a message, each operation answers for itself.</summary>
    public override async Task PinStream(
        IAsyncStreamReader<PinBatch> requestStream, IServerStreamWriter<PinBatchResult> responseStream,
        ServerCallContext context)
    {
        var parent = Activity.Current?.Context ?? default;
        StreamSession? session = null;
        string? name = null;
        var last = 0UL;
        await foreach (var batch in requestStream.ReadAllAsync(context.CancellationToken).ConfigureAwait(false))
        {
            // 1. The session, named by the first message.
            if (name is null && batch.Session.Length > 0) session = sessions.Get(batch.Session);
            name ??= batch.Session;
            if (batch.Session != name) throw Refusals.Bad("session", "stays the same within a stream");
            CheckSize(batch);

            // 2. Answered before, or new.
            var result = session is null
                ? await RunNext(batch, last, parent, context.CancellationToken).ConfigureAwait(false)
                : await RunInSession(session, batch, parent, context.CancellationToken).ConfigureAwait(false);
            last = batch.Sequence;
            await responseStream.WriteAsync(result, context.CancellationToken).ConfigureAwait(false);
        }
    }

    private void CheckSize(PinBatch batch)
    {
        var most = options.Limits.BatchOperationsMax;
        if (batch.Operations.Count > most)
            throw Refusals.Limit("batch_operations_max", (ulong)most, (ulong)batch.Operations.Count);
    }

    private async Task<PinBatchResult> RunInSession(
        StreamSession session, PinBatch batch, ActivityContext parent, CancellationToken cancelled)
    {
        await session.Gate.WaitAsync(cancelled).ConfigureAwait(false);
        try
        {
            session.Acknowledge(batch.Acknowledged);
            if (batch.Sequence > 0 && batch.Sequence <= session.Last)
                return session.Remembered(batch.Sequence)
                    ?? throw Refusals.Bad("sequence", $"{batch.Sequence} was acknowledged: its result is forgotten");
            session.CheckRoom(options.Limits);
            var result = await RunNext(batch, session.Last, parent, cancelled).ConfigureAwait(false);
            session.Keep(result);
            return result;
        }
        finally
        {
            session.Gate.Release();
        }
    }

    private async Task<PinBatchResult> RunNext(
        PinBatch batch, ulong last, ActivityContext parent, CancellationToken cancelled)
    {
        if (batch.Sequence != last + 1)
            throw Refusals.Bad("sequence", $"messages count up by one: expected {last + 1}, got {batch.Sequence}");
        using var span = TelemetryNames.Activities.StartActivity("PinStream message", ActivityKind.Server, parent);
        span?.SetTag(TelemetryNames.Operations, batch.Operations.Count);
        return await RunBatch(batch, cancelled).ConfigureAwait(false);
    }

    private async Task<PinBatchResult> RunBatch(PinBatch batch, CancellationToken cancelled)
    {
        var scope = ScopeOf(batch);
        var result = new PinBatchResult { Sequence = batch.Sequence };
        result.Results.Capacity = batch.Operations.Count;
        long pinned = 0, released = 0;
        foreach (var operation in batch.Operations)
        {
            var answer = new PinOperationResult();
            switch (operation.OperationCase)
            {
                case PinOperation.OperationOneofCase.Pin:
                    await PinInBatch(scope, operation.Pin, answer, cancelled).ConfigureAwait(false);
                    pinned += (long)answer.Frames;
                    break;
                case PinOperation.OperationOneofCase.Unpin:
                    UnpinInBatch(scope, new UnpinVector { FrameVector = operation.Unpin }, answer);
                    released += (long)answer.Frames;
                    break;
                case PinOperation.OperationOneofCase.UnpinVector:
                    UnpinInBatch(scope, operation.UnpinVector, answer);
                    released += (long)answer.Frames;
                    break;
                case PinOperation.OperationOneofCase.Convert:
                    ConvertInBatch(scope.Host, operation.Convert, answer);
                    break;
                default:
                    throw Refusals.Bad("operations", "an operation is one of pin, unpin, convert, unpin_vector");
            }

            result.Results.Add(answer);
        }

        if (pinned > 0) TelemetryNames.PinnedPages.Add(pinned);
        if (released > 0) TelemetryNames.ReleasedPages.Add(released);
        return result;
    }

    /// <summary>
    /// What the operations of a batch have in common. Throws where the batch names what is not there.
    /// </summary>
    private BatchScope ScopeOf(PinBatch batch)
    {
        if (batch.AddressSpace.Length == 0)
            return new BatchScope(batch, machines.Get(Names.MachineId(batch.Machine, "machine")), null);
        var (host, id) = machines.Resolve(batch.AddressSpace, Names.AddressSpaces, "address_space");
        return new BatchScope(batch, host, host.Space(id));
    }

    /// <summary>
    /// Pins, and answers with the errno or the refusal where that fails. What was held by then is given back.
    /// </summary>
    private async ValueTask PinInBatch(
        BatchScope scope, PinRange range, PinOperationResult answer, CancellationToken cancelled)
    {
        using var span = StartOperation("Pin", range.Traceparent);
        VectorRecord? record = null;
        Attachment? attachment = null;
        try
        {
            var space = SpaceOf(scope, range);
            var lease = leases.Find(scope.Batch.Lease);
            attachment = FindAttachment(scope.Host, scope.Batch.Attachment);
            record = scope.Host.CreateVector(range.Pages);
            record.Lease = lease;
            var flags = WireMapping.PinFlags(range.Write, range.Force);
            var outcome = await Fill(
                scope.Host, record, space, range.Start, range.Pages, flags, null, cancelled).ConfigureAwait(false);
            if (span is null && ActivityContext.TryParse(range.Traceparent, null, isRemote: true, out var own))
                record.Trace = own;
            Tag(span, scope.Host, space, range.Pages, record, outcome);
            answer.StopReason = WireMapping.ToWire(outcome.Reason);
            answer.Errno = (uint)outcome.Result.Error;
            if (outcome.Result.Error == Errno.None)
            {
                if (range.WithFrames) answer.Runs = WireMapping.ToRuns(record.Vector, options.Limits);
                if (attachment is not null && record.Vector.GotRef) answer.Hold = attachment.Hold(record);
                answer.FrameVector = record.Number;
                answer.Frames = (ulong)record.Vector.Count;
                answer.Kind = WireMapping.KindOf(record.Vector);
                scope.Host.Publish(record);
                return;
            }

            CountRefused(outcome);
        }
        catch (RpcException refusal)
        {
            if (answer.Hold != 0) attachment!.Release(answer.Hold);
            (answer.Runs, answer.FrameVector, answer.Frames, answer.Hold) = (null, 0, 0, 0);
            answer.StatusCode = (uint)refusal.StatusCode;
            answer.Message = refusal.Status.Detail;
            span?.SetStatus(ActivityStatusCode.Error, refusal.Status.Detail);
        }
        catch
        {
            if (record is not null) scope.Host.Release(record, dirty: false, out _);
            throw;
        }

        if (record is not null) scope.Host.Release(record, dirty: false, out _);
    }

    private AddressSpace SpaceOf(BatchScope scope, PinRange range)
    {
        if (range.AddressSpace.Length == 0)
            return scope.Space ?? throw Refusals.Bad("address_space", "neither the batch nor the pin names one");
        var (host, id) = machines.Resolve(range.AddressSpace, Names.AddressSpaces, "address_space");
        return host == scope.Host
            ? host.Space(id)
            : throw Refusals.Bad("address_space", "belongs to another machine than the batch");
    }

    private void UnpinInBatch(BatchScope scope, UnpinVector unpin, PinOperationResult answer)
    {
        using var span = StartOperation("Unpin", unpin.Traceparent);
        // Given back whatever becomes of the vector: it is unmapped.
        if (unpin.Hold != 0)
            attachments.Find(Names.AttachmentId(scope.Batch.Attachment, "attachment"))?.Release(unpin.Hold);
        answer.FrameVector = unpin.FrameVector;
        if (scope.Host.TryVector(unpin.FrameVector) is { } record
            && scope.Host.Release(record, unpin.Dirty, out var frames))
        {
            LinkTo(record);
            answer.Frames = (ulong)frames;
        }
        else
        {
            answer.Errno = (uint)Errno.ENOENT;
        }
    }

    /// <summary>A span for an operation that names its caller; otherwise the message's span stands for it.</summary>
    private static Activity? StartOperation(string name, string traceparent) =>
        traceparent.Length > 0 && ActivityContext.TryParse(traceparent, null, isRemote: true, out var parent)
            ? TelemetryNames.Activities.StartActivity(name, ActivityKind.Server, parent)
            : null;

    private static void ConvertInBatch(MachineHost host, ConvertVector convert, PinOperationResult answer)
    {
        answer.FrameVector = convert.FrameVector;
        if (host.TryVector(convert.FrameVector) is not { } record)
        {
            answer.Errno = (uint)Errno.ENOENT;
            return;
        }

        lock (record.Gate)
        {
            answer.Errno = (uint)ConvertOne(host, record, convert.To);
            answer.Kind = WireMapping.KindOf(record.Vector);
            answer.Frames = (ulong)record.Vector.Count;
        }
    }

    /// <param name="Batch">What names the lease and the attachment of its pins.</param>
    /// <param name="Host">Machine of the vectors.</param>
    /// <param name="Space">Of the pins that do not name one; null: each has to.</param>
    private sealed record BatchScope(PinBatch Batch, MachineHost Host, AddressSpace? Space);
}
