using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Kernel;

namespace FramePin.Core.Syscalls;

/// <summary>Mappings of huge pages of hugetlbfs (mm/mmap.c: ksys_mmap_pgoff; fs/hugetlbfs/inode.c).</summary>
public readonly partial record struct MmapCall
{
    /// <summary>The top bits of a page offset that no file of 2^63 bytes reaches (PGOFF_LOFFT_MAX).</summary>
    private const ulong OffsetsBeyondFiles = ~(ulong.MaxValue >> (PageGeometry.PageShift + 1));

    /// <summary>
    /// ksys_mmap_pgoff: the length becomes whole huge pages, and 0 when that wraps. MAP_HUGETLB without a file makes
    /// one, of the size that the flags name.
    /// </summary>
    private static Errno PrepareHuge(KernelState kernel, ref MmapRequest request, out int order)
    {
        order = request.File?.Order ?? 0;
        if (order == 0 && (request.Flags & MapFlags.HugeTlb) == 0) return Errno.None;
        if (order == 0)
        {
            if (HasFile(request)) return Errno.EINVAL;
            order = OrderOf(request.Flags);
            if (order is not (PageGeometry.PmdOrder or PageGeometry.PudOrder)) return Errno.EINVAL;
        }

        var length = PageGeometry.AlignUp(request.Length, PageGeometry.PageSize << order);
        request = request with { Length = length };
        if (request.File is not null) return Errno.None;
        if (kernel.CreateFile("/anon_hugepage (deleted)", FileKind.HugeTlb, length, order) is not { } file)
            return Errno.ENOMEM;
        file.Unlinked = true;
        request = request with { File = file };
        return Errno.None;
    }

    /// <summary>
    /// log2 of the frames of the page that the flags name: that of 2 MiB without a size, negative for a size below a
    /// page.
    /// </summary>
    private static int OrderOf(MapFlags flags)
    {
        var log = (int)(((uint)flags >> Abi.MapHuge.Shift) & Abi.MapHuge.Mask);
        return log == 0 ? PageGeometry.PmdOrder : log - PageGeometry.PageShift;
    }

    /// <summary>hugetlbfs_file_mmap: the offset must be whole huge pages below 2^63 bytes.</summary>
    private static Errno MapHuge(
        MemoryFile file, AddressRange range, ulong pageOffset, VmFlags vmFlags, out HugeReservation? reserve)
    {
        reserve = null;
        if ((pageOffset & OffsetsBeyondFiles) != 0) return Errno.EINVAL;
        if (!PageGeometry.IsAligned(pageOffset, 1UL << file.Order)) return Errno.EINVAL;
        var end = (pageOffset << PageGeometry.PageShift) + range.Length;
        if (end > long.MaxValue) return Errno.EINVAL;
        var first = pageOffset >> file.Order;
        if (!TryReserve(file, first, first + (range.Pages >> file.Order), vmFlags, out reserve)) return Errno.ENOMEM;
        // A writable mapping, private ones too, makes the file as long as it reaches.
        if ((vmFlags & VmFlags.Write) != 0) file.Size = Math.Max(file.Size, end);
        return Errno.None;
    }

    /// <summary>
    /// hugetlb_reserve_pages: what may be faulted in later must be there now. A shared mapping shares the promises of
    /// its file, page by page; a private one has its own, for all of its pages.
    /// </summary>
    private static bool TryReserve(
        MemoryFile file, ulong first, ulong end, VmFlags vmFlags, out HugeReservation? reserve)
    {
        reserve = null;
        if ((vmFlags & VmFlags.NoReserve) != 0) return true;
        if ((vmFlags & VmFlags.MayShare) != 0) return file.TryPromise(first, end);
        var pool = file.Pool!;
        if (end - first > (ulong)Math.Max(0, pool.Available)) return false;
        pool.Reserved += (long)(end - first);
        reserve = new HugeReservation(pool);
        return true;
    }
}
