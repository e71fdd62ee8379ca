using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;

namespace FramePin.Core.Pinning;

/// <summary>The part of a pin that needs the turn: areas, faults, retries, migration.</summary>
/// <param name="Request">The arguments.</param>
/// <param name="Vector">Receives the frames behind those that the fast walk put there.</param>
/// <param name="Slots">Slots of the vector, so that a replay can make it.</param>
/// <param name="Taken">Pages that the fast walk took.</param>
public readonly partial record struct PinCall(PinRequest Request, VectorId Vector, long Slots, long Taken)
    : ICommand<PinCall, PinOutcome>
{
    public PinOutcome Run(in Turn turn)
    {
        var pins = PinTable.Of(turn.Kernel);
        var vector = InHand ?? pins.Vector(turn.Kernel, Vector, Slots);
        return pins.Run(turn.Kernel, new PinOperation(turn.Kernel, Request, vector, Taken, Signal));
    }

    /// <summary>The vector itself, which saves the caller a look-up. It is not written.</summary>
    internal FrameVector? InHand { get; init; }

    /// <summary>The signal of a caller that may give up; null: the walk runs whole.</summary>
    internal PinSignal? Signal { get; init; }

    /// <summary>Called when it has run: whether and where the signal came is known by then.</summary>
    public void Write(CommandWriter writer)
    {
        Request.Write(writer);
        writer.Add(Vector).Add(Slots).Add(Taken).Add(Signal?.At ?? PinSignal.None);
    }

    public static PinCall Read(ref CommandReader reader)
    {
        var call = new PinCall(PinRequest.Read(ref reader), reader.Vector(), reader.I64(), reader.I64());
        var signal = reader.I64();
        return signal == PinSignal.None ? call : call with { Signal = new PinSignal(signal) };
    }
}

/// <summary>Takes a parked pin up again: the fault at which it waits may be tried anew. It may park again.</summary>
/// <param name="Pin">The pin.</param>
/// <param name="IsKilled">A fatal signal ends it with the pages that it has, or -EINTR.</param>
/// <returns>The outcome; null when the pin does not wait any more.</returns>
public readonly record struct ResumePinCall(ParkedPinId Pin, bool IsKilled)
    : ICommand<ResumePinCall, PinOutcome?>, IInvalidating
{
    /// <summary>The pages that the pin would take if it began now: a fork may have come while it waited.</summary>
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (PinTable.Of(turn.Kernel).Find(Pin) is { } operation) operation.AsCall().AddTaken(turn, taken);
    }

    public PinOutcome? Run(in Turn turn)
    {
        var pins = PinTable.Of(turn.Kernel);
        if (pins.Take(Pin) is not { } operation) return null;
        if (IsKilled) operation.IsKilled = true;
        return pins.Run(turn.Kernel, operation);
    }

    public void Write(CommandWriter writer) => writer.Add(Pin).Add(IsKilled);

    public static ResumePinCall Read(ref CommandReader reader) => new(reader.ParkedPin(), reader.Bool());
}

/// <summary>
/// Fills an empty vector with the pages of a device, each with a plain reference, as a dma-buf holds the buffer that it
/// was exported from: they outlive the device. -ENODEV for MMIO, which has no pages, and for a destroyed device.
/// </summary>
/// <param name="Device">The device.</param>
/// <param name="Vector">A vector with a slot for each frame of the device.</param>
/// <param name="Slots">Slots of the vector, so that a replay can make it.</param>
public readonly record struct ExportDeviceCall(DeviceId Device, VectorId Vector, long Slots)
    : ISyscall<ExportDeviceCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Device(Device) is not { IsRam: true, IsOrphan: false } device) return Errno.ENODEV;
        var pins = PinTable.Of(turn.Kernel);
        var vector = pins.Vector(turn.Kernel, Vector, Slots);
        if (vector.Allocated < (long)device.Frames) return Errno.EINVAL;
        for (var i = 0UL; i < device.Frames; i++) turn.Kernel.Memory.Frames.AddRefs(device.First + i, 1);
        var writer = new RunWriter(vector);
        for (var i = 0UL; i < device.Frames; i++) writer.Append((device.First + i).Value, 1, isLarge: false);
        writer.Finish();
        vector.IsPinned = false;
        vector.Hold();
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Device).Add(Vector).Add(Slots);

    public static ExportDeviceCall Read(ref CommandReader reader) =>
        new(reader.Device(), reader.Vector(), reader.I64());
}

/// <summary>
/// Fills an empty vector with the frames of another one that holds plain references, each with a reference more, as an
/// importer holds a dma-buf: the frames outlive the other vector. -EINVAL for a vector of pins or of bare PFNs.
/// </summary>
/// <param name="Source">The vector that holds the frames.</param>
/// <param name="SourceSlots">Its slots, so that a replay can make it.</param>
/// <param name="Vector">A vector with a slot for each of them.</param>
/// <param name="Slots">Its slots.</param>
public readonly record struct ShareVectorCall(VectorId Source, long SourceSlots, VectorId Vector, long Slots)
    : ISyscall<ShareVectorCall>
{
    public SyscallResult Run(in Turn turn)
    {
        var pins = PinTable.Of(turn.Kernel);
        var source = pins.Vector(turn.Kernel, Source, SourceSlots);
        var vector = pins.Vector(turn.Kernel, Vector, Slots);
        if (!source.GotRef || source.IsPinned || source.Count == 0 || vector.Allocated < source.Count)
            return Errno.EINVAL;
        var writer = new RunWriter(vector);
        foreach (var run in source.Runs)
        {
            for (var i = 0UL; i < run.Count; i++) turn.Kernel.Memory.Frames.AddRefs(run.First + i, 1);
            writer.Append(run.First.Value, run.Count, isLarge: false);
        }

        writer.Finish();
        vector.IsPinned = false;
        vector.Hold();
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Source).Add(SourceSlots).Add(Vector).Add(Slots);

    public static ShareVectorCall Read(ref CommandReader reader) =>
        new(reader.Vector(), reader.I64(), reader.Vector(), reader.I64());
}

/// <summary>
/// Puts the frames of a vector without references into quarantine: a process on the host is about to map bare PFNs.
/// </summary>
/// <param name="Vector">The vector.</param>
/// <param name="Slots">Slots of the vector, so that a replay can make it.</param>
public readonly record struct HoldFramesCall(VectorId Vector, long Slots) : ICommand<HoldFramesCall, FrameHold>
{
    public FrameHold Run(in Turn turn)
    {
        var pins = PinTable.Of(turn.Kernel);
        var vector = pins.Vector(turn.Kernel, Vector, Slots);
        return pins.Holds.TryHold(vector)
            ?? pins.Holds.Quarantine(turn.Kernel, FrameHolds.RamOf(turn.Kernel, vector));
    }

    public void Write(CommandWriter writer) => writer.Add(Vector).Add(Slots);

    public static HoldFramesCall Read(ref CommandReader reader) => new(reader.Vector(), reader.I64());
}

/// <summary>A vector with holds is about to be put: its frames go into quarantine, once for each hold.</summary>
/// <param name="Vector">The vector.</param>
/// <param name="First">Number of the first hold; the others follow it.</param>
/// <param name="Count">Holds.</param>
public readonly record struct QuarantineVectorCall(VectorId Vector, HoldId First, int Count)
    : ISyscall<QuarantineVectorCall>
{
    /// <summary>Holds of one vector: more is a log with wrong bytes.</summary>
    private const int MaxHolds = 1 << 20;

    public SyscallResult Run(in Turn turn)
    {
        var pins = PinTable.Of(turn.Kernel);
        if (pins.Vector(Vector) is not { } vector) return Errno.ENOENT;
        if (Count is < 0 or > MaxHolds) throw new InvalidDataException($"{Count} holds on one vector");
        pins.Holds.Quarantine(turn.Kernel, vector, First, Count);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Vector).Add(First).Add(Count);

    public static QuarantineVectorCall Read(ref CommandReader reader) =>
        new(reader.Vector(), reader.Hold(), reader.I32());
}

/// <summary>
/// The process that had frames in quarantine has unmapped them, or is dead. -ENOENT for a hold that has ended.
/// </summary>
public readonly record struct ReleaseHoldCall(HoldId Hold) : ISyscall<ReleaseHoldCall>
{
    public SyscallResult Run(in Turn turn) =>
        PinTable.Of(turn.Kernel).Holds.Release(turn.Kernel, Hold) ? SyscallResult.Ok() : Errno.ENOENT;

    public void Write(CommandWriter writer) => writer.Add(Hold);

    public static ReleaseHoldCall Read(ref CommandReader reader) => new(reader.Hold());
}
