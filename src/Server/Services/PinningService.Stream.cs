using System.Diagnostics;
using FramePin.Core.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.Server.Telemetry;
using FramePin.V1;
using Grpc.Core;
using AddressSpace = FramePin.Core.Vmas.AddressSpace;
using Errno = FramePin.Core.Abi.Errno;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>Batches of pin, unpin and convert: one span a message, each operation answers for itself.</summary>
    public override async Task PinStream(
        IAsyncStreamReader<PinBatch> requestStream, IServerStreamWriter<PinBatchResult> responseStream, ServerCallContext context)
    {
        var parent = Activity.Current?.Context ?? default;
        var expected = 1UL;
        await foreach (var batch in requestStream.ReadAllAsync(context.CancellationToken).ConfigureAwait(false))
        {
            if (batch.Sequence != expected)
                throw Refusals.Bad("sequence", $"messages count up by one: expected {expected}, got {batch.Sequence}");
            expected++;
            var most = options.Limits.BatchOperationsMax;
            if (batch.Operations.Count > most)
                throw Refusals.Limit("batch_operations_max", (ulong)most, (ulong)batch.Operations.Count);
            PinBatchResult result;
            using (var span = TelemetryNames.Activities.StartActivity("PinStream message", ActivityKind.Server, parent))
            {
                span?.SetTag(TelemetryNames.Operations, batch.Operations.Count);
                result = await RunBatch(batch, context.CancellationToken).ConfigureAwait(false);
            }

            await responseStream.WriteAsync(result, context.CancellationToken).ConfigureAwait(false);
        }
    }

    private async Task<PinBatchResult> RunBatch(PinBatch batch, CancellationToken cancelled)
    {
        var (host, id) = machines.Resolve(batch.AddressSpace, Names.AddressSpaces, "address_space");
        var space = host.Space(id);
        var result = new PinBatchResult { Sequence = batch.Sequence };
        result.Results.Capacity = batch.Operations.Count;
        long pinned = 0, released = 0;
        foreach (var operation in batch.Operations)
        {
            var answer = new PinOperationResult();
            switch (operation.OperationCase)
            {
                case PinOperation.OperationOneofCase.Pin:
                    await PinInBatch(host, space, operation.Pin, answer, cancelled).ConfigureAwait(false);
                    pinned += (long)answer.Frames;
                    break;
                case PinOperation.OperationOneofCase.Unpin:
                    UnpinInBatch(host, operation.Unpin, answer);
                    released += (long)answer.Frames;
                    break;
                case PinOperation.OperationOneofCase.Convert:
                    ConvertInBatch(host, operation.Convert, answer);
                    break;
                default:
                    throw Refusals.Bad("operations", "an operation is one of pin, unpin, convert");
            }

            result.Results.Add(answer);
        }

        if (pinned > 0) TelemetryNames.PinnedPages.Add(pinned);
        if (released > 0) TelemetryNames.ReleasedPages.Add(released);
        return result;
    }

    private async ValueTask PinInBatch(
        MachineHost host, AddressSpace space, PinRange range, PinOperationResult answer, CancellationToken cancelled)
    {
        var record = host.CreateVector(range.Pages);
        var flags = WireMapping.PinFlags(range.Write, range.Force);
        var outcome = await Fill(host, record, space, range.Start, range.Pages, flags, null, cancelled).ConfigureAwait(false);
        if (range.Traceparent.Length > 0 && ActivityContext.TryParse(range.Traceparent, null, isRemote: true, out var own))
            record.Trace = own;
        if (outcome.Result.Error != Errno.None)
        {
            host.Release(record, dirty: false, out _);
            answer.Errno = (uint)outcome.Result.Error;
            answer.StopReason = WireMapping.ToWire(outcome.Reason);
            return;
        }

        answer.FrameVector = record.Number;
        answer.Frames = (ulong)record.Vector.Count;
        answer.Kind = WireMapping.KindOf(record.Vector);
        answer.StopReason = WireMapping.ToWire(outcome.Reason);
        if (range.WithFrames) answer.Runs = WireMapping.ToRuns(record.Vector, options.Limits);
        host.Publish(record);
    }

    private static void UnpinInBatch(MachineHost host, ulong number, PinOperationResult answer)
    {
        answer.FrameVector = number;
        if (host.TryVector(number) is { } record && host.Release(record, dirty: false, out var frames))
        {
            LinkTo(record);
            answer.Frames = (ulong)frames;
        }
        else
        {
            answer.Errno = (uint)Errno.ENOENT;
        }
    }

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
}
