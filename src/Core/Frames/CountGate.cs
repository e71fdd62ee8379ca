using System.Runtime.CompilerServices;

namespace FramePin.Core.Frames;

/// <summary>
/// The ownership word of a machine's reference counts and page tables. Two kinds of holder: one <b>turn</b> (a command
/// that changes VMAs, page-table entries, the allocator or a file), or one <b>pin</b> (a fast pin or a put).
/// </summary>
/// <remarks>
/// A pin owns the word alone, so it adds to counts without atomics, a fifth of the price on shuffled frames. One word
/// per machine and not one per block of frames: shuffled frames lie in as many blocks as there are pages, so a word per
/// block costs the atomic that it is to save. Because a turn excludes pins, a pin lies wholly between two commands and
/// is replayed from their number alone. Lock order: turn, then gate. A pin or a put inside the gate takes no lock,
/// allocates nothing and never waits.
/// </remarks>
internal sealed class CountGate
{
    private const int Free = 0;
    private const int Pin = -1;
    private const int Turn = -2;

    /// <summary>Free, Pin or Turn.</summary>
    private int _state;

    /// <summary>
    /// Turns that wait; pins stand back while there is one, so that a stream of pins cannot starve commands.
    /// </summary>
    private int _turnsWaiting;

    /// <summary>Enters as a pin. Waits, spinning, for a turn or another pin.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void EnterPin()
    {
        // Acquire: pairs with the release in LeavePin and LeaveTurn.
        if (Volatile.Read(ref _turnsWaiting) != 0
            || Interlocked.CompareExchange(ref _state, Pin, Free) != Free)
            EnterPinContended();
    }

    /// <summary>Release: the counts written inside become visible before the word is free.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void LeavePin() => Volatile.Write(ref _state, Free);

    /// <summary>Enters as the command whose turn it is. The caller holds the machine's turn lock.</summary>
    public void EnterTurn()
    {
        Interlocked.Increment(ref _turnsWaiting);
        var spinner = new SpinWait();
        while (Interlocked.CompareExchange(ref _state, Turn, Free) != Free) spinner.SpinOnce();
        Interlocked.Decrement(ref _turnsWaiting);
    }

    public void LeaveTurn() => Volatile.Write(ref _state, Free);

    private void EnterPinContended()
    {
        var spinner = new SpinWait();
        while (Volatile.Read(ref _turnsWaiting) != 0 || Volatile.Read(ref _state) != Free
            || Interlocked.CompareExchange(ref _state, Pin, Free) != Free)
            spinner.SpinOnce(sleep1Threshold: -1);
    }
}
