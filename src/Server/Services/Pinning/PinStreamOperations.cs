using System.Diagnostics;
using FramePin.Core.Addressing;
using FramePin.Server.LocalMemory;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Telemetry;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;
using PinRange = FramePin.Server.Machines.PinRange;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    private async Task RunOperations(BatchScope scope, PinBatchResult result, CancellationToken cancelled)
    {
        foreach (var operation in scope.Batch.Operations)
        {
            var answer = new PinOperationResult();
            switch (operation.OperationCase)
            {
                case PinOperation.OperationOneofCase.Pin:
                    await PinInBatch(scope, operation.Pin, answer, cancelled).ConfigureAwait(false);
                    break;
                case PinOperation.OperationOneofCase.Unpin:
                    UnpinInBatch(scope, new UnpinVector { FrameVector = operation.Unpin }, answer);
                    break;
                case PinOperation.OperationOneofCase.UnpinVector:
                    UnpinInBatch(scope, operation.UnpinVector, answer);
                    break;
                case PinOperation.OperationOneofCase.Convert:
                    ConvertInBatch(scope.Host, operation.Convert, answer);
                    break;
                default:
                    throw Refusals.Bad("operations", "an operation is one of pin, unpin, convert, unpin_vector");
            }

            result.Results.Add(answer);
        }
    }

    /// <summary>Lease and attachment of a batch's pins, looked up at the first pin and kept for the others.</summary>
    private PinScope OwnersOf(BatchScope scope) =>
        scope.Owners ??= new PinScope(
            scope.Host, scope.Host.Leases.Find(scope.Batch.Lease), FindAttachment(scope.Host, scope.Batch.Attachment));

    /// <summary>
    /// Pins, and answers with the refusal where that fails. Frames that the operation held by then are given back.
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
                TraceOf(scope, span, wanted.Traceparent));
            pin.Create(OwnersOf(scope), wanted.Pages);
            var outcome = await pin.FillAsync(range, cancelled).ConfigureAwait(false);
            answer.StopReason = WireEnums.ToWire(outcome.Reason);
            if (outcome.Result.Error != Errno.None)
            {
                Refuse(answer, PinTransaction.Refused(range, outcome));
                return;
            }

            if (wanted.WithFrames) answer.Runs = WireFrames.ToRuns(pin.Record.Vector, options.Limits);
            answer.Hold = pin.Hold();
            answer.FrameVector = pin.Record.Number;
            answer.Frames = (ulong)pin.Record.Vector.Count;
            answer.Kind = WireFrames.KindOf(pin.Record.Vector);
            pin.Commit();
        }
        catch (RpcException refusal)
        {
            (answer.Runs, answer.FrameVector, answer.Frames, answer.Hold) = (null, 0, 0, 0);
            answer.Kind = FrameKind.Unspecified;
            Refuse(answer, refusal);
            StatusNames.Note(span, refusal.StatusCode, refusal.Status.Detail);
        }
    }

    /// <summary>The operation's own span, the span that it names, or the message's span.</summary>
    private static ActivityContext TraceOf(BatchScope scope, Activity? span, string traceparent)
    {
        if (span is not null) return span.Context;
        return traceparent.Length > 0 && ActivityContext.TryParse(traceparent, null, isRemote: true, out var named)
            ? named
            : scope.Trace;
    }

    private static Named<SpaceId> SpaceOf(BatchScope scope, V1.PinRange range)
    {
        if (range.AddressSpace.Length == 0)
            return scope.Space ?? throw Refusals.Bad("address_space", "neither the batch nor the pin names one");
        return scope.Host.Spaces.Get(range.AddressSpace, "address_space");
    }

    /// <summary>The operation is refused as the unary call would be.</summary>
    private static void Refuse(PinOperationResult answer, RpcException refusal)
    {
        answer.Refusal = Refusals.InStream(refusal, out var errno);
        answer.Errno = errno;
    }

    private void UnpinInBatch(BatchScope scope, UnpinVector unpin, PinOperationResult answer)
    {
        using var span = StartOperation("Unpin", unpin.Traceparent);
        answer.FrameVector = unpin.FrameVector;
        try
        {
            // The process has unmapped the frames, so that the hold goes whatever becomes of the vector.
            if (unpin.Hold != 0) AttachmentOf(scope)?.Release(unpin.Hold);
            var record = scope.Host.Vectors.Get(unpin.FrameVector);
            if (!scope.Host.Vectors.Release(record, unpin.Dirty, out var frames)) throw record.NotReady();
            LinkTo(record, span ?? scope.Span);
            answer.Frames = (ulong)frames;
            scope.Released += frames;
        }
        catch (RpcException refusal)
        {
            Refuse(answer, refusal);
        }
    }

    /// <summary>The attachment of a batch's unpins, looked up once; null when it has ended.</summary>
    private Attachment? AttachmentOf(BatchScope scope)
    {
        if (!scope.HasAttachment) scope.Attachment = FindLive(scope.Host, scope.Batch.Attachment);
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
        try
        {
            var record = host.Vectors.Get(convert.FrameVector);
            lock (record.Gate)
            {
                ConvertOne(host, record, convert.To);
                answer.Kind = WireFrames.KindOf(record.Content);
                answer.Frames = (ulong)record.Content.Count;
            }
        }
        catch (RpcException refusal)
        {
            Refuse(answer, refusal);
        }
    }

    /// <summary>The names that the operations of a batch have in common, each looked up once.</summary>
    /// <param name="batch">Names the lease and the attachment of its pins.</param>
    /// <param name="host">Machine of the vectors.</param>
    /// <param name="space">Address space of the pins that name none; null: each pin has to.</param>
    private sealed class BatchScope(PinBatch batch, MachineHost host, Named<SpaceId>? space)
    {
        public PinBatch Batch => batch;

        public MachineHost Host => host;

        public Named<SpaceId>? Space => space;

        /// <summary>The message's span, or that of the call; null when neither is recorded.</summary>
        public Activity? Span { get; } = Activity.Current;

        /// <summary>The trace of the pins that name none.</summary>
        public ActivityContext Trace => Span?.Context ?? default;

        /// <summary>Frames given back so far.</summary>
        public long Released { get; set; }

        /// <summary>Owners of the pins' frames; null before the first pin.</summary>
        public PinScope? Owners { get; set; }

        /// <summary>Attachment whose holds the unpins give back, once <see cref="HasAttachment"/> is set.</summary>
        public Attachment? Attachment { get; set; }

        public bool HasAttachment { get; set; }
    }
}
