using System.Buffers.Binary;
using System.Text;
using FramePin.Core.Addressing;

namespace FramePin.Core.Kernel;

/// <summary>
/// The fields of a command as bytes: little-endian numbers of fixed width, lengths as 32-bit numbers in front of bytes.
/// </summary>
/// <remarks>
/// One buffer that grows and is used again, so that a command writes without an allocation. Not thread-safe; the
/// machine's turn guards the writer of its observer.
/// </remarks>
public sealed class CommandWriter
{
    private byte[] _buffer = new byte[256];
    private int _length;

    /// <summary>The bytes so far. Valid until the next write.</summary>
    public ReadOnlySpan<byte> Written => _buffer.AsSpan(0, _length);

    /// <summary>Forgets what was written.</summary>
    public void Clear() => _length = 0;

    public CommandWriter Add(ulong value)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(Next(sizeof(ulong)), value);
        return this;
    }

    public CommandWriter Add(long value) => Add(unchecked((ulong)value));

    public CommandWriter Add(uint value)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(Next(sizeof(uint)), value);
        return this;
    }

    public CommandWriter Add(int value) => Add(unchecked((uint)value));

    public CommandWriter Add(bool value)
    {
        Next(1)[0] = value ? (byte)1 : (byte)0;
        return this;
    }

    public CommandWriter Add(SpaceId value) => Add(value.Value);

    public CommandWriter Add(FileId value) => Add(value.Value);

    public CommandWriter Add(DeviceId value) => Add(value.Value);

    public CommandWriter Add(UffdId value) => Add(value.Value);

    public CommandWriter Add(RingId value) => Add(value.Value);

    public CommandWriter Add(VectorId value) => Add(value.Value);

    public CommandWriter Add(ParkedPinId value) => Add(value.Value);

    public CommandWriter Add(HoldId value) => Add(value.Value);

    public CommandWriter Add(AddressRange value) => Add(value.Start).Add(value.End);

    /// <summary>UTF-8; null is told apart from the empty string.</summary>
    public CommandWriter Add(string? value)
    {
        if (value is null) return Add(-1);
        var count = Encoding.UTF8.GetByteCount(value);
        Add(count);
        Encoding.UTF8.GetBytes(value, Next(count));
        return this;
    }

    public CommandWriter Add(ReadOnlySpan<byte> value)
    {
        Add(value.Length);
        value.CopyTo(Next(value.Length));
        return this;
    }

    private Span<byte> Next(int count)
    {
        if (_buffer.Length - _length < count) Array.Resize(ref _buffer, Math.Max(_buffer.Length * 2, _length + count));
        _length += count;
        return _buffer.AsSpan(_length - count, count);
    }
}
