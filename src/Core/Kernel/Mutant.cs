namespace FramePin.Core.Kernel;

/// <summary>Bugs that a test plants on purpose, to see that its checks find them. Never set outside tests.</summary>
internal enum Mutant
{
    None,
    /// <summary>fork shares pinned pages like all others.</summary>
    ForkSharesPinned,
    /// <summary>MADV_DONTNEED keeps the pages.</summary>
    DontNeedKeeps,
    /// <summary>mprotect leaves the entries' write bit.</summary>
    ProtectKeepsWrite,
    /// <summary>Truncation leaves pages mapped.</summary>
    TruncateKeepsMapped,
    /// <summary>A write to a page shared after fork does not copy it.</summary>
    WriteSkipsCopy,
}
