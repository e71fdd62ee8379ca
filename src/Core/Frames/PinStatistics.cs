namespace FramePin.Core.Frames;

/// <summary>
/// nr_foll_pin_acquired and nr_foll_pin_released of a machine, in pages. Equal at rest when nothing is pinned.
/// </summary>
public sealed class PinStatistics
{
    private long _acquired;
    private long _released;

    public long Acquired => Volatile.Read(ref _acquired);

    public long Released => Volatile.Read(ref _released);

    /// <summary>Inside the gate.</summary>
    internal void Acquire(long pages) => _acquired += pages;

    /// <summary>Inside the gate.</summary>
    internal void Release(long pages) => _released += pages;
}
