using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;

namespace FramePin.Core.Machines;

/// <summary>What a machine is made of. Sizes in bytes.</summary>
public sealed record MachineOptions
{
    /// <summary>Least memory: below it the reserved frames and one huge page do not fit.</summary>
    public const ulong MinMemory = 4UL << 20;

    /// <summary>Most memory: 16 TiB, what 39 bits of PFN and the frame records of one host carry comfortably.</summary>
    public const ulong MaxMemory = 16UL << 40;

    public KernelProfile Profile { get; init; } = KernelProfile.Default;

    /// <summary>Physical memory, a multiple of 2 MiB. Costs host memory only where it is written.</summary>
    public ulong Memory { get; init; } = 1UL << 30;

    /// <summary>ZONE_MOVABLE at the top of memory; long-term pins move pages out of it.</summary>
    public ulong MovableMemory { get; init; }

    /// <summary>Pages in the 2 MiB hugetlb pool.</summary>
    public int HugePages2M { get; init; }

    /// <summary>Pages in the 1 GiB hugetlb pool.</summary>
    public int HugePages1G { get; init; }

    public ThpMode Thp { get; init; } = ThpMode.MAdvise;

    /// <summary>
    /// A read of untouched anonymous memory maps the zero page. False where a read gets a page of its own
    /// (mm_forbids_zeropage), as on some virtualised hosts.
    /// </summary>
    public bool UsesZeroPage { get; init; } = true;

    /// <summary>
    /// A disk file system that wants to zero a part of a hole (behind an old or a new end, beside a punched range)
    /// leaves the page in its cache without contents, which read-ahead and fault-around pass over; and what lies behind
    /// the end of a file is zeroed when it grows. As ext4 of Linux 6.13 and later does.
    /// </summary>
    public bool CachesZeroedHoles { get; init; } = true;

    /// <summary>
    /// The processor has protection keys: memory that is only executable cannot be read. Keys of a program's own are
    /// not emulated.
    /// </summary>
    public bool HasProtectionKeys { get; init; }

    /// <summary>
    /// The kernel handles broken memory (CONFIG_MEMORY_FAILURE). Without it MADV_HWPOISON is -EINVAL and a poisoned
    /// entry a plain SIGBUS.
    /// </summary>
    public bool HandlesMemoryFailure { get; init; } = true;

    /// <summary>
    /// Swap, for what MADV_PAGEOUT takes: a device that answers at once and reads nothing ahead (as zram with
    /// vm.page-cluster 0). 0 for none: anonymous memory stays then.
    /// </summary>
    public ulong Swap { get; init; }

    /// <summary>
    /// The kernel notes which pages were stored to since they were last asked about (CONFIG_MEM_SOFT_DIRTY): sd in
    /// smaps, bit 55 of pagemap, and /proc/PID/clear_refs with 4.
    /// </summary>
    public bool TracksSoftDirty { get; init; }

    /// <summary>
    /// Levels of page tables: 4, or 5 where the processor has LA57. With four a program has addresses below 2^47, with
    /// five below 2^56.
    /// </summary>
    public int PageTableLevels { get; init; } = 4;

    /// <summary>Runs the whole-structure audit after each command and throws on a finding. For tests: slow.</summary>
    public bool AuditsEachCommand { get; init; }

    internal void Write(CommandWriter writer) => writer.Add(Profile.Name).Add(Memory).Add(MovableMemory)
        .Add(HugePages2M).Add(HugePages1G).Add((int)Thp).Add(UsesZeroPage).Add(CachesZeroedHoles)
        .Add(HasProtectionKeys).Add(HandlesMemoryFailure).Add(Swap).Add(TracksSoftDirty)
        .Add(PageTableLevels);

    internal static MachineOptions Read(ref CommandReader reader)
    {
        var profile = reader.Text() ?? "";
        return new MachineOptions
        {
            Profile = KernelProfile.Find(profile)
                ?? throw new InvalidDataException($"no kernel profile is named {profile}"),
            Memory = reader.U64(),
            MovableMemory = reader.U64(),
            HugePages2M = reader.I32(),
            HugePages1G = reader.I32(),
            Thp = (ThpMode)reader.I32(),
            UsesZeroPage = reader.Bool(),
            CachesZeroedHoles = reader.Bool(),
            HasProtectionKeys = reader.Bool(),
            HandlesMemoryFailure = reader.Bool(),
            Swap = reader.U64(),
            TracksSoftDirty = reader.Bool(),
            PageTableLevels = reader.I32(),
        };
    }

    /// <summary>Null when the options are sound, else what is wrong with them.</summary>
    public string? Validate()
    {
        const ulong unit = 2UL << 20;
        if (Memory is < MinMemory or > MaxMemory) return $"memory must be {MinMemory} to {MaxMemory} bytes";
        if (Memory % unit != 0 || MovableMemory % unit != 0) return "memory sizes must be multiples of 2 MiB";
        if (MovableMemory > Memory - unit) return "ZONE_MOVABLE must leave at least 2 MiB of other memory";
        if (Swap % PageGeometry.PageSize != 0) return "swap must be whole pages of 4096 bytes";
        if (Swap > MaxMemory) return $"swap must be at most {MaxMemory} bytes";
        if (PageTableLevels is not (4 or 5)) return "page tables must have 4 or 5 levels";
        if (HugePages2M < 0 || HugePages1G < 0) return "huge page counts must not be negative";
        var huge = ((UInt128)HugePages2M * unit) + ((UInt128)HugePages1G << 30);
        return huge > Memory - MovableMemory - unit ? "the hugetlb pools do not fit into the memory" : null;
    }
}
