using FramePin.Core.Addressing;

namespace FramePin.Core.Kernel;

/// <summary>Why memory is taken away from under an address space.</summary>
public enum TakeCause
{
    /// <summary>munmap.</summary>
    Munmap,

    /// <summary>mmap with MAP_FIXED over it.</summary>
    Mmap,

    /// <summary>mremap away from it, over it, or to a smaller size.</summary>
    Mremap,

    /// <summary>mprotect to other rights.</summary>
    Mprotect,

    /// <summary>MADV_DONTNEED, FREE, REMOVE, PAGEOUT, GUARD_INSTALL, HWPOISON.</summary>
    Madvise,

    /// <summary>brk to a lower address.</summary>
    Brk,

    /// <summary>fork: private pages become copy-on-write.</summary>
    Fork,

    /// <summary>The process ends.</summary>
    Exit,

    /// <summary>ftruncate or fallocate of a file that is mapped there.</summary>
    Truncate,

    /// <summary>A long-term pin moves the page out of ZONE_MOVABLE.</summary>
    Migration,

    /// <summary>A store or a pin gives the address space a page of its own in place of a shared one.</summary>
    Unshare,

    /// <summary>The owner of a private hugetlb mapping takes the last page of the pool from a fork.</summary>
    HugeTheft,

    /// <summary>Pages lose their write right, so that the next store is noticed: clear_refs, write-back.</summary>
    WriteProtect,
}

/// <summary>Memory that a command takes away.</summary>
/// <param name="Space">The address space that loses it, which need not be the caller's.</param>
/// <param name="Range">Whole pages, in bytes.</param>
/// <param name="Cause">Why.</param>
public readonly record struct TakenRange(SpaceId Space, AddressRange Range, TakeCause Cause);

/// <summary>A command that takes memory away: after it a page at an address may be another one, or none.</summary>
/// <remarks>
/// Linux's counterpart is mmu_notifier_range, whose users are told between invalidate_range_start and _end. Here the
/// caller of a command asks first and waits, since nothing may wait under the turn.
/// </remarks>
public interface IInvalidating
{
    /// <summary>
    /// Adds the ranges that the command would take if it ran now. It adds nothing for a call that would be refused, for
    /// an empty one and for one that only adds memory. Under the turn; changes nothing.
    /// </summary>
    void AddTaken(in Turn turn, ICollection<TakenRange> taken);
}

/// <summary>A command that maps memory. Linux tells no notifier of it: the next fault finds the memory.</summary>
public interface IMemoryMapping
{
    /// <summary>The address space.</summary>
    SpaceId Space { get; }

    /// <summary>The range that may hold new memory after the command.</summary>
    /// <param name="value">Value that the command returned.</param>
    AddressRange MappedAt(ulong value);
}
