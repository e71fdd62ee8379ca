namespace FramePin.Client;

/// <summary>
/// The bytes of pinned frames as a device sees them. Code against this interface works with frames over the wire and
/// with frames that are mapped into its own process.
/// </summary>
public interface IFrameMemory
{
    /// <summary>
    /// Reads from byte <paramref name="offset"/> of the vector's frames. Returns the bytes read, fewer at its end.
    /// </summary>
    /// <param name="frameVector">Name of the vector.</param>
    /// <param name="offset">First byte, counted from the first frame.</param>
    /// <param name="buffer">Where the bytes go.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    /// <exception cref="FramePinException">The vector is gone, or a frame cannot be read.</exception>
    Task<int> ReadAsync(
        string frameVector, ulong offset, Memory<byte> buffer, CancellationToken cancellationToken = default);

    /// <summary>
    /// Writes all of <paramref name="data"/> from byte <paramref name="offset"/> of the vector's frames on.
    /// </summary>
    /// <param name="frameVector">Name of the vector.</param>
    /// <param name="offset">First byte, counted from the first frame.</param>
    /// <param name="data">The bytes.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    /// <exception cref="FramePinException">The vector is gone, or a frame cannot be written.</exception>
    Task WriteAsync(
        string frameVector, ulong offset, ReadOnlyMemory<byte> data, CancellationToken cancellationToken = default);
}

/// <summary>Frames over MemoryService, in chunks of 64 KiB.</summary>
/// <remarks>Any thread. Owns nothing.</remarks>
/// <param name="client">The daemon.</param>
public sealed class RemoteFrameMemory(FramePinClient client) : IFrameMemory
{
    /// <inheritdoc />
    public Task<int> ReadAsync(
        string frameVector, ulong offset, Memory<byte> buffer, CancellationToken cancellationToken = default) =>
        MemoryTransfer.ReadAsync(client, frameVector, offset, buffer, cancellationToken);

    /// <inheritdoc />
    public Task WriteAsync(
        string frameVector, ulong offset, ReadOnlyMemory<byte> data, CancellationToken cancellationToken = default) =>
        MemoryTransfer.WriteAsync(client, frameVector, offset, data, cancellationToken);
}
