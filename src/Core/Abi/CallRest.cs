namespace FramePin.Core.Abi;

/// <summary>What a call was doing when it had to wait at a fault of a handler outside.</summary>
public enum CallRestKind
{
    /// <summary>mm_populate behind mmap, brk, mremap and mlockall: its errors are not told.</summary>
    Populate,
    /// <summary>mlock: an error ends it.</summary>
    Mlock,
    /// <summary>MADV_POPULATE_READ.</summary>
    PopulateRead,
    /// <summary>MADV_POPULATE_WRITE.</summary>
    PopulateWrite,
    /// <summary>MADV_HWPOISON.</summary>
    HwPoison,
    /// <summary>fixup_user_fault for a load.</summary>
    FixupRead,
    /// <summary>fixup_user_fault for a store.</summary>
    FixupWrite,
}

/// <summary>
/// The rest of a call that waits at a fault of a handler outside. The call holds nothing meanwhile, so a caller that is
/// killed just never goes on.
/// </summary>
/// <param name="At">Where it waits, in bytes; its rest begins there.</param>
/// <param name="End">First byte behind the rest.</param>
/// <param name="Kind">What is left to do.</param>
/// <param name="Value">The value that the call answers when the rest is done.</param>
public sealed record CallRest(ulong At, ulong End, CallRestKind Kind, ulong Value);
