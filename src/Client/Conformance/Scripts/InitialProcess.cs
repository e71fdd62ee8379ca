using FramePin.Core.Abi;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;

namespace FramePin.Conformance.Scripts;

/// <summary>A mapping that exec made. Addresses and offset in bytes; permissions as in maps.</summary>
public sealed record InitialMapping(ulong Start, ulong End, string Permissions, ulong Offset, string Name);

/// <summary>The process that a script starts with, as the kernel made it.</summary>
/// <param name="Mappings">What exec put into place.</param>
/// <param name="MmapBase">End of the highest mapping that mmap may choose.</param>
/// <param name="StartBrk">Start of the heap.</param>
/// <param name="HugePages">Free huge pages of 2 MiB.</param>
/// <param name="Thp">The host's mode of transparent huge pages.</param>
/// <param name="UsesZeroPage">Reads of untouched anonymous memory map the zero page.</param>
/// <param name="IsPrivileged">Root: frames and pin counters are seen, memory locks have no limit.</param>
/// <param name="MissingFiles">Indexes of the files that the host could not make.</param>
public sealed record InitialProcess(
    IReadOnlyList<InitialMapping> Mappings, ulong MmapBase, ulong StartBrk, int HugePages, ThpMode Thp,
    bool UsesZeroPage, bool IsPrivileged, IReadOnlyList<int> MissingFiles)
{
    /// <summary>The processor has protection keys.</summary>
    public bool HasProtectionKeys { get; init; }

    /// <summary>The disk file system keeps pages of zeroed holes without contents.</summary>
    public bool CachesZeroedHoles { get; init; }

    /// <summary>Bytes of swap.</summary>
    public ulong Swap { get; init; }

    /// <summary>end_data - start_data of the executor, in bytes.</summary>
    public ulong DataSize { get; init; }

    /// <summary>RLIMIT_MEMLOCK, in bytes.</summary>
    public ulong RlimitMemlock { get; init; } = 8UL << 20;

    /// <summary>The kernel handles broken memory (CONFIG_MEMORY_FAILURE).</summary>
    public bool HandlesMemoryFailure { get; init; } = true;

    /// <summary>Levels of page tables: 4 or 5.</summary>
    public int PageTableLevels { get; init; } = 4;
}
