using System.Globalization;

namespace FramePin.Core.Addressing;

/// <summary>Sizes of x86-64 pages and of its user address space, in bytes unless named otherwise.</summary>
public static class PageGeometry
{
    public const int PageShift = 12;
    public const ulong PageSize = 1UL << PageShift;
    public const ulong PageMask = ~(PageSize - 1);

    /// <summary>log2 of the frames that a PMD leaf covers.</summary>
    public const int PmdOrder = 9;

    /// <summary>log2 of the frames that a PUD leaf covers.</summary>
    public const int PudOrder = 18;

    public const ulong PmdSize = PageSize << PmdOrder;
    public const ulong PudSize = PageSize << PudOrder;
    public const int EntriesPerTable = 512;

    /// <summary>
    /// One page below 2^47: TASK_SIZE_MAX with four levels of page tables, and with five what mmap uses unless a hint
    /// asks for more (DEFAULT_MAP_WINDOW).
    /// </summary>
    public const ulong MapWindow = (1UL << 47) - PageSize;

    /// <summary>TASK_SIZE_MAX with five levels of page tables: one page below 2^56.</summary>
    public const ulong FiveLevelTaskSize = (1UL << 56) - PageSize;

    /// <summary>Bytes kept free below a VM_GROWSDOWN VMA (stack_guard_gap, 256 pages).</summary>
    public const ulong StackGuardGap = 256 * PageSize;

    /// <summary>Default of vm.mmap_min_addr.</summary>
    public const ulong MmapMinAddress = 65536;

    /// <summary>Default of vm.max_map_count; max + 1 VMAs can exist.</summary>
    public const int MaxMapCount = 65530;

    /// <summary>TASK_SIZE_MAX in bytes, with 4 or 5 levels of page tables (arch/x86: task_size_max).</summary>
    public static ulong TaskSizeOf(int levels) => levels == 5 ? FiveLevelTaskSize : MapWindow;

    /// <summary>
    /// The processor translates the address: its bits from 47 on are all alike, with five levels those from 56 on.
    /// </summary>
    public static bool IsCanonical(ulong address, int levels) =>
        (long)address >> (levels == 5 ? 56 : 47) is 0 or -1;

    public static ulong AlignDown(ulong value, ulong size) => value & ~(size - 1);

    /// <summary>
    /// <paramref name="value"/> rounded up to a power of two. As PAGE_ALIGN, it wraps to 0 for the last values of the
    /// 64-bit range: a caller checks the result as Linux does at that place.
    /// </summary>
    public static ulong AlignUp(ulong value, ulong size) => (value + size - 1) & ~(size - 1);

    public static bool IsAligned(ulong value, ulong size) => (value & (size - 1)) == 0;

    /// <summary>Pages that hold <paramref name="bytes"/> bytes, rounded up, of any number of bytes.</summary>
    public static ulong PagesOf(ulong bytes) => (bytes >> PageShift) + ((bytes & ~PageMask) != 0 ? 1UL : 0);
}

/// <summary>A page frame number: it means something only inside its machine.</summary>
public readonly record struct Pfn(ulong Value) : IComparable<Pfn>
{
    public static readonly Pfn Invalid = new(ulong.MaxValue);

    /// <summary>First byte of the frame in physical memory.</summary>
    public ulong PhysicalAddress => Value << PageGeometry.PageShift;

    public int CompareTo(Pfn other) => Value.CompareTo(other.Value);

    public static Pfn operator +(Pfn pfn, ulong frames) => new(pfn.Value + frames);

    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"pfn 0x{Value:x}");
}

/// <summary>A half-open range of virtual addresses, in bytes.</summary>
public readonly record struct AddressRange(ulong Start, ulong End)
{
    public ulong Length => End - Start;

    /// <summary>Pages of 4 KiB, of a range of whole pages.</summary>
    public ulong Pages => Length >> PageGeometry.PageShift;

    public bool IsEmpty => End <= Start;

    public bool Contains(ulong address) => address >= Start && address < End;

    public bool Overlaps(AddressRange other) => Start < other.End && other.Start < End;

    public AddressRange Intersect(AddressRange other) => new(Math.Max(Start, other.Start), Math.Min(End, other.End));

    public override string ToString() => $"[0x{Start:x},0x{End:x})";
}

/// <summary>
/// Consecutive frames of one kind: the unit in which frames are taken, answered and given back. Packed into 64 bits,
/// high to low: 1 bit "of large folios", 39 bits first PFN, 24 bits frame count minus one.
/// </summary>
/// <remarks>
/// The kind travels with the run so that giving frames back need not look up each frame's folio: a pinned large folio
/// is never split, so the bit stays true while the run holds references.
/// </remarks>
public readonly record struct FrameRun
{
    public const int CountBits = 24;
    public const ulong MaxCount = 1UL << CountBits;
    internal const ulong LargeBit = 1UL << 63;
    internal const ulong CountMask = MaxCount - 1;

    private FrameRun(ulong packed) => Packed = packed;

    public Pfn First => new((Packed & ~LargeBit) >> CountBits);

    /// <summary>Frames in the run, 1 to <see cref="MaxCount"/>.</summary>
    public ulong Count => (Packed & CountMask) + 1;

    /// <summary>The frames belong to folios of two and more frames, which carry a pin count.</summary>
    public bool IsLarge => (Packed & LargeBit) != 0;

    public ulong Packed { get; }

    public static FrameRun FromPacked(ulong packed) => new(packed);

    internal static ulong Pack(ulong first, ulong count, bool isLarge) =>
        (first << CountBits) | (count - 1) | (isLarge ? LargeBit : 0);

    public override string ToString() => $"0x{First.Value:x}+{Count}";
}
