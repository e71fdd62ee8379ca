using System.Buffers.Binary;
using System.Runtime.InteropServices;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.Pinning;

namespace FramePin.Core.Machines;

/// <summary>Runs a log of <see cref="MachineLog"/> on a new machine with the same options, step by step.</summary>
/// <remarks>
/// Every member throws <see cref="InvalidDataException"/> where the bytes are no log, have a version or a command that
/// this code does not know, or do not fit the machine that they lead to. Not thread-safe. The caller disposes the
/// machine.
/// </remarks>
public sealed class MachineReplay
{
    private readonly ReadOnlyMemory<byte> _log;
    private readonly List<Record> _records = [];
    private readonly Dictionary<VectorId, FrameVector> _vectors = [];
    private int _next;

    /// <summary>A record: a command has its number as epoch and comes before the counts of that epoch.</summary>
    private readonly record struct Record(long Epoch, ushort Kind, bool Threw, int Offset, int Length);

    /// <summary>Reads a log and makes the machine, on which nothing has run yet.</summary>
    public MachineReplay(string name, ReadOnlyMemory<byte> log)
    {
        _log = log;
        var rest = new CommandReader(log.Span);
        if (log.Length < sizeof(uint) + sizeof(ushort) || rest.U32() != MachineLog.Magic)
            throw new InvalidDataException("these bytes are no log of a machine");
        var version = BinaryPrimitives.ReadUInt16LittleEndian(log.Span[sizeof(uint)..]);
        if (version != MachineLog.Version)
        {
            throw new InvalidDataException(
                $"the log has version {version} of the format, and this program reads version {MachineLog.Version}");
        }

        rest = new CommandReader(log.Span[(sizeof(uint) + sizeof(ushort))..]);
        var optionsReader = new CommandReader(rest.Bytes());
        var options = MachineOptions.Read(ref optionsReader);
        try
        {
            Machine = new Machine(name, options);
        }
        catch (ArgumentException exception)
        {
            throw new InvalidDataException($"the log's options make no machine: {exception.Message}", exception);
        }
        var offset = log.Length - rest.Left;
        while (offset < log.Length) offset = Index(offset);
        // Counts may stand behind later commands; the order within an epoch is kept.
        var sorted = _records.OrderBy(record => record.Epoch)
            .ThenBy(record => record.Kind == MachineLog.CountRecord).ToList();
        _records.Clear();
        _records.AddRange(sorted);
        Machine.Context.IsReplay = Left > 0;
    }

    public Machine Machine { get; }

    /// <summary>Records left.</summary>
    public int Left => _records.Count - _next;

    /// <summary>Runs the rest of the log. The machine can go on by itself afterwards.</summary>
    public void RunToEnd()
    {
        while (Left > 0) Step();
    }

    /// <summary>Runs up to and with the command of a number, and the counts before the next command.</summary>
    public void RunTo(long command)
    {
        while (Left > 0 && _records[_next].Epoch <= command) Step();
    }

    /// <summary>Runs one record. False at the end.</summary>
    public bool Step()
    {
        if (Left == 0) return false;
        var record = _records[_next++];
        try
        {
            Run(record);
        }
        catch (Exception exception) when (exception is not InvalidDataException)
        {
            throw new InvalidDataException(
                $"the record behind command {record.Epoch} cannot be run: {exception.Message}", exception);
        }

        if (Left == 0) Machine.Context.IsReplay = false;
        return true;
    }

    private void Run(in Record record)
    {
        var fields = _log.Span.Slice(record.Offset, record.Length);
        if (record.Kind == MachineLog.CountRecord)
        {
            var reader = new CommandReader(fields);
            Count(MachineLog.ReadCount(record.Epoch, ref reader), ref reader);
            return;
        }

        if (record.Threw) RunThrowing(record.Kind, fields);
        else CommandTable.Run(Machine, record.Kind, fields);
        if (Machine.CommandNumber == record.Epoch) return;
        throw new InvalidDataException(
            $"command {record.Epoch} ({CommandTable.NameOf(record.Kind)}) got number {Machine.CommandNumber}");
    }

    /// <summary>A command that threw has a number, and throws again.</summary>
    private void RunThrowing(ushort kind, ReadOnlySpan<byte> fields)
    {
        try
        {
            CommandTable.Run(Machine, kind, fields);
        }
        catch (Exception exception) when (exception is not InvalidDataException)
        {
            return;
        }

        throw new InvalidDataException($"{CommandTable.NameOf(kind)} threw when the log was written, and does not now");
    }

    private int Index(int offset)
    {
        var reader = new CommandReader(_log.Span[offset..]);
        var written = reader.U16();
        var (kind, threw) = ((ushort)(written & ~MachineLog.Threw), (written & MachineLog.Threw) != 0);
        var (epoch, length) = (reader.I64(), reader.I32());
        var start = _log.Length - reader.Left;
        if (length < 0 || length > reader.Left)
            throw new InvalidDataException($"the record at byte {offset} ends behind the log");
        if (kind != MachineLog.CountRecord && CommandTable.NameOf(kind) is null)
            throw new InvalidDataException($"the record at byte {offset} is command {kind}, which is not known here");
        _records.Add(new Record(epoch, kind, threw, start, length));
        return start + length;
    }

    private FrameVector MakeVector(in CountEvent counted)
    {
        try
        {
            return Machine.VectorOf(counted.Vector, counted.Slots);
        }
        catch
        {
            _vectors.Remove(counted.Vector);
            throw;
        }
    }

    private void Count(in CountEvent counted, ref CommandReader rest)
    {
        ref var vector = ref CollectionsMarshal.GetValueRefOrAddDefault(_vectors, counted.Vector, out var isKnown);
        if (!isKnown) vector = MakeVector(counted);
        switch (counted.Kind)
        {
            case CountKind.Pin:
                var taken = Machine.PinWithoutTurn(counted.Request, vector!, counted.MetFork);
                if (taken == counted.Pages) return;
                throw new InvalidDataException(
                    $"a pin of {counted.Vector} after command {counted.Epoch} took {taken} pages, not {counted.Pages}");
            case CountKind.Put or CountKind.PutDirty:
                Machine.Put(vector!, counted.Kind == CountKind.PutDirty);
                return;
            case CountKind.Write:
                var offset = rest.U64();
                Machine.CopyFrames(vector!, offset, rest.Bytes().ToArray(), isWrite: true, out _);
                return;
            case CountKind.ToPages:
                Machine.ToPages(vector!);
                return;
            case CountKind.ToPfns:
                Machine.ToPfns(vector!);
                return;
            case CountKind.Destroy:
                Machine.DestroyVector(vector!);
                _vectors.Remove(counted.Vector);
                return;
            default:
                throw new InvalidDataException($"no count has kind {(int)counted.Kind}");
        }
    }
}
