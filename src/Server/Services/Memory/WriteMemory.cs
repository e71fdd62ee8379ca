using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MemoryService
{
    public override async Task<WriteMemoryResponse> WriteMemory(
        IAsyncStreamReader<WriteMemoryRequest> requestStream, ServerCallContext context)
    {
        ChunkCopy? copy = null;
        var position = 0UL;
        var written = 0UL;
        await foreach (var message in requestStream.ReadAllAsync(context.CancellationToken).ConfigureAwait(false))
        {
            if (copy is null)
            {
                copy = CopyOf(context, message.Target, Right.Use, out _);
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
                position + written, message.Data.ToByteArray(), true).ConfigureAwait(false);
            written += (ulong)done;
            if (refusal is not null) throw refusal;
        }

        if (copy is null) throw Refusals.Bad("target", "the first message must name the target: none came");
        return new WriteMemoryResponse { Written = written };
    }
}
