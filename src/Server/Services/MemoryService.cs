using System.Globalization;
using FramePin.Core.Abi;
using FramePin.Core.Pinning;
using FramePin.Server.Configuration;
using FramePin.Server.LocalMemory;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;

namespace FramePin.Server.Services;

/// <summary>Bytes, in chunks: through an address space, by frames, of a file.</summary>
internal sealed class MemoryService(MachineRegistry machines, AttachTickets tickets,
    Attachments attachments, DaemonOptions options)
    : V1.MemoryService.MemoryServiceBase
{
    /// <summary>Reads or writes one chunk at a position; fewer bytes than asked come with a refusal.</summary>
    private delegate ValueTask<(int Done, RpcException? Refusal)> ChunkCopy(
        ulong position, Memory<byte> buffer, bool isWrite);

    public override Task<AttachMemoryResponse> AttachMemory(AttachMemoryRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        if (options.AttachSocketPath is not { } path)
            throw Refusals.State(
                "NO_ATTACH_SOCKET", "the daemon has no socket for local memory: start it with --attach-socket");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var lease = host.Leases.Find(request.Lease);
            var attachment = new Attachment(host.NextAttachment(), host, lease, request.ReadOnly);
            var ticket = tickets.Issue(attachment);
            return Task.FromResult(new AttachMemoryResponse
            {
                SocketPath = path,
                Ticket = UnsafeByteOperations.UnsafeWrap(ticket),
                MemoryBytes = host.Machine.Options.Memory,
                Attachment = attachment.Name,
            });
        });
    }

    public override Task<MapFramesResponse> MapFrames(MapFramesRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.FrameVector, Names.FrameVectors, "frame_vector");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var attachment = FindAttachment(host, request.Attachment, "frame_vector");
            var record = ulong.TryParse(id, NumberStyles.None, CultureInfo.InvariantCulture, out var number)
                ? host.Vectors.Find(number)
                : null;
            if (record is null) throw Refusals.NotFound("FRAME_VECTOR", request.FrameVector);
            var hold = attachment.Hold(record);
            try
            {
                lock (record.Gate)
                {
                    if (record.IsDestroyed) throw Refusals.NotFound("FRAME_VECTOR", request.FrameVector);
                    var runs = WireMapping.ToRuns(record.Vector, options.Limits);
                    return Task.FromResult(new MapFramesResponse { Hold = hold, Runs = runs });
                }
            }
            catch
            {
                attachment.Release(hold);
                throw;
            }
        });
    }

    public override Task<MapSpaceResponse> MapSpace(MapSpaceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(request.AddressSpace, Names.AddressSpaces, "address_space");
        return host.Requests.Run(
            context, request.RequestId, request, cancelled => MapSpaceOnce(host, id, request, cancelled));
    }

    private async Task<MapSpaceResponse> MapSpaceOnce(
        MachineHost host, string spaceId, MapSpaceRequest request, CancellationToken cancelled)
    {
        var attachment = FindAttachment(host, request.Attachment, "address_space");
        if ((request.Start & 4095) != 0) throw Refusals.Bad("start", "must be a multiple of 4096");
        if (request.Pages == 0) throw Refusals.Bad("pages", "must be at least 1");
        if (request.Pages > options.Limits.TouchPagesMax)
            throw Refusals.Limit("touch_pages_max", options.Limits.TouchPagesMax, request.Pages);
        var space = host.Spaces.Get(spaceId);
        Core.Pinning.FrameHold? hold;
        UserSignal signal;
        ulong failedAt;
        while ((hold = host.Machine.HoldRange(
            space, request.Start, (long)request.Pages, request.Write, out signal, out failedAt)) is null
            && signal == UserSignal.WaitsForHandler)
            await host.Faults.WaitAsync(space, failedAt, cancelled).ConfigureAwait(false);
        if (hold is null)
            throw Refusals.State(
                signal.ToString().ToUpperInvariant(),
                $"the page at 0x{failedAt:x} cannot be mapped: touching it ends in {signal}",
                ("address", $"0x{failedAt:x}"));
        return new MapSpaceResponse { Hold = attachment.Hold(hold), Runs = WireMapping.ToRuns(hold.Runs) };
    }

    public override Task<UnmapFramesResponse> UnmapFrames(UnmapFramesRequest request, ServerCallContext context)
    {
        var (host, _) = machines.Resolve(request.Attachment, Names.Attachments, "attachment");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            if (!attachments.Get(request.Attachment).Release(request.Hold))
                throw Refusals.NotFound("HOLD", $"{request.Attachment}/holds/{request.Hold}");
            return Task.FromResult(new UnmapFramesResponse());
        });
    }

    /// <summary>An attachment to the machine of what <paramref name="field"/> names.</summary>
    private Attachment FindAttachment(MachineHost host, string name, string field)
    {
        var attachment = attachments.Get(name);
        return attachment.Host == host
            ? attachment
            : throw Refusals.Bad(field, "belongs to another machine than the attachment");
    }

    public override async Task ReadMemory(
        ReadMemoryRequest request, IServerStreamWriter<ReadMemoryResponse> responseStream, ServerCallContext context)
    {
        if (request.Length > options.Limits.ReadBytesMax)
            throw Refusals.Limit("read_bytes_max", options.Limits.ReadBytesMax, request.Length);
        var copy = Resolve(request.Target, context.CancellationToken, out var isStale);
        var position = request.Target.Position;
        var left = request.Length;
        while (left > 0)
        {
            var buffer = new byte[Math.Min(left, (ulong)options.Limits.ChunkBytesMax)];
            var (done, refusal) = await copy(position, buffer, false).ConfigureAwait(false);
            if (done > 0)
            {
                var data = UnsafeByteOperations.UnsafeWrap(buffer.AsMemory(0, done));
                await responseStream.WriteAsync(
                    new ReadMemoryResponse { Data = data, Stale = isStale }, context.CancellationToken)
                        .ConfigureAwait(false);
            }

            if (refusal is not null) throw refusal;
            if (done == 0) return;
            position += (ulong)done;
            left -= (ulong)done;
        }
    }

    public override async Task<WriteMemoryResponse> WriteMemory(
        IAsyncStreamReader<WriteMemoryRequest> requestStream, ServerCallContext context)
    {
        var response = new WriteMemoryResponse();
        try
        {
            await WriteAsync(requestStream, response, context.CancellationToken).ConfigureAwait(false);
            return response;
        }
        catch (RpcException refusal)
        {
            // What was stored before stays stored, whichever message is refused.
            throw Refusals.With(refusal, "written", response.Written);
        }
    }

    /// <summary>Stores the bytes of all messages and counts them as it goes.</summary>
    private async Task WriteAsync(
        IAsyncStreamReader<WriteMemoryRequest> requestStream, WriteMemoryResponse response,
        CancellationToken cancelled)
    {
        ChunkCopy? copy = null;
        var position = 0UL;
        await foreach (var message in requestStream.ReadAllAsync(cancelled).ConfigureAwait(false))
        {
            if (copy is null)
            {
                copy = Resolve(message.Target, cancelled, out _);
                position = message.Target!.Position;
            }
            else if (message.Target is not null)
            {
                throw Refusals.Bad("target", "only the first message names the target");
            }

            if (message.Data.Length > options.Limits.ChunkBytesMax)
                throw Refusals.Limit(
                    "chunk_bytes_max", (ulong)options.Limits.ChunkBytesMax, (ulong)message.Data.Length);
            var (done, refusal) = await copy(
                position + response.Written, message.Data.ToByteArray(), true).ConfigureAwait(false);
            response.Written += (ulong)done;
            if (refusal is not null) throw refusal;
        }

        if (copy is null) throw Refusals.Bad("target", "the first message must name the target: none came");
    }

    private ChunkCopy Resolve(MemoryTarget? target, CancellationToken cancelled, out bool isStale)
    {
        isStale = false;
        if (target is null) throw Refusals.Bad("target", "must be set");
        switch (Names.CollectionOf(target.Name))
        {
            case Names.AddressSpaces:
                var (host, id) = machines.Resolve(target.Name, Names.AddressSpaces, "target.name");
                return ThroughSpace(host, host.Spaces.Get(id), cancelled);
            case Names.Files:
                var (fileHost, fileId) = machines.Resolve(target.Name, Names.Files, "target.name");
                return OfFile(fileHost.Machine, fileHost.Files.Get(fileId));
            case Names.FrameVectors:
                var (vectorHost, text) = machines.Resolve(target.Name, Names.FrameVectors, "target.name");
                var record = ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number)
                    ? vectorHost.Vectors.Find(number)
                    : null;
                if (record is null) throw Refusals.NotFound("FRAME_VECTOR", target.Name);
                isStale = IsStale(vectorHost, record);
                return OfFrames(vectorHost.Machine, record);
            default:
                throw Refusals.Bad("target.name", "must name an address space, a frame vector or a file");
        }
    }

    /// <summary>
    /// A bare PFN of RAM in the vector was freed: what is read belongs to somebody else now, which is the bug emulated.
    /// </summary>
    private static bool IsStale(MachineHost host, VectorRecord record)
    {
        lock (record.Gate)
        {
            if (record.Vector.GotRef) return false;
            foreach (var run in record.Vector.Runs)
                if (host.Machine.IsFreed(run.First)) return true;
            return false;
        }
    }

    /// <summary>
    /// As the process's own loads and stores: where a handler outside is asked about a fault, the copy waits for it.
    /// </summary>
    private static ChunkCopy ThroughSpace(
        MachineHost host, Core.Vmas.AddressSpace space, CancellationToken cancelled) =>
        async (position, buffer, isWrite) =>
        {
            var done = 0;
            while (true)
            {
                var at = position + (ulong)done;
                var rest = buffer.Span[done..];
                done += isWrite ? host.Machine.Write(space, at, rest, out var signal)
                    : host.Machine.Read(space, at, rest, out signal);
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

    private static ChunkCopy OfFrames(Core.Machines.Machine machine, VectorRecord record) =>
        (position, buffer, isWrite) =>
        {
            lock (record.Gate)
            {
                RpcException? refusal = null;
                var error = Errno.None;
                var done = record.IsDestroyed
                    ? 0
                    : machine.CopyFrames(record.Vector, position, buffer.Span, isWrite, out error);
                if (error != Errno.None)
                    refusal = Refusals.Errno("dma", error, ("offset", Text(position + (ulong)done)));
                else if (done < buffer.Length && isWrite)
                    refusal = Refusals.State("END_OF_FRAMES", "the vector's frames end before the bytes do");
                else if (record.IsDestroyed)
                    refusal = Refusals.State("FRAME_VECTOR_GONE", "the vector was unpinned meanwhile");
                return ValueTask.FromResult((done, refusal));
            }
        };

    private static ChunkCopy OfFile(Core.Machines.Machine machine, Core.Backing.MemoryFile file) =>
        (position, buffer, isWrite) =>
        {
            if (!isWrite)
                return ValueTask.FromResult((machine.ReadFile(file, position, buffer.Span), (RpcException?)null));
            var done = machine.WriteFile(file, position, buffer.Span, out var error);
            var refusal = error == Errno.None ? null : Refusals.Errno("pwrite", error);
            return ValueTask.FromResult((done, refusal));
        };

    private static string Text(ulong value) => value.ToString(CultureInfo.InvariantCulture);
}
