using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;

namespace FramePin.Client;

/// <summary>Bytes of an address space, of a vector's frames or of a file, over MemoryService.</summary>
internal static class MemoryTransfer
{
    /// <summary>The most bytes that a message of MemoryService carries.</summary>
    private const int Chunk = 65_536;

    /// <summary>Reads bytes. Returns their count, which is smaller at the end of the target.</summary>
    public static async Task<int> ReadAsync(
        FramePinClient client, string target, ulong position, Memory<byte> buffer, CancellationToken cancellationToken)
    {
        var request = new ReadMemoryRequest
        {
            Target = new MemoryTarget { Name = target, Position = position },
            Length = (ulong)buffer.Length,
        };
        try
        {
            using var call = client.Memory.ReadMemory(request, cancellationToken: cancellationToken);
            var done = 0;
            while (await call.ResponseStream.MoveNext(cancellationToken).ConfigureAwait(false))
            {
                var data = call.ResponseStream.Current.Data;
                data.Memory.CopyTo(buffer[done..]);
                done += data.Length;
            }

            return done;
        }
        catch (RpcException exception)
        {
            throw FramePinCalls.Typed(exception, cancellationToken);
        }
    }

    /// <summary>Writes all bytes.</summary>
    public static async Task WriteAsync(
        FramePinClient client, string target, ulong position, ReadOnlyMemory<byte> data,
        CancellationToken cancellationToken)
    {
        using var call = client.Memory.WriteMemory(cancellationToken: cancellationToken);
        var named = new MemoryTarget { Name = target, Position = position };
        for (var done = 0; done < data.Length || named is not null; done += Chunk)
        {
            var part = data.Slice(done, Math.Min(Chunk, data.Length - done));
            var message = new WriteMemoryRequest { Target = named, Data = UnsafeByteOperations.UnsafeWrap(part) };
            try
            {
                await call.RequestStream.WriteAsync(message, cancellationToken).ConfigureAwait(false);
            }
            catch (Exception exception) when (exception is not OperationCanceledException)
            {
                // The daemon has ended the call. Awaiting the answer throws its status, which says why.
                break;
            }

            named = null;
        }

        try
        {
            await call.RequestStream.CompleteAsync().ConfigureAwait(false);
            await call.ResponseAsync.ConfigureAwait(false);
        }
        catch (RpcException exception)
        {
            throw FramePinCalls.Typed(exception, cancellationToken);
        }
    }
}
