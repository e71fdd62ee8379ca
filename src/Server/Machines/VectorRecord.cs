using System.Diagnostics;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;
using FramePin.Server.Sessions;

namespace FramePin.Server.Machines;

/// <summary>A frame vector under its name, and who filled it, when and from which trace.</summary>
/// <remarks>
/// The vector itself is used under <see cref="Gate"/> only; the rest is written before the record is published.
/// </remarks>
internal sealed class VectorRecord(ulong number, FrameVector vector)
{
    public ulong Number { get; } = number;

    public FrameVector Vector { get; } = vector;

    /// <summary>One user of the vector at a time. Never held across an await.</summary>
    public Lock Gate { get; } = new();

    /// <summary>Gone: unpinned or destroyed. Guarded by <see cref="Gate"/>.</summary>
    public bool IsDestroyed { get; set; }

    /// <summary>A pin is filling it and may be parked. Guarded by <see cref="Gate"/>.</summary>
    public bool IsFilling { get; set; }

    public AddressSpace? Space { get; set; }

    public ulong Start { get; set; }

    public bool IsWrite { get; set; }

    /// <summary>Whose life it hangs on; null: the machine's.</summary>
    public Lease? Lease { get; set; }

    public DateTimeOffset PinnedAt { get; set; }

    /// <summary>The span that acquired it.</summary>
    public ActivityContext Trace { get; set; }

    public long Epoch { get; set; }
}
