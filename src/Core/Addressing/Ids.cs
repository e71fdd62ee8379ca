namespace FramePin.Core.Addressing;

/// <summary>Number of an address space in its machine. Counts up from 1 and is never used twice.</summary>
public readonly record struct SpaceId(int Value);

/// <summary>Number of a memory file in its machine. Counts up from 1; 0 means no file.</summary>
public readonly record struct FileId(int Value)
{
    /// <summary>No file.</summary>
    public static readonly FileId None;
}

/// <summary>Number of a device in its machine. Counts up from 1; 0 means no device.</summary>
public readonly record struct DeviceId(int Value)
{
    /// <summary>No device.</summary>
    public static readonly DeviceId None;
}

/// <summary>Number of a userfaultfd in its machine. Counts up from 1.</summary>
public readonly record struct UffdId(int Value);

/// <summary>Number of an io_uring in its machine. Counts up from 1.</summary>
public readonly record struct RingId(int Value);

/// <summary>Number of a frame vector in its machine. Counts up from 1 and is never used twice.</summary>
public readonly record struct VectorId(ulong Value);

/// <summary>Number of a pin that waits: the number of the command that began it.</summary>
public readonly record struct ParkedPinId(long Value);

/// <summary>Number of a hold that keeps frames in quarantine. Counts up from 1.</summary>
public readonly record struct HoldId(long Value);
