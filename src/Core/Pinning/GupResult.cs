using FramePin.Core.Abi;

namespace FramePin.Core.Pinning;

/// <summary>What a pin came to: pages, or an errno when there is none.</summary>
/// <param name="Pages">Pages taken; fewer than asked for is a legal partial result.</param>
/// <param name="Error">Set only when <paramref name="Pages"/> is 0.</param>
public readonly record struct GupResult(long Pages, Errno Error)
{
    /// <summary>The C return value.</summary>
    public long Raw => Error == Errno.None ? Pages : -(long)Error;

    public static GupResult Of(long pages) => new(pages, Errno.None);

    public static implicit operator GupResult(Errno error) => new(0, error);

    public override string ToString() => Error == Errno.None ? $"{Pages}" : $"-{Error}";
}

/// <summary>Why a walk ended before it had every page: reported beside a partial result, which Linux loses.</summary>
public enum StopReason
{
    None,
    /// <summary>No VMA at the next address.</summary>
    Hole,
    /// <summary>The next VMA is VM_IO or VM_PFNMAP.</summary>
    PfnMapping,
    /// <summary>Its protection refuses the access.</summary>
    Permission,
    /// <summary>A long-term write pin of a file with dirty tracking.</summary>
    DirtyTrackedFile,
    Secret,
    /// <summary>The fault ended in SIGBUS or SIGSEGV, for a cause that has no reason of its own here.</summary>
    FaultFailed,
    OutOfMemory,
    Signal,
    /// <summary>NOWAIT or NOFAULT, and the page is not there.</summary>
    NotPresent,
    /// <summary>An entry without a struct page.</summary>
    NoStructPage,
    /// <summary>The end of the user address space, or a wrap.</summary>
    AddressLimit,
    /// <summary>A page could not be moved out of ZONE_MOVABLE.</summary>
    MigrationFailed,
    /// <summary>Arguments or flags that the call does not take.</summary>
    BadArguments,
    /// <summary>
    /// Era A and B: the mapping's class changed or the last page was not wholly inside (Semantics 2.4).
    /// </summary>
    MappingClass,
    /// <summary>A guard region (MADV_GUARD_INSTALL).</summary>
    GuardRegion,
    /// <summary>The page lies behind the end of the file.</summary>
    FileEnd,
    /// <summary>The memory is broken (MADV_HWPOISON, UFFDIO_POISON).</summary>
    Poisoned,
    /// <summary>No huge page was to be had from the pool.</summary>
    HugePoolEmpty,
    /// <summary>A long-term pin of a file with direct access to its storage (fsdax).</summary>
    DirectAccess,
    /// <summary>Peer-to-peer memory of a device, and the call does not say FOLL_PCI_P2PDMA.</summary>
    PeerToPeer,
    /// <summary>FOLL_ANON, and the mapping is not anonymous.</summary>
    NotAnonymous,
}
