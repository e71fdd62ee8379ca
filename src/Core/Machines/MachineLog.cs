using System.Buffers.Binary;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.Pinning;

namespace FramePin.Core.Machines;

/// <summary>
/// Everything that happened to a machine as bytes: its options, then a record for each command and for each change of
/// counts beside the turn. <see cref="MachineReplay"/> reads it.
/// </summary>
/// <remarks>
/// Format, little-endian: the magic number "FPLG", a 16-bit version, a 32-bit length and the options; then records of a
/// 16-bit kind (0 for a count), a 64-bit epoch, a 32-bit length and the fields. The epoch of a command is its number,
/// that of a count the number of the last command before it. A count may stand behind commands with higher numbers,
/// since a pin is told behind the gate; the counts of one vector stand in their order. A kind with the highest bit set
/// is a command that threw. Stores of attached processes are not in the log: they reach the memory past the machine.
/// Any thread.
/// </remarks>
public sealed class MachineLog : IMachineObserver
{
    /// <summary>
    /// Version of the format that this code writes and reads. It rises with each change of the header, of a record's
    /// frame, or of the fields of a command or a count. A new command with a new number does not raise it.
    /// </summary>
    public const ushort Version = 3;

    /// <summary>"FPLG".</summary>
    internal const uint Magic = 0x474C_5046;

    /// <summary>Set in the kind of a command that threw.</summary>
    internal const ushort Threw = 0x8000;

    /// <summary>Kind of a record that is no command.</summary>
    internal const ushort CountRecord = 0;

    private const int HeaderLength = sizeof(ushort) + sizeof(long) + sizeof(int);

    private readonly Lock _lock = new();
    private readonly Stream _stream;
    private readonly CommandWriter _fields = new();

    /// <summary>Begins a log.</summary>
    /// <param name="stream">Receives the bytes; the caller flushes and closes it when the machine is gone.</param>
    /// <param name="options">Options of the machine.</param>
    public MachineLog(Stream stream, MachineOptions options)
    {
        _stream = stream;
        var writer = new CommandWriter();
        options.Write(writer);
        Span<byte> head = stackalloc byte[sizeof(uint) + sizeof(ushort) + sizeof(int)];
        BinaryPrimitives.WriteUInt32LittleEndian(head, Magic);
        BinaryPrimitives.WriteUInt16LittleEndian(head[sizeof(uint)..], Version);
        BinaryPrimitives.WriteInt32LittleEndian(head[(sizeof(uint) + sizeof(ushort))..], writer.Written.Length);
        stream.Write(head);
        stream.Write(writer.Written);
    }

    /// <summary>Records so far.</summary>
    public long Records { get; private set; }

    public void Executed(long number, ushort kind, ReadOnlySpan<byte> fields)
    {
        lock (_lock) Append(kind, number, fields);
    }

    public void Counted(in CountEvent counted)
    {
        lock (_lock)
        {
            _fields.Clear();
            _fields.Add((uint)counted.Kind).Add(counted.Vector).Add(counted.Slots).Add(counted.Pages);
            if (counted.Kind == CountKind.Pin) counted.Request.Write(_fields.Add(counted.MetFork));
            Append(CountRecord, counted.Epoch, _fields.Written);
        }
    }

    public void Written(long epoch, VectorId vector, ulong offset, ReadOnlySpan<byte> bytes)
    {
        lock (_lock)
        {
            _fields.Clear();
            _fields.Add((uint)CountKind.Write).Add(vector).Add(0L).Add(0L).Add(offset).Add(bytes);
            Append(CountRecord, epoch, _fields.Written);
        }
    }

    internal static CountEvent ReadCount(long epoch, ref CommandReader reader)
    {
        var kind = (CountKind)reader.U32();
        var (vector, slots, pages) = (reader.Vector(), reader.I64(), reader.I64());
        var metFork = kind == CountKind.Pin && reader.Bool();
        var request = kind == CountKind.Pin ? PinRequest.Read(ref reader) : default;
        return new CountEvent(kind, epoch, vector, slots, pages, metFork, request);
    }

    private void Append(ushort kind, long epoch, ReadOnlySpan<byte> fields)
    {
        Span<byte> header = stackalloc byte[HeaderLength];
        BinaryPrimitives.WriteUInt16LittleEndian(header, kind);
        BinaryPrimitives.WriteInt64LittleEndian(header[sizeof(ushort)..], epoch);
        BinaryPrimitives.WriteInt32LittleEndian(header[(sizeof(ushort) + sizeof(long))..], fields.Length);
        _stream.Write(header);
        _stream.Write(fields);
        Records++;
    }
}
