using System.Buffers.Binary;
using System.Text;
using FramePin.Core.Addressing;

namespace FramePin.Core.Kernel;

/// <summary>Takes the fields of a command from bytes, in the order in which they were written.</summary>
/// <remarks>Every member throws <see cref="InvalidDataException"/> where the bytes end too early.</remarks>
public ref struct CommandReader(ReadOnlySpan<byte> bytes)
{
    private ReadOnlySpan<byte> _rest = bytes;

    /// <summary>Bytes not read yet.</summary>
    public readonly int Left => _rest.Length;

    public ulong U64() => BinaryPrimitives.ReadUInt64LittleEndian(Next(sizeof(ulong)));

    public long I64() => unchecked((long)U64());

    public uint U32() => BinaryPrimitives.ReadUInt32LittleEndian(Next(sizeof(uint)));

    public ushort U16() => BinaryPrimitives.ReadUInt16LittleEndian(Next(sizeof(ushort)));

    public int I32() => unchecked((int)U32());

    public bool Bool() => Next(1)[0] switch
    {
        0 => false,
        1 => true,
        var other => throw new InvalidDataException($"a truth value of a command is {other}, and not 0 or 1"),
    };

    public SpaceId Space() => new(I32());

    public FileId File() => new(I32());

    public DeviceId Device() => new(I32());

    public UffdId Uffd() => new(I32());

    public RingId Ring() => new(I32());

    public VectorId Vector() => new(U64());

    public ParkedPinId ParkedPin() => new(I64());

    public HoldId Hold() => new(I64());

    public AddressRange Range() => new(U64(), U64());

    /// <summary>A text that is never null.</summary>
    public string Name() => Text() ?? throw new InvalidDataException("a name is missing in a command");

    /// <summary>Null where null was written.</summary>
    public string? Text()
    {
        var count = I32();
        return count == -1 ? null : Encoding.UTF8.GetString(Next(count));
    }

    /// <summary>
    /// Room for bytes of which only the number was written: a replay of a load needs somewhere to load to.
    /// </summary>
    public byte[] Room()
    {
        const int most = 1 << 26;
        var length = I32();
        return length is >= 0 and <= most
            ? new byte[length]
            : throw new InvalidDataException($"{length} bytes of room");
    }

    /// <summary>The bytes themselves, not a copy.</summary>
    public ReadOnlySpan<byte> Bytes() => Next(I32());

    private ReadOnlySpan<byte> Next(int count)
    {
        if (count < 0 || count > _rest.Length)
            throw new InvalidDataException($"a command ends {_rest.Length} bytes on, and {count} are wanted");
        var taken = _rest[..count];
        _rest = _rest[count..];
        return taken;
    }
}
