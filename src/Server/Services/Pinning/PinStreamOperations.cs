using System.Diagnostics;
using FramePin.Core.Addressing;
using FramePin.Core.Pinning;
using FramePin.Server.LocalMemory;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;
using PinRange = FramePin.Server.Machines.PinRange;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    private async Task RunOperations(BatchScope scope, PinBatchResult result, CancellationToken cancelled)
    {
        var released = 0L;
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
    }

    /// <summary>Lease and attachment of a batch's pins, looked up at the first pin and kept for the others.</summary>
    private PinScope OwnersOf(BatchScope scope) =>
        scope.Owners ??= new PinScope(
            scope.Host, scope.Host.Leases.Find(scope.Batch.Lease), FindAttachment(scope.Host, scope.Batch.Attachment));

    /// <summary>
    /// Pins, and answers with the refusal where that fails. Frames that the operation held by then are given back. A
    /// pin that does not wait makes no state machine.
    /// </summary>
    private ValueTask PinInBatch(
        BatchScope scope, V1.PinRange wanted, PinOperationResult answer, CancellationToken cancelled)
    {
        var span = StartOperation("Pin", wanted.Traceparent);
        var pin = pins.Begin(span);
        var isHandedOn = false;
        try
        {
            var range = new PinRange(
                SpaceOf(scope, wanted), wanted.Start, wanted.Pages, WireMapping.PinFlags(wanted.Write, wanted.Force),
                TraceOf(scope, span, wanted.Traceparent));
            pin.Create(OwnersOf(scope), wanted.Pages);
            var filling = pin.FillAsync(range, cancelled);
            if (filling.IsCompletedSuccessfully)
            {
                Answer(pin, range, filling.Result, wanted, answer);
                return ValueTask.CompletedTask;
            }

            isHandedOn = true;
            var rest = PinInBatchAsync(pin, span, filling, range, wanted, answer);
            // The rest ends the span in a context of its own.
            if (span is not null) Activity.Current = scope.Span;
            return rest;
        }
        catch (RpcException refusal)
        {
            Refuse(answer, refusal, span);
            return ValueTask.CompletedTask;
        }
        finally
        {
            if (!isHandedOn)
            {
                pin.Dispose();
                span?.Dispose();
            }
        }
    }

    /// <summary>The rest of a pin that waits. Owns the transaction and the span.</summary>
    private async ValueTask PinInBatchAsync(
        PinTransaction pin, Activity? span, ValueTask<PinOutcome> filling, PinRange range, V1.PinRange wanted,
        PinOperationResult answer)
    {
        using var ending = span;
        using var transaction = pin;
        try
        {
            Answer(pin, range, await filling.ConfigureAwait(false), wanted, answer);
        }
        catch (RpcException refusal)
        {
            Refuse(answer, refusal, span);
        }
    }

    /// <summary>Answers with a pin's outcome, and commits a pin that has pages.</summary>
    private void Answer(
        PinTransaction pin, in PinRange range, in PinOutcome outcome, V1.PinRange wanted, PinOperationResult answer)
    {
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

    /// <summary>The pin is refused, and its answer names nothing that it held.</summary>
    private static void Refuse(PinOperationResult answer, RpcException refusal, Activity? span)
    {
        (answer.Runs, answer.FrameVector, answer.Frames, answer.Hold) = (null, 0, 0, 0);
        answer.Kind = FrameKind.Unspecified;
        Refuse(answer, refusal);
        span?.SetStatus(ActivityStatusCode.Error, refusal.Status.Detail);
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
        }
        catch (RpcException refusal)
        {
            Refuse(answer, refusal);
        }
    }

    /// <summary>The attachment of a batch's unpins, looked up once; null when it has ended.</summary>
    private Attachment? AttachmentOf(BatchScope scope)
    {
        if (!scope.HasAttachment) scope.Attachment = attachments.Find(scope.Batch.Attachment);
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

        /// <summary>Owners of the pins' frames; null before the first pin.</summary>
        public PinScope? Owners { get; set; }

        /// <summary>Attachment whose holds the unpins give back, once <see cref="HasAttachment"/> is set.</summary>
        public Attachment? Attachment { get; set; }

        public bool HasAttachment { get; set; }
    }
}
