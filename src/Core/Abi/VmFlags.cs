namespace FramePin.Core.Abi;

/// <summary>vm_flags of a VMA, numbered as Semantics 4.1 lists them (include/linux/mm.h).</summary>
[Flags]
public enum VmFlags : ulong
{
    None = 0,
    Read = 1UL << 0,
    Write = 1UL << 1,
    Exec = 1UL << 2,
    Shared = 1UL << 3,
    MayRead = 1UL << 4,
    MayWrite = 1UL << 5,
    MayExec = 1UL << 6,
    MayShare = 1UL << 7,
    GrowsDown = 1UL << 8,
    UffdMissing = 1UL << 9,
    PfnMap = 1UL << 10,
    MaybeGuard = 1UL << 11,
    UffdWp = 1UL << 12,
    Locked = 1UL << 13,
    Io = 1UL << 14,
    SeqRead = 1UL << 15,
    RandRead = 1UL << 16,
    DontCopy = 1UL << 17,
    DontExpand = 1UL << 18,
    LockOnFault = 1UL << 19,
    Account = 1UL << 20,
    NoReserve = 1UL << 21,
    HugeTlb = 1UL << 22,
    Sync = 1UL << 23,
    Arch = 1UL << 24,
    WipeOnFork = 1UL << 25,
    DontDump = 1UL << 26,
    SoftDirty = 1UL << 27,
    MixedMap = 1UL << 28,
    HugePage = 1UL << 29,
    NoHugePage = 1UL << 30,
    Mergeable = 1UL << 31,
    Droppable = 1UL << 40,
    Sealed = 1UL << 42,

    AccessMask = Read | Write | Exec,
    MayMask = MayRead | MayWrite | MayExec | MayShare,
    /// <summary>VM_SPECIAL: never merged, never locked.</summary>
    Special = Io | DontExpand | PfnMap | MixedMap,
    /// <summary>Ignored when two VMAs are compared for a merge.</summary>
    IgnoreMerge = SoftDirty | MaybeGuard,
}
