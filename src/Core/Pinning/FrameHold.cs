using FramePin.Core.Addressing;

namespace FramePin.Core.Pinning;

/// <summary>
/// Frames that a process on the host may have mapped. While a hold lasts, a frame of it that becomes free is kept from
/// the allocator, so that a late store reaches no other owner.
/// </summary>
/// <remarks>
/// A hold on a vector that holds references costs nothing: those references keep the frames from becoming free. It
/// turns into a quarantine of its frames when the vector is put before the hold ends. <see cref="FrameHolds"/> makes
/// holds and guards every field.
/// </remarks>
public sealed class FrameHold
{
    internal FrameHold(HoldId id, IReadOnlyList<FrameRun> runs)
    {
        Id = id;
        Runs = runs;
    }

    internal FrameHold(FrameVector vector)
    {
        Runs = [];
        Vector = vector;
        NextOfVector = vector.FirstHold;
        vector.FirstHold = this;
    }

    /// <summary>Number of the quarantine; 0 while a vector's references keep the frames.</summary>
    public HoldId Id { get; internal set; }

    /// <summary>The frames as runs of consecutive PFNs; empty while a vector's references keep them.</summary>
    public IReadOnlyList<FrameRun> Runs { get; internal set; }

    /// <summary>Its references keep the frames from becoming free; null when the frames are in quarantine.</summary>
    internal FrameVector? Vector { get; set; }

    internal FrameHold? NextOfVector { get; set; }

    /// <summary>The hold has ended.</summary>
    internal bool IsReleased { get; set; }
}
