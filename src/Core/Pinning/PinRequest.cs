using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;

namespace FramePin.Core.Pinning;

/// <summary>The arguments of a pin: get_vaddr_frames by the machine's era, or a raw call of mm/gup.c.</summary>
/// <param name="Space">The address space whose memory is pinned.</param>
/// <param name="Start">Address in bytes; need not be aligned.</param>
/// <param name="Count">Pages; above the vector's slots it is clamped (row 4).</param>
/// <param name="Flags">
/// FOLL_* flags from outside. get_vaddr_frames takes WRITE, and FORCE in era A; the eras that ignore one ignore it.
/// </param>
public readonly record struct PinRequest(SpaceId Space, ulong Start, long Count, GupFlags Flags)
{
    /// <summary>
    /// The call's number plus one; 0 for get_vaddr_frames. One word: the processor forwards a store to a load of the
    /// same width at once, and to a wider one late.
    /// </summary>
    private readonly int _call;

    /// <summary>The raw call; null for get_vaddr_frames.</summary>
    public GupCall? Call
    {
        get => IsHelper ? null : RawCall;
        init => _call = value is { } call ? (int)call + 1 : 0;
    }

    /// <summary>get_vaddr_frames, and no raw call.</summary>
    internal bool IsHelper => _call == 0;

    /// <summary>The raw call. Not for get_vaddr_frames.</summary>
    internal GupCall RawCall => (GupCall)(_call - 1);

    /// <summary>The caller's <c>locked</c> argument; only the remote calls look at it.</summary>
    public LockedArgument Locked { get; init; }

    internal void Write(CommandWriter writer) => writer.Add(Space).Add(Start).Add(Count).Add((uint)Flags)
        .Add(Call is null ? -1 : (int)Call.Value).Add((int)Locked);

    internal static PinRequest Read(ref CommandReader reader)
    {
        var request = new PinRequest(reader.Space(), reader.U64(), reader.I64(), (GupFlags)reader.U32());
        var call = reader.I32();
        return request with { Call = call < 0 ? null : (GupCall)call, Locked = (LockedArgument)reader.I32() };
    }
}

/// <summary>The answer to a pin.</summary>
public readonly record struct PinOutcome
{
    /// <summary>Pages taken (fewer than asked for is a legal partial result), or the errno of the first page.</summary>
    public required GupResult Result { get; init; }

    /// <summary>Why it stopped short, or failed; <see cref="StopReason.None"/> when every page was taken.</summary>
    public required StopReason Reason { get; init; }

    /// <summary>Number of the last command before the pin; of the pin's own command on the slow path.</summary>
    public long Epoch { get; init; }

    /// <summary>Times a fault dropped the lock.</summary>
    public int Retries { get; init; }

    /// <summary>The slow path ran.</summary>
    public bool IsSlow { get; init; }

    /// <summary>Set when a fault waits: <see cref="ResumePinCall"/> takes the pin up again.</summary>
    public ParkedPin? Parked { get; init; }
}

/// <summary>A pin that waits at a fault. It holds no lock; its frame vector holds the pages taken so far.</summary>
public sealed class ParkedPin
{
    internal ParkedPin(ParkedPinId id, PinOperation operation)
    {
        Id = id;
        Operation = operation;
        Space = operation.Space.Id;
        Address = operation.ParkedAt;
    }

    public ParkedPinId Id { get; }

    public SpaceId Space { get; }

    /// <summary>Address of the fault, in bytes.</summary>
    public ulong Address { get; }

    internal PinOperation Operation { get; }
}
