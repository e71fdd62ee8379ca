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

    internal void Acquire(long pages, CountMode mode)
    {
        if (mode == CountMode.Exclusive) _acquired += pages;
        else Interlocked.Add(ref _acquired, pages);
    }

    internal void Release(long pages, CountMode mode)
    {
        if (mode == CountMode.Exclusive) _released += pages;
        else Interlocked.Add(ref _released, pages);
    }
}
