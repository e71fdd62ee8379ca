using FramePin.V1;

namespace FramePin.Client;

/// <summary>A memory file of a machine.</summary>
/// <remarks>
/// Any thread. The object is a name and its client, and holds nothing on the daemon. Every method is one call and
/// throws <see cref="FramePinException"/>: NotFound for a file that is gone.
/// </remarks>
public sealed class FramePinFile
{
    private readonly FramePinClient _client;

    internal FramePinFile(FramePinClient client, MemoryFileName name)
    {
        _client = client;
        Name = name;
    }

    /// <summary>"machines/{machine}/files/{id}".</summary>
    public MemoryFileName Name { get; }

    /// <summary>Describes the file.</summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task<V1.File> GetAsync(CancellationToken cancellationToken = default) =>
        _client.Files.GetFileAsync(new GetFileRequest { Name = Name }, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken);

    /// <summary>ftruncate: pages behind the new end leave the file and every mapping of it.</summary>
    /// <param name="sizeBytes">The new size in bytes.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task TruncateAsync(ulong sizeBytes, CancellationToken cancellationToken = default) =>
        _client.Files.TruncateFileAsync(
            new TruncateFileRequest { Name = Name, SizeBytes = sizeBytes, RequestId = FramePinCalls.NewRequestId() },
            cancellationToken: cancellationToken).TypedAsync(cancellationToken);

    /// <summary>fallocate with FALLOC_FL_PUNCH_HOLE.</summary>
    /// <param name="offset">First byte of the hole.</param>
    /// <param name="length">Bytes of the hole.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task PunchHoleAsync(ulong offset, ulong length, CancellationToken cancellationToken = default) =>
        _client.Files.PunchHoleAsync(
            new PunchHoleRequest
            {
                Name = Name,
                Offset = offset,
                Length = length,
                RequestId = FramePinCalls.NewRequestId()
            },
            cancellationToken: cancellationToken).TypedAsync(cancellationToken);

    /// <summary>fcntl with F_ADD_SEALS and F_SEAL_WRITE. EBUSY while shared writable mappings or pins exist.</summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task SealAsync(CancellationToken cancellationToken = default) =>
        _client.Files.SealFileAsync(
            new SealFileRequest { Name = Name, RequestId = FramePinCalls.NewRequestId() },
            cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken);

    /// <summary>unlink: the name goes at once, the file with its last mapping.</summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task DeleteAsync(CancellationToken cancellationToken = default) =>
        _client.Files.DeleteFileAsync(
            new DeleteFileRequest { Name = Name, RequestId = FramePinCalls.NewRequestId() },
            cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken);

    /// <summary>Reads bytes of the file. Returns their count, which is smaller at the file's end.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="buffer">Where they go.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task<int> ReadAsync(ulong offset, Memory<byte> buffer, CancellationToken cancellationToken = default) =>
        MemoryTransfer.ReadAsync(_client, Name, offset, buffer, cancellationToken);

    /// <summary>Writes all of <paramref name="data"/> to the file.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="data">The bytes.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task WriteAsync(ulong offset, ReadOnlyMemory<byte> data, CancellationToken cancellationToken = default) =>
        MemoryTransfer.WriteAsync(_client, Name, offset, data, cancellationToken);

    /// <summary>The name of the file.</summary>
    public override string ToString() => Name.ToString();
}
