namespace FramePin.Core.Abi;

/// <summary>VM_FAULT_* results of a page fault (Semantics 5).</summary>
[Flags]
public enum VmFault : uint
{
    None = 0,
    Oom = 0x1,
    SigBus = 0x2,
    Major = 0x4,
    HwPoison = 0x10,
    HwPoisonLarge = 0x20,
    SigSegv = 0x40,
    NoPage = 0x100,
    Locked = 0x200,
    Retry = 0x400,
    Fallback = 0x800,
    DoneCow = 0x1000,
    Completed = 0x4000,
    /// <summary>
    /// FramePin's own, with Retry: a handler outside was asked, and the fault is not to be tried before it answers.
    /// </summary>
    Waits = 0x4000_0000,
    ErrorMask = Oom | SigBus | SigSegv | HwPoison | HwPoisonLarge | Fallback,
}

/// <summary>FAULT_FLAG_* given to the fault handler.</summary>
[Flags]
public enum FaultFlags : uint
{
    None = 0,
    Write = 1u << 0,
    MkWrite = 1u << 1,
    AllowRetry = 1u << 2,
    RetryNoWait = 1u << 3,
    Killable = 1u << 4,
    Tried = 1u << 5,
    User = 1u << 6,
    Remote = 1u << 7,
    Instruction = 1u << 8,
    Interruptible = 1u << 9,
    Unshare = 1u << 10,
}

/// <summary>How a fault ends for a program that touched the address itself.</summary>
public enum UserSignal
{
    None,
    SigSegvMapErr,
    SigSegvAccErr,
    /// <summary>SI_KERNEL: an address that the processor itself refuses.</summary>
    SigSegvNonCanonical,
    /// <summary>SEGV_PKUERR: refused by a protection key.</summary>
    SigSegvKey,
    SigBus,
    SigBusPoison,
    OutOfMemory,
    /// <summary>No signal yet: a handler outside was asked about the fault.</summary>
    WaitsForHandler,
}
