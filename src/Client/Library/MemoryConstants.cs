namespace FramePin.Client;

/// <summary>PROT_* of mmap and mprotect (linux/mman.h).</summary>
[Flags]
public enum MemoryProtection
{
    /// <summary>PROT_NONE.</summary>
    None = 0,
    /// <summary>PROT_READ.</summary>
    Read = 1,
    /// <summary>PROT_WRITE.</summary>
    Write = 2,
    /// <summary>PROT_READ and PROT_WRITE.</summary>
    ReadWrite = Read | Write,
    /// <summary>PROT_EXEC.</summary>
    Execute = 4,
    /// <summary>PROT_GROWSDOWN.</summary>
    GrowsDown = 0x0100_0000,
    /// <summary>PROT_GROWSUP.</summary>
    GrowsUp = 0x0200_0000,
}

/// <summary>MAP_* of mmap, with the numbers of x86-64 (linux/mman.h).</summary>
[Flags]
public enum MmapFlags
{
    /// <summary>No flag. mmap refuses it.</summary>
    None = 0,
    /// <summary>MAP_SHARED.</summary>
    Shared = 1,
    /// <summary>MAP_PRIVATE.</summary>
    Private = 2,
    /// <summary>MAP_SHARED_VALIDATE.</summary>
    SharedValidate = 3,
    /// <summary>MAP_DROPPABLE.</summary>
    Droppable = 8,
    /// <summary>MAP_FIXED.</summary>
    Fixed = 0x10,
    /// <summary>MAP_ANONYMOUS.</summary>
    Anonymous = 0x20,
    /// <summary>MAP_32BIT.</summary>
    Below4G = 0x40,
    /// <summary>MAP_GROWSDOWN.</summary>
    GrowsDown = 0x100,
    /// <summary>MAP_LOCKED.</summary>
    Locked = 0x2000,
    /// <summary>MAP_NORESERVE.</summary>
    NoReserve = 0x4000,
    /// <summary>MAP_POPULATE.</summary>
    Populate = 0x8000,
    /// <summary>MAP_NONBLOCK.</summary>
    NonBlock = 0x1_0000,
    /// <summary>MAP_STACK.</summary>
    Stack = 0x2_0000,
    /// <summary>MAP_HUGETLB.</summary>
    HugeTlb = 0x4_0000,
    /// <summary>MAP_SYNC.</summary>
    Sync = 0x8_0000,
    /// <summary>MAP_FIXED_NOREPLACE.</summary>
    FixedNoReplace = 0x10_0000,
}

/// <summary>MREMAP_* (linux/mman.h).</summary>
[Flags]
public enum MremapFlags
{
    /// <summary>No flag: the mapping stays where it is, or the call is refused.</summary>
    None = 0,
    /// <summary>MREMAP_MAYMOVE.</summary>
    MayMove = 1,
    /// <summary>MREMAP_FIXED.</summary>
    Fixed = 2,
    /// <summary>MREMAP_DONTUNMAP.</summary>
    DontUnmap = 4,
}

/// <summary>MADV_* of madvise (linux/mman.h). The daemon takes other numbers too, as the kernel does.</summary>
public enum MemoryAdvice
{
    /// <summary>MADV_NORMAL.</summary>
    Normal = 0,
    /// <summary>MADV_RANDOM.</summary>
    Random = 1,
    /// <summary>MADV_SEQUENTIAL.</summary>
    Sequential = 2,
    /// <summary>MADV_WILLNEED.</summary>
    WillNeed = 3,
    /// <summary>MADV_DONTNEED.</summary>
    DontNeed = 4,
    /// <summary>MADV_FREE.</summary>
    Free = 8,
    /// <summary>MADV_REMOVE.</summary>
    Remove = 9,
    /// <summary>MADV_DONTFORK.</summary>
    DontFork = 10,
    /// <summary>MADV_DOFORK.</summary>
    DoFork = 11,
    /// <summary>MADV_HUGEPAGE.</summary>
    HugePage = 14,
    /// <summary>MADV_NOHUGEPAGE.</summary>
    NoHugePage = 15,
    /// <summary>MADV_DONTDUMP.</summary>
    DontDump = 16,
    /// <summary>MADV_DODUMP.</summary>
    DoDump = 17,
    /// <summary>MADV_WIPEONFORK.</summary>
    WipeOnFork = 18,
    /// <summary>MADV_KEEPONFORK.</summary>
    KeepOnFork = 19,
    /// <summary>MADV_COLD.</summary>
    Cold = 20,
    /// <summary>MADV_PAGEOUT.</summary>
    PageOut = 21,
    /// <summary>MADV_POPULATE_READ.</summary>
    PopulateRead = 22,
    /// <summary>MADV_POPULATE_WRITE.</summary>
    PopulateWrite = 23,
    /// <summary>MADV_DONTNEED_LOCKED.</summary>
    DontNeedLocked = 24,
    /// <summary>MADV_GUARD_INSTALL.</summary>
    GuardInstall = 102,
    /// <summary>MADV_GUARD_REMOVE.</summary>
    GuardRemove = 103,
    /// <summary>MADV_HWPOISON.</summary>
    HardwarePoison = 100,
    /// <summary>MADV_SOFT_OFFLINE.</summary>
    SoftOffline = 101,
}
