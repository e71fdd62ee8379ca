namespace FramePin.Server.Drivers;

/// <summary>Calls on a file that carry a tag, by which their callers signal them.</summary>
/// <remarks>
/// Any thread. A signal may come before its call, since the two travel on streams of their own, and after its end.
/// </remarks>
internal sealed class TaggedCalls(ServedDriver driver, ulong file)
{
    /// <summary>Signals without a call that are remembered: the oldest belong to calls that are over.</summary>
    private const int MostEarly = 64;

    private readonly Lock _lock = new();

    /// <summary>Numbers of the calls under way. Guarded by the lock.</summary>
    private readonly Dictionary<ulong, ulong> _calls = [];

    /// <summary>Signals whose calls have not come. Guarded by the lock.</summary>
    private readonly List<ulong> _early = [];

    /// <summary>A call is on its way to the driver.</summary>
    public void Begin(ulong tag, ulong call)
    {
        lock (_lock)
        {
            _calls[tag] = call;
            if (!_early.Remove(tag)) return;
        }

        driver.Interrupt(file, call);
    }

    /// <summary>A call is over.</summary>
    public void End(ulong tag)
    {
        lock (_lock) _calls.Remove(tag);
    }

    /// <summary>A signal for the caller of a call.</summary>
    public void Signal(ulong tag)
    {
        ulong call;
        lock (_lock)
        {
            if (!_calls.TryGetValue(tag, out call))
            {
                if (_early.Count == MostEarly) _early.RemoveAt(0);
                _early.Add(tag);
                return;
            }
        }

        driver.Interrupt(file, call);
    }
}
