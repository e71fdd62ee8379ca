using System.Diagnostics;
using FramePin.Server.LocalMemory;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.Server.Telemetry;
using FramePin.V1;
using Grpc.Core;
using AddressSpace = FramePin.Core.Vmas.AddressSpace;
using Errno = FramePin.Core.Abi.Errno;
using PinRange = FramePin.Server.Machines.PinRange;

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
        using var span = telemetry.Activities.StartActivity("PinStream message", ActivityKind.Server, parent);
        span?.SetTag(TelemetryNames.Operations, batch.Operations.Count);
        return await RunBatch(batch, cancelled).ConfigureAwait(false);
    }

    private async Task<PinBatchResult> RunBatch(PinBatch batch, CancellationToken cancelled)
    {
        var scope = ScopeOf(batch);
        var result = new PinBatchResult { Sequence = batch.Sequence };
        result.Results.Capacity = batch.Operations.Count;
        var released = 0L;
        foreach (var operation in batch.Operations)
        {
            var answer = new PinOperationResult();
            switch (operation.OperationCase)
            {
                case PinOperation.OperationOneofCase.Pin:
                    await PinInBatch(scope, operation.Pin, answer, cancelled).ConfigureAwait(false);
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

        if (released > 0) telemetry.CountReleased(released);
        return result;
    }

    /// <summary>The machine, address space and owners that the operations of a batch have in common.</summary>
    /// <remarks>Throws where the batch names a machine or an address space that is not there.</remarks>
    private BatchScope ScopeOf(PinBatch batch)
    {
        if (batch.AddressSpace.Length == 0)
            return new BatchScope(batch, machines.Get(Names.MachineId(batch.Machine, "machine")), null);
        var (host, id) = machines.Resolve(batch.AddressSpace, Names.AddressSpaces, "address_space");
        return new BatchScope(batch, host, host.Spaces.Get(id));
    }

    /// <summary>Lease and attachment of a batch's pins, looked up at the first pin and kept for the others.</summary>
    private PinScope OwnersOf(BatchScope scope) =>
        scope.Owners ??= new PinScope(
            scope.Host, leases.Find(scope.Batch.Lease), FindAttachment(scope.Host, scope.Batch.Attachment));

    /// <summary>
    /// Pins, and answers with the errno or the refusal where that fails. What was held by then is given back.
    /// </summary>
    private async ValueTask PinInBatch(
        BatchScope scope, V1.PinRange wanted, PinOperationResult answer, CancellationToken cancelled)
    {
        using var span = StartOperation("Pin", wanted.Traceparent);
        using var pin = pins.Begin(span);
        try
        {
            var range = new PinRange(
                SpaceOf(scope, wanted), wanted.Start, wanted.Pages, WireMapping.PinFlags(wanted.Write, wanted.Force),
                TraceOf(span, wanted.Traceparent));
            pin.Create(OwnersOf(scope), wanted.Pages);
            var outcome = await pin.FillAsync(range, cancelled).ConfigureAwait(false);
            answer.StopReason = WireMapping.ToWire(outcome.Reason);
            answer.Errno = (uint)outcome.Result.Error;
            if (outcome.Result.Error != Errno.None) return;
            if (wanted.WithFrames) answer.Runs = WireMapping.ToRuns(pin.Record.Vector, options.Limits);
            answer.Hold = pin.Hold();
            answer.FrameVector = pin.Record.Number;
            answer.Frames = (ulong)pin.Record.Vector.Count;
            answer.Kind = WireMapping.KindOf(pin.Record.Vector);
            pin.Commit();
        }
        catch (RpcException refusal)
        {
            (answer.Runs, answer.FrameVector, answer.Frames, answer.Hold) = (null, 0, 0, 0);
            answer.StatusCode = (uint)refusal.StatusCode;
            answer.Message = refusal.Status.Detail;
            span?.SetStatus(ActivityStatusCode.Error, refusal.Status.Detail);
        }
    }

    /// <summary>The operation's own span, the span that it names, or the message's span.</summary>
    private static ActivityContext TraceOf(Activity? span, string traceparent)
    {
        if (span is null && ActivityContext.TryParse(traceparent, null, isRemote: true, out var named)) return named;
        return Activity.Current?.Context ?? default;
    }

    private AddressSpace SpaceOf(BatchScope scope, V1.PinRange range)
    {
        if (range.AddressSpace.Length == 0)
            return scope.Space ?? throw Refusals.Bad("address_space", "neither the batch nor the pin names one");
        var (host, id) = machines.Resolve(range.AddressSpace, Names.AddressSpaces, "address_space");
        return host == scope.Host
            ? host.Spaces.Get(id)
            : throw Refusals.Bad("address_space", "belongs to another machine than the batch");
    }

    private void UnpinInBatch(BatchScope scope, UnpinVector unpin, PinOperationResult answer)
    {
        using var span = StartOperation("Unpin", unpin.Traceparent);
        // The process has unmapped the frames, so that the hold goes whatever becomes of the vector.
        if (unpin.Hold != 0) AttachmentOf(scope)?.Release(unpin.Hold);
        answer.FrameVector = unpin.FrameVector;
        if (scope.Host.Vectors.Find(unpin.FrameVector) is { } record
            && scope.Host.Vectors.Release(record, unpin.Dirty, out var frames))
        {
            LinkTo(record);
            answer.Frames = (ulong)frames;
        }
        else
        {
            answer.Errno = (uint)Errno.ENOENT;
        }
    }

    /// <summary>The attachment of a batch's unpins, looked up once; null when it has ended.</summary>
    private Attachment? AttachmentOf(BatchScope scope)
    {
        if (!scope.HasAttachment)
            scope.Attachment = attachments.Find(Names.AttachmentId(scope.Batch.Attachment, "attachment"));
        scope.HasAttachment = true;
        return scope.Attachment;
    }

    /// <summary>A span for an operation that names its caller; otherwise the message's span stands for it.</summary>
    private Activity? StartOperation(string name, string traceparent) =>
        traceparent.Length > 0 && ActivityContext.TryParse(traceparent, null, isRemote: true, out var parent)
            ? telemetry.Activities.StartActivity(name, ActivityKind.Server, parent)
            : null;

    private static void ConvertInBatch(MachineHost host, ConvertVector convert, PinOperationResult answer)
    {
        answer.FrameVector = convert.FrameVector;
        if (host.Vectors.Find(convert.FrameVector) is not { } record)
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

    /// <summary>The names that the operations of a batch have in common, each looked up once.</summary>
    /// <param name="batch">Names the lease and the attachment of its pins.</param>
    /// <param name="host">Machine of the vectors.</param>
    /// <param name="space">Address space of the pins that name none; null: each pin has to.</param>
    private sealed class BatchScope(PinBatch batch, MachineHost host, AddressSpace? space)
    {
        public PinBatch Batch => batch;

        public MachineHost Host => host;

        public AddressSpace? Space => space;

        /// <summary>Owners of the pins' frames; null before the first pin.</summary>
        public PinScope? Owners { get; set; }

        /// <summary>Attachment whose holds the unpins give back, once <see cref="HasAttachment"/> is set.</summary>
        public Attachment? Attachment { get; set; }

        public bool HasAttachment { get; set; }
    }
}
