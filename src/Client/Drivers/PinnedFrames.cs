using FramePin.V1;

namespace FramePin.Drivers;

/// <summary>FOLL_ flags of a raw pin (linux/mm_types.h).</summary>
[Flags]
public enum GupBits
{
    /// <summary>No flag.</summary>
    None = 0,
    /// <summary>FOLL_WRITE: the device writes.</summary>
    Write = 1,
    /// <summary>FOLL_FORCE: protection of private mappings does not refuse.</summary>
    Force = 1 << 3,
    /// <summary>FOLL_LONGTERM: the pin may last long.</summary>
    LongTerm = 1 << 8,
}

/// <summary>Frames to be put, of which the driver has no view any more.</summary>
/// <param name="Frames">The frames.</param>
/// <param name="IsDirty">The device wrote: every page is marked dirty first.</param>
public readonly record struct PutFrames(PinnedFrames Frames, bool IsDirty);

/// <summary>A frame vector that a driver holds.</summary>
/// <remarks>
/// Any thread may read it. The driver puts it once, by <see cref="DriverKernel.PutAsync"/>; the lease of the driver
/// puts it when the process dies.
/// </remarks>
public sealed class PinnedFrames
{
    internal PinnedFrames(string name, ulong count, bool isPfns, FrameRuns runs, ulong hold = 0)
    {
        WireRuns = runs;
        Hold = hold;
        Name = name;
        Count = count;
        IsPfns = isPfns;
        Runs = [.. runs.FirstPfns.Select((first, i) => (first, runs.Counts.Count == 0 ? 1UL : runs.Counts[i]))];
    }

    /// <summary>"machines/{m}/frameVectors/{v}".</summary>
    public string Name { get; }

    /// <summary>Frames of 4 KiB.</summary>
    public ulong Count { get; }

    /// <summary>Bare PFNs without references.</summary>
    public bool IsPfns { get; internal set; }

    /// <summary>
    /// Runs of consecutive PFNs in order. Runs of one kind that follow each other are joined by
    /// <see cref="LeadingBytes"/>.
    /// </summary>
    public IReadOnlyList<(ulong First, ulong Count)> Runs { get; }

    /// <summary>
    /// Held for this process's attachment since the pin; 0 for those that are held when they are mapped.
    /// </summary>
    internal ulong Hold { get; }

    internal FrameRuns WireRuns { get; }

    /// <summary>Bytes of the leading frames whose PFNs follow each other.</summary>
    public ulong LeadingBytes
    {
        get
        {
            var (bytes, next) = (0UL, Runs.Count > 0 ? Runs[0].First : 0);
            foreach (var (first, count) in Runs)
            {
                if (first != next) break;
                bytes += count << 12;
                next = first + count;
            }

            return bytes;
        }
    }
}
