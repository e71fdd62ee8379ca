using FramePin.V1;
using Google.Protobuf;

namespace FramePin.Client;

/// <summary>
/// The bytes of pinned frames as a device sees them. A driver writes against this and need not know whether the frames
/// come over the wire or are mapped into its own process.
/// </summary>
public interface IFrameMemory
{
    /// <summary>
    /// Reads from byte <paramref name="offset"/> of the vector's frames; returns the bytes read, fewer at its end.
    /// </summary>
    Task<int> ReadAsync(string frameVector, ulong offset, Memory<byte> buffer, CancellationToken cancelled = default);

    /// <summary>
    /// Writes all of <paramref name="data"/> from byte <paramref name="offset"/> of the vector's frames on.
    /// </summary>
    Task WriteAsync(string frameVector, ulong offset, ReadOnlyMemory<byte> data, CancellationToken cancelled = default);
}

/// <summary>Frames, address spaces and files through MemoryService, in chunks of 64 KiB.</summary>
public sealed class RemoteFrameMemory(FramePinClient client) : IFrameMemory
{
    private const int Chunk = 65_536;

    public async Task<int> ReadAsync(
        string frameVector, ulong offset, Memory<byte> buffer, CancellationToken cancelled = default)
    {
        var request = new ReadMemoryRequest
        {
            Target = new MemoryTarget { Name = frameVector, Position = offset },
            Length = (ulong)buffer.Length,
        };
        using var call = client.Memory.ReadMemory(request, cancellationToken: cancelled);
        var done = 0;
        while (await call.ResponseStream.MoveNext(cancelled).ConfigureAwait(false))
        {
            var data = call.ResponseStream.Current.Data;
            data.Memory.CopyTo(buffer[done..]);
            done += data.Length;
        }

        return done;
    }

    public async Task WriteAsync(
        string frameVector, ulong offset, ReadOnlyMemory<byte> data, CancellationToken cancelled = default)
    {
        using var call = client.Memory.WriteMemory(cancellationToken: cancelled);
        var target = new MemoryTarget { Name = frameVector, Position = offset };
        for (var done = 0; done < data.Length || target is not null; done += Chunk)
        {
            var part = data.Slice(done, Math.Min(Chunk, data.Length - done));
            var message = new WriteMemoryRequest { Target = target, Data = UnsafeByteOperations.UnsafeWrap(part) };
            try
            {
                await call.RequestStream.WriteAsync(message, cancelled).ConfigureAwait(false);
            }
            catch (Exception exception) when (exception is not OperationCanceledException)
            {
                // The daemon ended the call: its status says why, which awaiting the answer throws.
                break;
            }

            target = null;
        }

        await call.RequestStream.CompleteAsync().ConfigureAwait(false);
        await call.ResponseAsync.ConfigureAwait(false);
    }
}
