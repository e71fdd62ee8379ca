using System.Diagnostics;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.Server.Telemetry;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>Batches of pin, unpin and convert: one span a message, each operation answers for itself.</summary>
    public override async Task PinStream(
        IAsyncStreamReader<PinBatch> requestStream, IServerStreamWriter<PinBatchResult> responseStream,
        ServerCallContext context)
    {
        var cancelled = context.CancellationToken;
        var parent = Activity.Current?.Context ?? default;
        MachineHost? owner = null;
        StreamSession? session = null;
        string? name = null;
        var last = 0UL;
        await foreach (var batch in requestStream.ReadAllAsync(cancelled).ConfigureAwait(false))
        {
            // 1. The session, named by the first message.
            CheckSize(batch);
            var target = TargetOf(context, batch);
            name ??= batch.Session;
            if (batch.Session != name) throw Refusals.Bad("session", "stays the same within a stream");
            if (name.Length > 0)
            {
                owner ??= target.Host;
                if (target.Host != owner) throw Refusals.Bad("machine", "a session belongs to one machine");
                if (session is null) session = owner.Sessions.Get(name);
                else owner.Sessions.Touch(name, session);
            }

            // 2. Answered before, or new.
            var result = session is null
                ? await RunNext(target, batch, last, parent, cancelled).ConfigureAwait(false)
                : await RunInSession(session, target, batch, parent, cancelled).ConfigureAwait(false);
            last = batch.Sequence;
            await responseStream.WriteAsync(result, cancelled).ConfigureAwait(false);
        }
    }

    /// <summary>The machine of a batch, and the id of its address space, if it names one.</summary>
    private (MachineHost Host, string? SpaceId) TargetOf(ServerCallContext context, PinBatch batch) =>
        batch.AddressSpace.Length == 0
            ? (machines.Resolve(context, batch.Machine, Right.Use, "machine"), null)
            : machines.Resolve(context, batch.AddressSpace, Names.AddressSpaces, Right.Use, "address_space");

    private void CheckSize(PinBatch batch)
    {
        var most = options.Limits.BatchOperationsMax;
        if (batch.Operations.Count > most)
            throw Refusals.Limit("batch_operations_max", (ulong)most, (ulong)batch.Operations.Count);
    }

    /// <summary>
    /// The result of a session's message: that of the first time, or a new one. A message that has begun goes on when
    /// its stream breaks, so that the client's next stream gets its result.
    /// </summary>
    private async Task<PinBatchResult> RunInSession(
        StreamSession session, (MachineHost Host, string? SpaceId) target, PinBatch batch, ActivityContext parent,
        CancellationToken cancelled)
    {
        await session.Gate.WaitAsync(cancelled).ConfigureAwait(false);
        var running = RunUnderGate(session, target, batch, parent);
        return running.IsCompleted
            ? await running.ConfigureAwait(false)
            : await running.WaitAsync(cancelled).ConfigureAwait(false);
    }

    private async Task<PinBatchResult> RunUnderGate(
        StreamSession session, (MachineHost Host, string? SpaceId) target, PinBatch batch, ActivityContext parent)
    {
        try
        {
            session.Acknowledge(batch.Acknowledged);
            if (batch.Sequence > 0 && batch.Sequence <= session.Last)
                return session.Remembered(batch.Sequence)
                    ?? throw Refusals.Bad("sequence", $"{batch.Sequence} was acknowledged: its result is forgotten");
            session.CheckRoom(options.Limits);
            var result = await RunNext(target, batch, session.Last, parent, CancellationToken.None)
                .ConfigureAwait(false);
            session.Keep(result);
            return result;
        }
        finally
        {
            session.Gate.Release();
        }
    }

    private async ValueTask<PinBatchResult> RunNext(
        (MachineHost Host, string? SpaceId) target, PinBatch batch, ulong last, ActivityContext parent,
        CancellationToken cancelled)
    {
        if (batch.Sequence != last + 1)
            throw Refusals.Bad("sequence", $"messages count up by one: expected {last + 1}, got {batch.Sequence}");
        using var span = telemetry.Activities.StartActivity("PinStream message", ActivityKind.Server, parent);
        span?.SetTag(TelemetryNames.Operations, batch.Operations.Count);
        var space = target.SpaceId is { } id ? target.Host.Spaces.Get(id) : null;
        return await RunBatch(new BatchScope(batch, target.Host, space), cancelled).ConfigureAwait(false);
    }

    private async ValueTask<PinBatchResult> RunBatch(BatchScope scope, CancellationToken cancelled)
    {
        var result = new PinBatchResult { Sequence = scope.Batch.Sequence };
        result.Results.Capacity = scope.Batch.Operations.Count;
        try
        {
            await RunOperations(scope, result, cancelled).ConfigureAwait(false);
            return result;
        }
        catch
        {
            // The client learns of no vector: its pins are given back.
            GiveBack(scope, result);
            throw;
        }
        finally
        {
            if (scope.Released > 0) telemetry.CountReleased(scope.Released);
        }
    }

    private static void GiveBack(BatchScope scope, PinBatchResult result)
    {
        foreach (var (operation, answer) in scope.Batch.Operations.Zip(result.Results))
        {
            if (operation.OperationCase != PinOperation.OperationOneofCase.Pin || answer.FrameVector == 0) continue;
            if (answer.Hold != 0) scope.Owners?.Holder?.Release(answer.Hold);
            if (scope.Host.Vectors.Find(answer.FrameVector) is { } record
                && scope.Host.Vectors.Release(record, dirty: false, out var frames))
                scope.Released += frames;
        }
    }
}
