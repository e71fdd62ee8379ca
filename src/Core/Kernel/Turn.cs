namespace FramePin.Core.Kernel;

/// <summary>
/// Proof that the machine's turn is held: only the machine makes one, and it lives as long as the turn.
/// </summary>
/// <remarks>
/// Linux has no counterpart: the turn stands for every lock of the mm at once (mmap_lock, the page table locks, the
/// folio locks, the zone locks). Lock order: turn, then the gate of the counts, then leaf locks.
/// </remarks>
public readonly ref struct Turn
{
    internal Turn(KernelState kernel) => Kernel = kernel;

    internal KernelState Kernel { get; }
}
