namespace FramePin.Core.Machines;

/// <summary>Steps of a pin, as an observer sees them begin.</summary>
public enum PinPhase
{
    /// <summary>The fast path, inside the gate.</summary>
    Walk,

    /// <summary>Waiting for the machine's turn.</summary>
    TurnWait,

    /// <summary>The slow path: VMA look-up, faults, retries, migration.</summary>
    Fault,

    /// <summary>The answer is known.</summary>
    Done,
}

/// <summary>
/// Told when a pin enters a phase. Called on the pinning thread, in later phases under the turn: an implementation
/// calls nothing of the machine and waits for nothing.
/// </summary>
public interface IPinObserver
{
    void Entered(PinPhase phase);
}
