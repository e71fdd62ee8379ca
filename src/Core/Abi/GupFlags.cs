namespace FramePin.Core.Abi;

/// <summary>
/// FOLL_* flags of get_user_pages and pin_user_pages (include/linux/mm_types.h; Semantics 3.1).
/// </summary>
[Flags]
public enum GupFlags : uint
{
    None = 0,
    /// <summary>Write access: write faults, COW is broken before the call returns.</summary>
    Write = 1u << 0,
    /// <summary>Take a plain reference; implied by the get family.</summary>
    Get = 1u << 1,
    /// <summary>A core dump: a hole that would read as zeros is refused instead of filled.</summary>
    Dump = 1u << 2,
    /// <summary>Override a missing VM_WRITE (private mappings only) or VM_READ.</summary>
    Force = 1u << 3,
    /// <summary>Never sleep for I/O; the lock is kept.</summary>
    NoWait = 1u << 4,
    /// <summary>Do not fault at all; an absent page is -EFAULT.</summary>
    NoFault = 1u << 5,
    /// <summary>Report a poisoned page as -EHWPOISON instead of -EFAULT.</summary>
    HwPoison = 1u << 6,
    /// <summary>Anonymous VMAs only.</summary>
    Anon = 1u << 7,
    /// <summary>The pin may last indefinitely.</summary>
    LongTerm = 1u << 8,
    SplitPmd = 1u << 9,
    PciP2PDma = 1u << 10,
    /// <summary>Non-fatal signals end the retry loop as well.</summary>
    Interruptible = 1u << 11,
    HonorNumaFault = 1u << 12,

    // Internal: rejected from outside.
    Touch = 1u << 16,
    Tried = 1u << 17,
    Remote = 1u << 18,
    Pin = 1u << 19,
    FastOnly = 1u << 20,
    Unlockable = 1u << 21,
    MadvPopulate = 1u << 22,

    InternalMask = Touch | Tried | Remote | Pin | FastOnly | Unlockable | MadvPopulate,
    FastAllowed = Write | LongTerm | Force | NoFault | PciP2PDma | HonorNumaFault,
    KnownExternal = (1u << 13) - 1,
}
