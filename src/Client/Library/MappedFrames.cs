using FramePin.Client.Native;

namespace FramePin.Client;

/// <summary>Frames of a machine, one behind the other in this process, until the object is disposed.</summary>
/// <remarks>Any thread. Owns its mapping, or its view of the mapping of the whole memory.</remarks>
public sealed class MappedFrames : IDisposable
{
    private readonly LocalMapping _mapping;
    private readonly Action _unmapped;

    internal MappedFrames(LocalMapping mapping, Action unmapped)
    {
        _mapping = mapping;
        _unmapped = unmapped;
    }

    /// <summary>Bytes.</summary>
    public ulong Length => _mapping.Length;

    /// <summary>
    /// The frames themselves, at most 2 GiB: the stores of others appear here at once. A span is not to be used after
    /// the object is disposed. Frames that follow each other stay mapped in the process then, and belong to somebody
    /// else.
    /// </summary>
    public Span<byte> Bytes => _mapping.Bytes;

    /// <summary>Unmaps the frames, and tells the daemon where it holds them for this process. Once.</summary>
    public void Dispose()
    {
        if (!_mapping.TryDispose()) return;
        _unmapped();
    }
}
