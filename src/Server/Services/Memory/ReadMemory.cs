using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MemoryService
{
    public override async Task ReadMemory(
        ReadMemoryRequest request, IServerStreamWriter<ReadMemoryResponse> responseStream, ServerCallContext context)
    {
        if (request.Length > options.Limits.ReadBytesMax)
            throw Refusals.Limit("read_bytes_max", options.Limits.ReadBytesMax, request.Length);
        var copy = CopyOf(context, request.Target, Right.Use, out var isStale);
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
}
