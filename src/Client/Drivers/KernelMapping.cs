using FramePin.Client;

namespace FramePin.Drivers;

/// <summary>Memory of the driver's own: a device that can be mapped, and the driver's view of it.</summary>
/// <remarks>Owned by the driver, which frees it by <see cref="DriverKernel.FreeAsync"/>.</remarks>
/// <param name="Device">Name of the device.</param>
/// <param name="Frames">Its frames.</param>
public sealed record KernelBuffer(string Device, PinnedFrames Frames);

/// <summary>A driver's view of frames: their bytes one behind the other.</summary>
/// <remarks>One user at a time. Owns its mapping, and not the frames.</remarks>
public sealed class KernelMapping : IDisposable
{
    private readonly MappedFrames? _mapped;
    private readonly RemoteFrameMemory? _remote;
    private readonly string _vector = "";

    internal KernelMapping(MappedFrames mapped)
    {
        _mapped = mapped;
        Length = mapped.Length;
    }

    internal KernelMapping(RemoteFrameMemory remote, string vector, ulong length)
    {
        _remote = remote;
        _vector = vector;
        Length = length;
    }

    /// <summary>Bytes.</summary>
    public ulong Length { get; }

    /// <summary>
    /// Gives the bytes themselves, where this process has them mapped. The application sees a store to them at once.
    /// </summary>
    /// <param name="bytes">The bytes, not to be used after the mapping is disposed; empty when they are not mapped.
    /// </param>
    /// <returns>False when the frames are read and written through the daemon.</returns>
    public bool TryGetBytes(out Span<byte> bytes)
    {
        bytes = _mapped is null ? default : _mapped.Bytes;
        return _mapped is not null;
    }

    /// <summary>Stores bytes, through the daemon where they are not mapped.</summary>
    /// <param name="offset">First byte, counted from the first frame.</param>
    /// <param name="data">The bytes.</param>
    /// <param name="cancellationToken">Gives a call through the daemon up.</param>
    /// <exception cref="FramePinException">The daemon refuses.</exception>
    public async ValueTask WriteAsync(
        ulong offset, ReadOnlyMemory<byte> data, CancellationToken cancellationToken = default)
    {
        if (_mapped is not null) data.Span.CopyTo(_mapped.Bytes[checked((int)offset)..]);
        else await _remote!.WriteAsync(_vector, offset, data, cancellationToken).ConfigureAwait(false);
    }

    /// <summary>Loads bytes. Returns their count, which is smaller at the end of the frames.</summary>
    /// <param name="offset">First byte, counted from the first frame.</param>
    /// <param name="buffer">Where they go.</param>
    /// <param name="cancellationToken">Gives a call through the daemon up.</param>
    /// <exception cref="FramePinException">The daemon refuses.</exception>
    public async ValueTask<int> ReadAsync(
        ulong offset, Memory<byte> buffer, CancellationToken cancellationToken = default)
    {
        if (_mapped is null)
            return await _remote!.ReadAsync(_vector, offset, buffer, cancellationToken).ConfigureAwait(false);
        if (offset >= _mapped.Length) return 0;
        var count = (int)Math.Min((ulong)buffer.Length, _mapped.Length - offset);
        _mapped.Bytes.Slice((int)offset, count).CopyTo(buffer.Span);
        return count;
    }

    /// <summary>Unmaps the frames.</summary>
    public void Dispose() => _mapped?.Dispose();
}
