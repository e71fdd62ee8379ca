using System.Diagnostics;
using FramePin.Core.Machines;
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
        IAsyncStreamReader<PinBatch> requestStream, IServerStreamWriter<PinBatchResult> responseStream, ServerCallContext context)
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

    private async Task<PinBatchResult> RunNext(PinBatch batch, ulong last, ActivityContext parent, CancellationToken cancelled)
    {
        if (batch.Sequence != last + 1)
            throw Refusals.Bad("sequence", $"messages count up by one: expected {last + 1}, got {batch.Sequence}");
        using var span = TelemetryNames.Activities.StartActivity("PinStream message", ActivityKind.Server, parent);
        span?.SetTag(TelemetryNames.Operations, batch.Operations.Count);
        return await RunBatch(batch, cancelled).ConfigureAwait(false);
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
        PinOutcome outcome;
        try
        {
            outcome = await Fill(host, record, space, range.Start, range.Pages, flags, null, cancelled).ConfigureAwait(false);
        }
        catch
        {
            host.Release(record, dirty: false, out _);
            throw;
        }

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
