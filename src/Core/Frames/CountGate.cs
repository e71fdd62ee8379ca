using System.Runtime.CompilerServices;

namespace FramePin.Core.Frames;

/// <summary>How a pin that entered the gate may change counts.</summary>
public enum CountMode
{
    /// <summary>Nobody else is inside: plain adds.</summary>
    Exclusive,
    /// <summary>Other pins are inside: interlocked adds.</summary>
    Shared,
}

/// <summary>
/// The ownership word of a machine's reference counts and page tables. Three kinds of holder: one <b>turn</b> (a
/// command that changes VMAs, page-table entries, the allocator or a file), one <b>exclusive</b> pin, or any number of
/// <b>shared</b> pins.
/// </summary>
/// <remarks>
/// A pin that finds the word free owns it alone and adds without atomics, a fifth of the price on shuffled frames; a
/// pin that meets another shares and pays an atomic per folio. One word per machine and not one per block of frames:
/// shuffled frames lie in as many blocks as there are pages, so a word per block costs the atomic that it is to save.
/// Because a turn excludes pins, a pin lies wholly between two commands and is replayed from their number alone. Lock
/// order: turn, then gate. A pin or a put inside the gate takes no lock, allocates nothing and never waits.
/// </remarks>
internal sealed class CountGate
{
    private const int Free = 0;
    private const int PinExclusive = -1;
    private const int Turn = -2;

    /// <summary>Free, PinExclusive, Turn, or the number of shared pins.</summary>
    private int _state;

    /// <summary>
    /// Turns that wait; pins stand back while there is one, so that a stream of pins cannot starve commands.
    /// </summary>
    private int _turnsWaiting;

    /// <summary>Enters as a pin.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public CountMode EnterPin()
    {
        // Acquire: pairs with the release in LeavePin and LeaveTurn.
        if (Volatile.Read(ref _turnsWaiting) == 0
            && Interlocked.CompareExchange(ref _state, PinExclusive, Free) == Free)
            return CountMode.Exclusive;
        return EnterPinContended();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void LeavePin(CountMode mode)
    {
        // Release: the counts written inside become visible before the word is free.
        if (mode == CountMode.Exclusive) Volatile.Write(ref _state, Free);
        else Interlocked.Decrement(ref _state);
    }

    /// <summary>Enters as the command whose turn it is. The caller holds the machine's turn lock.</summary>
    public void EnterTurn()
    {
        Interlocked.Increment(ref _turnsWaiting);
        var spinner = new SpinWait();
        while (Interlocked.CompareExchange(ref _state, Turn, Free) != Free) spinner.SpinOnce();
        Interlocked.Decrement(ref _turnsWaiting);
    }

    public void LeaveTurn() => Volatile.Write(ref _state, Free);

    private CountMode EnterPinContended()
    {
        var spinner = new SpinWait();
        while (true)
        {
            if (Volatile.Read(ref _turnsWaiting) == 0)
            {
                var state = Volatile.Read(ref _state);
                if (state == Free && Interlocked.CompareExchange(ref _state, PinExclusive, Free) == Free)
                    return CountMode.Exclusive;
                if (state > 0 && Interlocked.CompareExchange(ref _state, state + 1, state) == state)
                    return CountMode.Shared;
                // An exclusive pin is inside: it leaves within microseconds. Opening the word for sharing while it
                // works would mix plain and interlocked adds, so wait.
            }

            spinner.SpinOnce(sleep1Threshold: -1);
        }
    }
}
