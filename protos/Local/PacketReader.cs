using System.Buffers;
using System.Buffers.Binary;
using Grpc.Core;

namespace FramePin.V1.Local;

/// <summary>Cuts what a socket brings into packets.</summary>
/// <remarks>
/// One thread at a time: fill <see cref="Free"/>, say how much by <see cref="Received"/>, then take packets until there
/// is none. Nothing is allocated for packets of usual size.
/// </remarks>
/// <param name="payloadMax">Bytes of a payload; a longer one is refused.</param>
public sealed class PacketReader(int payloadMax) : DeserializationContext
{
    private const int FirstBytes = 4096;

    private byte[] _buffer = new byte[FirstBytes];
    private int _start;
    private int _end;
    private int _payload;
    private int _payloadLength;

    /// <summary>Where the next bytes go; never empty.</summary>
    public Memory<byte> Free
    {
        get
        {
            if (_start == _end)
            {
                _start = _end = 0;
                if (_buffer.Length > PacketWriter.KeptBytes) _buffer = new byte[FirstBytes];
            }

            if (_end == _buffer.Length) MakeRoom();
            return _buffer.AsMemory(_end);
        }
    }

    /// <inheritdoc />
    public override int PayloadLength => _payloadLength;

    /// <summary>So many bytes of <see cref="Free"/> are filled.</summary>
    public void Received(int count) => _end += count;

    /// <summary>
    /// The next packet, if it is there as a whole; its payload is this reader's until the next call. Throws
    /// <see cref="InvalidDataException"/> for a length that cannot be right.
    /// </summary>
    public bool TryTake(out PacketKind kind)
    {
        kind = default;
        var have = _end - _start;
        if (have < PacketWriter.HeaderLength) return false;
        var length = BinaryPrimitives.ReadInt32LittleEndian(_buffer.AsSpan(_start));
        if (length < 0 || length > payloadMax)
            throw new InvalidDataException($"a payload of {(uint)length} bytes, {payloadMax} allowed");
        if (have < PacketWriter.HeaderLength + length) return false;
        kind = (PacketKind)_buffer[_start + PacketWriter.HeaderLength - 1];
        _payload = _start + PacketWriter.HeaderLength;
        _payloadLength = length;
        _start = _payload + length;
        return true;
    }

    /// <summary>The payload as a message of a method.</summary>
    public T Read<T>(Marshaller<T> marshaller)
    {
        ArgumentNullException.ThrowIfNull(marshaller);
        return marshaller.ContextualDeserializer(this);
    }

    /// <inheritdoc />
    public override byte[] PayloadAsNewBuffer() => _buffer.AsSpan(_payload, _payloadLength).ToArray();

    /// <inheritdoc />
    public override ReadOnlySequence<byte> PayloadAsReadOnlySequence() => new(_buffer, _payload, _payloadLength);

    private void MakeRoom()
    {
        // A packet that begins late in the buffer is moved to its start; one that fills it needs a larger one.
        var have = _end - _start;
        var target = _start > 0 ? _buffer
            : new byte[Math.Min(2 * _buffer.Length, PacketWriter.HeaderLength + payloadMax)];
        _buffer.AsSpan(_start, have).CopyTo(target);
        (_buffer, _start, _end) = (target, 0, have);
    }
}
