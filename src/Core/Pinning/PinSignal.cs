namespace FramePin.Core.Pinning;

/// <summary>
/// The fatal signal of one pin's caller, which the walk asks for between batches of pages, as Linux's walk does before
/// each page (mm/gup.c: __get_user_pages, fatal_signal_pending).
/// </summary>
/// <remarks>
/// One thread at a time: the one that walks under the turn. The moment of the signal is no part of the machine's state.
/// The number of the question that it answered is, and stands in the log: a replay stops at the same page.
/// </remarks>
internal sealed class PinSignal
{
    /// <summary>Pages of a batch: some milliseconds where each page is faulted in.</summary>
    public const long Batch = 1024;

    /// <summary>In the log: the pin has no signal, and its walk no batches.</summary>
    public const long None = -1;

    /// <summary>In the log: the signal did not come.</summary>
    private const long Never = -2;

    private readonly CancellationToken _cancelled;
    private long _asked;

    /// <summary>The signal of a caller, which comes when its token is cancelled.</summary>
    public PinSignal(CancellationToken cancelled) => _cancelled = cancelled;

    /// <summary>The signal of a log.</summary>
    /// <param name="at"><see cref="At"/> of the first time.</param>
    public PinSignal(long at) => At = at;

    /// <summary>Number of the question that the signal answered, from 0; negative: it did not come.</summary>
    public long At { get; private set; } = Never;

    /// <summary>The signal is there.</summary>
    public bool IsPending()
    {
        var number = _asked++;
        if (At < 0 && _cancelled.IsCancellationRequested) At = number;
        return At >= 0 && number >= At;
    }
}
