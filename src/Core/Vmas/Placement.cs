using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;

namespace FramePin.Core.Vmas;

/// <summary>
/// Chooses addresses (mm/mmap.c: get_unmapped_area; mm/huge_memory.c: thp_get_unmapped_area; Semantics 0.1).
/// </summary>
internal static class Placement
{
    /// <summary>Start of a VMA with the guard gap that a growing stack keeps below it (vm_start_gap).</summary>
    public static ulong GuardedStart(Vma vma) =>
        !vma.Has(VmFlags.GrowsDown) ? vma.Start
        : vma.Start > PageGeometry.StackGuardGap ? vma.Start - PageGeometry.StackGuardGap : 0;

    /// <summary>Where MAP_32BIT searches, upwards (arch/x86/kernel/sys_x86_64.c: find_start_end).</summary>
    private static readonly AddressRange Low2G = new(0x4000_0000, 0x8000_0000);

    private const ulong Above4G = 1UL << 32;

    /// <summary>
    /// Where a search upwards begins that the search downwards has left without an answer (mmap_legacy_base).
    /// </summary>
    private static readonly ulong LegacyBase =
        PageGeometry.AlignUp(PageGeometry.MapWindow / 3, PageGeometry.PageSize);

    /// <summary>
    /// The address for a new mapping; -ENOMEM without room.
    /// </summary>
    /// <param name="space">Where.</param>
    /// <param name="profile">Decides whether anonymous memory is aligned to huge pages, and which flags count.</param>
    /// <param name="request">What is to be placed.</param>
    public static SyscallResult Choose(AddressSpace space, KernelProfile profile, in PlacementRequest request)
    {
        if (request.Length > space.TaskSize) return Errno.ENOMEM;
        var (hint, length) = (request.Hint, request.Length);
        var alignment = PageGeometry.PageSize << request.HugeOrder;
        if (request.HugeOrder > 0 && !profile.HugeTlbIsPlacedAsOthers)
        {
            hint = PageGeometry.AlignDown(hint, alignment);
            var everywhere = new Search(space, IsLow: false, Floor: 0, hint > PageGeometry.MapWindow);
            return everywhere.TakeHint(hint, length) is { } near
                ? SyscallResult.Ok(near)
                : everywhere.Find(length, alignment);
        }

        var search = new Search(space, (request.Flags & MapFlags.Map32Bit) != 0,
            (request.Flags & MapFlags.Above4G) != 0 && profile.HasMapAbove4G ? Above4G : 0,
            (hint & PageGeometry.PageMask) > PageGeometry.MapWindow);
        if (request.HugeOrder == 0 && !request.IsMove && WantsHugeAlignment(profile, request))
        {
            // __thp_get_unmapped_area asks for room to align first, with the hint too; a hint taken is left as it is.
            if (hint != 0 && search.TakeHint(hint, length + PageGeometry.PmdSize) is { } roomy)
                return SyscallResult.Ok(roomy);
            if (SearchAligned(search, length, request.File is null ? 0 : request.PageOffset) is { } aligned)
                return SyscallResult.Ok(aligned);
        }

        if (hint != 0 && search.TakeHint(PageGeometry.AlignUp(hint, alignment), length) is { } taken)
            return SyscallResult.Ok(taken);
        return search.Find(length, alignment);
    }

    private static bool WantsHugeAlignment(KernelProfile profile, in PlacementRequest request)
    {
        var (length, file) = (request.Length, request.File);
        if (file is null)
        {
            return profile.AlignsHugeAnonymous && request.Hint == 0
                && PageGeometry.IsAligned(length, PageGeometry.PmdSize);
        }

        if (!file.HasHugePlacement) return false;
        // loff_t: signed, in bytes, and wrapping.
        var offset = request.PageOffset << PageGeometry.PageShift;
        var (end, first) = ((long)(offset + length), (long)PageGeometry.AlignUp(offset, PageGeometry.PmdSize));
        if (end <= first || (ulong)(end - first) < PageGeometry.PmdSize) return false;
        return offset + length + PageGeometry.PmdSize >= offset;
    }

    private static ulong? SearchAligned(in Search search, ulong length, ulong pageOffset)
    {
        var found = search.Find(length + PageGeometry.PmdSize, PageGeometry.PageSize);
        if (!found.IsOk) return null;
        var shift = ((pageOffset << PageGeometry.PageShift) - found.Value) & (PageGeometry.PmdSize - 1);
        return found.Value + (shift == 0 ? PageGeometry.PmdSize : shift);
    }

    /// <summary>The gaps of an address space, and which of them count.</summary>
    /// <param name="Space">The address space.</param>
    /// <param name="IsLow">MAP_32BIT: upwards, from 1 to 2 GiB.</param>
    /// <param name="Floor">Lowest address of a search downwards.</param>
    /// <param name="IsHigh">
    /// The hint lies above <see cref="PageGeometry.MapWindow"/>, and asks for the whole address space (five levels).
    /// </param>
    private readonly record struct Search(AddressSpace Space, bool IsLow, ulong Floor, bool IsHigh)
    {
        /// <summary>task_size_64bit, and mmap_address_hint_valid: a hint counts wholly below the window or above it.
        /// </summary>
        private ulong End => IsLow ? Low2G.End : IsHigh ? Space.TaskSize : PageGeometry.MapWindow;

        public ulong? TakeHint(ulong address, ulong length)
        {
            if (address < PageGeometry.MmapMinAddress || length > End || address > End - length) return null;
            var next = Space.Vmas.FindFrom(address);
            return next is not null && address + length > GuardedStart(next) ? null : address;
        }

        /// <summary>
        /// Highest gap below mmap_base that holds the length; if there is none, the lowest above a third of the
        /// address space.
        /// </summary>
        public SyscallResult Find(ulong length, ulong alignment)
        {
            if (IsLow) return FindUpwards(length, alignment, Low2G);
            var top = Math.Min(Space.Layout.MmapBase, PageGeometry.MapWindow);
            if (IsHigh) top += Space.TaskSize - PageGeometry.MapWindow;
            var vmas = Space.Vmas;
            var wanted = length + alignment - PageGeometry.PageSize;
            var limit = top;
            for (var i = vmas.LowerIndex(top) - 1; i >= -1; i--)
            {
                var gapStart = Math.Max(Math.Max(i >= 0 ? vmas[i].End : 0, PageGeometry.MmapMinAddress), Floor);
                var above = i + 1 < vmas.Count ? vmas[i + 1] : null;
                var gapEnd = Math.Min(limit, above?.Start ?? Space.TaskSize);
                if (gapEnd < gapStart || gapEnd - gapStart < wanted) continue;
                if (above is not null && GuardedStart(above) < gapEnd)
                {
                    // A gap that would do, but for the stack above it: the search goes on below the stack's guard gap.
                    limit = gapEnd = GuardedStart(above);
                    if (gapEnd < gapStart || gapEnd - gapStart < wanted) continue;
                }

                return SyscallResult.Ok(PageGeometry.AlignDown(gapEnd - length, alignment));
            }

            return FindUpwards(length, alignment, new AddressRange(LegacyBase, End));
        }

        /// <summary>unmapped_area: the lowest gap that holds the length wherever it begins in a huge page.</summary>
        private SyscallResult FindUpwards(ulong length, ulong alignment, AddressRange within)
        {
            var wanted = length + alignment - PageGeometry.PageSize;
            for (var start = within.Start; ;)
            {
                var next = Space.Vmas.FindFrom(start);
                var end = Math.Min(within.End, next?.Start ?? within.End);
                if (end > start && end - start >= wanted)
                {
                    var address = PageGeometry.AlignUp(start, alignment);
                    if (next is null || !next.Has(VmFlags.GrowsDown) || GuardedStart(next) >= address + wanted - 1)
                        return SyscallResult.Ok(address);
                }

                if (next is null || next.Start >= within.End) return Errno.ENOMEM;
                start = next.End;
            }
        }
    }
}

/// <summary>A mapping that wants an address. Bytes; the length a multiple of the page size.</summary>
/// <param name="Hint">Wanted address, 0 for none; taken when it is free.</param>
/// <param name="Length">Bytes.</param>
internal readonly record struct PlacementRequest(ulong Hint, ulong Length)
{
    /// <summary>The file; null for anonymous memory, hugetlbfs and devices.</summary>
    public MemoryFile? File { get; init; }

    /// <summary>Offset in the file, in pages.</summary>
    public ulong PageOffset { get; init; }

    /// <summary>log2 of the frames of a huge page of a hugetlb mapping, 0 otherwise.</summary>
    public int HugeOrder { get; init; }

    /// <summary>A move by mremap, or a kind of mapping that is not aligned to huge pages.</summary>
    public bool IsMove { get; init; }

    /// <summary>MAP_32BIT and MAP_ABOVE4G count.</summary>
    public MapFlags Flags { get; init; }
}
