namespace FramePin.Core.Kernel;

/// <summary>The bugs of tests/Mutants/mutants.txt.</summary>
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

internal sealed partial class KernelState
{
    /// <summary>The bug that the machine has.</summary>
    public Mutant Planted { get; set; }
}
