namespace FramePin.Core.Abi;

/// <summary>PROT_* of mmap and mprotect.</summary>
[Flags]
public enum Prot : uint
{
    None = 0,
    Read = 1,
    Write = 2,
    Exec = 4,
    Sem = 8,
    GrowsDown = 0x0100_0000,
    GrowsUp = 0x0200_0000,
    AccessMask = Read | Write | Exec,
}

/// <summary>MAP_* of mmap (x86-64).</summary>
[Flags]
public enum MapFlags : uint
{
    None = 0,
    Shared = 0x01,
    Private = 0x02,
    SharedValidate = 0x03,
    Droppable = 0x08,
    TypeMask = 0x0f,
    Fixed = 0x10,
    Anonymous = 0x20,
    Map32Bit = 0x40,
    Above4G = 0x80,
    GrowsDown = 0x0100,
    DenyWrite = 0x0800,
    Executable = 0x1000,
    Locked = 0x2000,
    NoReserve = 0x4000,
    Populate = 0x8000,
    NonBlock = 0x1_0000,
    Stack = 0x2_0000,
    HugeTlb = 0x4_0000,
    Sync = 0x8_0000,
    FixedNoReplace = 0x10_0000,
    Uninitialized = 0x400_0000,

    /// <summary>What MAP_SHARED_VALIDATE accepts (LEGACY_MAP_MASK).</summary>
    LegacyMask = Shared | Private | Fixed | Anonymous | DenyWrite | Executable | Uninitialized | GrowsDown | Locked
        | NoReserve | Populate | NonBlock | Stack | HugeTlb | Map32Bit | Above4G | (0x1fu << 26),
}

/// <summary>Position of the log2 of the huge page size in <see cref="MapFlags"/> (MAP_HUGE_SHIFT).</summary>
public static class MapHuge
{
    public const int Shift = 26;
    public const uint Mask = 0x3f;
}

/// <summary>PR_MDWE_* flags.</summary>
[Flags]
public enum MdweFlags : uint
{
    None = 0,
    RefuseExecGain = 1,
    NoInherit = 2,
}

/// <summary>UFFDIO_REGISTER_MODE_*.</summary>
[Flags]
public enum UffdModes : uint
{
    None = 0,
    Missing = 1,
    WriteProtect = 2,
}

/// <summary>MREMAP_* flags.</summary>
[Flags]
public enum MremapFlags : uint
{
    None = 0,
    MayMove = 1,
    Fixed = 2,
    DontUnmap = 4,
    Known = MayMove | Fixed | DontUnmap,
}

/// <summary>MADV_* advice values.</summary>
public enum Advice
{
    Normal = 0,
    Random = 1,
    Sequential = 2,
    WillNeed = 3,
    DontNeed = 4,
    Free = 8,
    Remove = 9,
    DontFork = 10,
    DoFork = 11,
    Mergeable = 12,
    Unmergeable = 13,
    HugePage = 14,
    NoHugePage = 15,
    DontDump = 16,
    DoDump = 17,
    WipeOnFork = 18,
    KeepOnFork = 19,
    Cold = 20,
    PageOut = 21,
    PopulateRead = 22,
    PopulateWrite = 23,
    DontNeedLocked = 24,
    Collapse = 25,
    HwPoison = 100,
    GuardInstall = 102,
    GuardRemove = 103,
}

/// <summary>MS_* flags of msync.</summary>
[Flags]
public enum MsyncFlags : uint
{
    None = 0,
    Async = 1,
    Invalidate = 2,
    Sync = 4,
}
