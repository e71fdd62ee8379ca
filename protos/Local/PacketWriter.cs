using System.Buffers;
using System.Buffers.Binary;
using Google.Protobuf;
using Grpc.Core;

namespace FramePin.V1.Local;

/// <summary>
/// Packets on their way out, one behind the other in one buffer, so that they leave by one system call.
/// </summary>
/// <remarks>One thread at a time. The buffer is used again: packets of usual size allocate nothing.</remarks>
public sealed class PacketWriter : SerializationContext, IBufferWriter<byte>
{
    /// <summary>Bytes before a payload: its length and its kind.</summary>
    public const int HeaderLength = 5;

    /// <summary>Bytes of a buffer that is kept; a larger one goes with the packets that needed it.</summary>
    internal const int KeptBytes = 1 << 16;

    private const int FirstBytes = 512;

    private byte[] _buffer = new byte[FirstBytes];
    private int _length;

    /// <summary>Everything appended since <see cref="Clear"/>.</summary>
    public ReadOnlyMemory<byte> Packets => _buffer.AsMemory(0, _length);

    /// <summary>Forgets what was appended.</summary>
    public void Clear()
    {
        _length = 0;
        if (_buffer.Length > KeptBytes) _buffer = new byte[FirstBytes];
    }

    /// <summary>Appends a packet of the protocol's own; null: one without a payload.</summary>
    public void Append(PacketKind kind, IMessage? content)
    {
        var start = Begin(kind);
        content?.WriteTo(this);
        Finish(start);
    }

    /// <summary>Appends a message of a method.</summary>
    public void Append<T>(Marshaller<T> marshaller, T message)
    {
        ArgumentNullException.ThrowIfNull(marshaller);
        var start = Begin(PacketKind.Message);
        marshaller.ContextualSerializer(message, this);
        Finish(start);
    }

    /// <inheritdoc />
    public void Advance(int count) => _length += count;

    /// <inheritdoc />
    public Memory<byte> GetMemory(int sizeHint = 0)
    {
        MakeRoom(sizeHint);
        return _buffer.AsMemory(_length);
    }

    /// <inheritdoc />
    public Span<byte> GetSpan(int sizeHint = 0)
    {
        MakeRoom(sizeHint);
        return _buffer.AsSpan(_length);
    }

    /// <inheritdoc />
    public override void Complete(byte[] payload) => this.Write(payload);

    /// <inheritdoc />
    public override void Complete()
    {
    }

    /// <inheritdoc />
    public override IBufferWriter<byte> GetBufferWriter() => this;

    /// <inheritdoc />
    public override void SetPayloadLength(int payloadLength) => MakeRoom(payloadLength);

    private int Begin(PacketKind kind)
    {
        var start = _length;
        MakeRoom(HeaderLength);
        _buffer[start + HeaderLength - 1] = (byte)kind;
        _length += HeaderLength;
        return start;
    }

    private void Finish(int start) =>
        BinaryPrimitives.WriteInt32LittleEndian(_buffer.AsSpan(start), _length - start - HeaderLength);

    private void MakeRoom(int count)
    {
        var needed = _length + Math.Max(count, 1);
        if (needed > _buffer.Length) Array.Resize(ref _buffer, Math.Max(needed, 2 * _buffer.Length));
    }
}
