using System.Globalization;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Inspection;
using FramePin.Core.Syscalls;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;
using Machine = FramePin.Core.Machines.Machine;

namespace FramePin.Server.Services;

internal sealed partial class MemoryService
{
    /// <summary>Reads or writes one chunk at a position; fewer bytes than asked come with a refusal.</summary>
    private delegate ValueTask<(int Done, RpcException? Refusal)> ChunkCopy(
        ulong position, Memory<byte> buffer, bool isWrite);

    private ChunkCopy CopyOf(ServerCallContext context, MemoryTarget? target, Right right, out bool isStale)
    {
        const string field = "target.name";
        isStale = false;
        if (target is null) throw Refusals.Bad("target", "must be set");
        var collection = Names.CollectionOf(target.Name);
        if (collection is not (Names.AddressSpaces or Names.Files or Names.FrameVectors))
            throw Refusals.Bad(field, "must name an address space, a frame vector or a file");
        var (host, id) = machines.Resolve(context, target.Name, collection, right, field);
        switch (collection)
        {
            case Names.AddressSpaces:
                return ThroughSpace(host, host.Spaces.Get(id).Thing, context.CancellationToken);
            case Names.Files:
                return OfFile(host.Machine, host.Files.Get(id).Thing);
            default:
                var record = host.Vectors.Get(Names.Number(id, field));
                isStale = IsStale(host, record);
                return OfFrames(host.Machine, record);
        }
    }

    /// <summary>
    /// A bare PFN of RAM in the vector was freed: the bytes belong to somebody else now, which is the bug emulated.
    /// </summary>
    private static bool IsStale(MachineHost host, VectorRecord record)
    {
        lock (record.Gate)
        {
            var vector = record.Content;
            if (vector.GotRef) return false;
            foreach (var run in vector.Runs)
                if (host.Machine.Query<IsFreedQuery, bool>(new(run.First))) return true;
            return false;
        }
    }

    /// <summary>
    /// As the process's own loads and stores: where a handler outside is asked about a fault, the copy waits for it.
    /// </summary>
    private static ChunkCopy ThroughSpace(MachineHost host, SpaceId space, CancellationToken cancelled) =>
        async (position, buffer, isWrite) =>
        {
            var done = 0;
            while (true)
            {
                var at = position + (ulong)done;
                var (copied, signal) = isWrite
                    ? await host.Commands.StoreAsync(space, at, buffer[done..]).ConfigureAwait(false)
                    : host.Machine.Execute<LoadCall, AccessResult>(new(space, at, buffer.Span[done..]));
                done += (int)copied;
                at = position + (ulong)done;
                if (signal == UserSignal.WaitsForHandler)
                {
                    await host.Faults.WaitAsync(space, at, cancelled).ConfigureAwait(false);
                    continue;
                }

                if (signal == UserSignal.None) return (done, null);
                return (done, Refusals.Signal(signal, at));
            }
        };

    private static ChunkCopy OfFrames(Machine machine, VectorRecord record) =>
        (position, buffer, isWrite) =>
        {
            lock (record.Gate)
            {
                if (record.IsDestroyed)
                {
                    var gone = Refusals.State("FRAME_VECTOR_GONE", "the vector was unpinned meanwhile");
                    return ValueTask.FromResult<(int, RpcException?)>((0, gone));
                }

                RpcException? refusal = null;
                var done = machine.CopyFrames(record.Content, position, buffer.Span, isWrite, out var error);
                if (error != Errno.None)
                    refusal = Refusals.Errno("dma", error, ("offset", Text(position + (ulong)done)));
                else if (done < buffer.Length && isWrite)
                    refusal = Refusals.State("END_OF_FRAMES", "the vector's frames end before the bytes do");
                return ValueTask.FromResult((done, refusal));
            }
        };

    private static ChunkCopy OfFile(Machine machine, FileId file) =>
        (position, buffer, isWrite) =>
        {
            if (!isWrite)
            {
                var read = machine.Call(new ReadFileCall(file, position, buffer.Span));
                return ValueTask.FromResult(((int)read.Value, read.IsOk ? null : Refusals.Errno("pread", read.Error)));
            }

            var (done, error) = machine.Execute<WriteFileCall, WriteFileResult>(new(file, position, buffer.Span));
            var refusal = error == Errno.None ? null : Refusals.Errno("pwrite", error);
            return ValueTask.FromResult((done, refusal));
        };

    private static string Text(ulong value) => value.ToString(CultureInfo.InvariantCulture);
}
