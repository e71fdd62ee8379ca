using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Pinning;

namespace FramePin.Core.Machines;

/// <summary>
/// Told about every command and every change of counts of a machine. A journal, a history and tracepoints are made from
/// it.
/// </summary>
public interface IMachineObserver
{
    /// <summary>
    /// A command has run. Called under the turn, in the order of the numbers; must not call the machine.
    /// </summary>
    /// <param name="number">Number of the command in its machine, from 1.</param>
    /// <param name="kind">
    /// Number of the command's type in <see cref="CommandTable"/>; with the highest bit for a command that threw.
    /// </param>
    /// <param name="fields">The command's fields. Valid during the call only.</param>
    void Executed(long number, ushort kind, ReadOnlySpan<byte> fields);

    /// <summary>
    /// Counts of frames have changed beside the turn: a pin of resident pages, or a put. Called on the thread that
    /// pinned, outside the gate, and beside other calls. Events of one vector come in their order; events of several
    /// vectors between the same two commands commute.
    /// </summary>
    void Counted(in CountEvent counted);

    /// <summary>
    /// Bytes were stored to a vector's frames beside the turn, as a device does. Called on the thread that stored.
    /// Bytes decide little of the state: only whether a huge page that is taken apart has pages without contents.
    /// </summary>
    /// <param name="epoch">Number of the last command before it.</param>
    /// <param name="vector">The vector.</param>
    /// <param name="offset">First byte, from the first frame on.</param>
    /// <param name="bytes">Valid during the call only.</param>
    void Written(long epoch, VectorId vector, ulong offset, ReadOnlySpan<byte> bytes);
}

/// <summary>What happened to a vector beside the turn.</summary>
public enum CountKind : byte
{
    /// <summary>The part of a pin that takes no turn has run.</summary>
    Pin,

    /// <summary>put_vaddr_frames.</summary>
    Put,

    /// <summary>put_vaddr_frames after each page was marked dirty.</summary>
    PutDirty,

    /// <summary>frame_vector_to_pages.</summary>
    ToPages,

    /// <summary>frame_vector_to_pfns.</summary>
    ToPfns,

    /// <summary>frame_vector_destroy.</summary>
    Destroy,

    /// <summary>A device stored bytes.</summary>
    Write,
}

/// <summary>One change of counts beside the turn.</summary>
/// <param name="Kind">What happened.</param>
/// <param name="Epoch">Number of the last command before it; it grows from one event of a vector to the next.</param>
/// <param name="Vector">The vector.</param>
/// <param name="Slots">Slots of the vector, so that a replay can make it.</param>
/// <param name="Pages">Pages that a pin took.</param>
/// <param name="MetFork">The fault plan had a fork meet the pin's fast walk.</param>
/// <param name="Request">The pin's arguments.</param>
public readonly record struct CountEvent(
    CountKind Kind, long Epoch, VectorId Vector, long Slots, long Pages, bool MetFork, PinRequest Request);
