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
        var response = new WriteMemoryResponse();
        try
        {
            await WriteAsync(requestStream, response, context).ConfigureAwait(false);
            return response;
        }
        catch (RpcException refusal)
        {
            // The bytes of earlier messages stay stored, whichever message is refused.
            throw Refusals.With(refusal, "written", response.Written);
        }
    }

    /// <summary>Stores the bytes of all messages and counts them as it goes.</summary>
    private async Task WriteAsync(
        IAsyncStreamReader<WriteMemoryRequest> requestStream, WriteMemoryResponse response, ServerCallContext context)
    {
        ChunkCopy? copy = null;
        var position = 0UL;
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
                position + response.Written, message.Data.ToByteArray(), true).ConfigureAwait(false);
            response.Written += (ulong)done;
            if (refusal is not null) throw refusal;
        }

        if (copy is null) throw Refusals.Bad("target", "the first message must name the target: none came");
    }
}
