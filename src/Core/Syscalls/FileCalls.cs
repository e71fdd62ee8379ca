using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// Changes of a memory file's size and contents (mm/truncate.c). Offsets and sizes in bytes. Under the turn.
/// </summary>
internal static class FileCalls
{
    /// <summary>
    /// Bytes to which truncate and write make a file (s_maxbytes). Linux allows 2^63 - 1, and so does a writable
    /// mapping of a hugetlb file here.
    /// </summary>
    public const ulong MaxBytes = 1UL << 46;

    /// <summary>The same for ext4 and its like with blocks of 4 KiB: 2^32 - 1 blocks.</summary>
    private const ulong MaxDiskBytes = (1UL << 44) - PageGeometry.PageSize;

    /// <summary>Bytes that a file of a kind may have.</summary>
    public static ulong LimitOf(FileKind kind) =>
        kind is FileKind.Disk or FileKind.FsDax ? MaxDiskBytes : MaxBytes;

    /// <summary>
    /// ksys_pread64 and rw_verify_area: offsets are signed, and so is the end. -EINVAL for what is negative.
    /// </summary>
    public static bool IsInOffsets(ulong offset, ulong length) =>
        offset <= long.MaxValue && length <= long.MaxValue && offset + length <= long.MaxValue;

    /// <summary>The page is cached and poisoned: reads and writes of the file answer -EIO.</summary>
    public static bool IsBroken(KernelState kernel, MemoryFile file, ulong index) =>
        file.Lookup(index) is { } pfn
            && ((kernel.Memory.Frames[pfn].Flags | kernel.Memory.Frames[kernel.Memory.Frames.HeadOf(pfn)].Flags)
                & FrameFlags.HwPoison) != 0;

    /// <summary>ftruncate: pages behind the new end leave the file and every mapping, private copies too.</summary>
    public static void Truncate(KernelState kernel, MemoryFile file, ulong size)
    {
        var old = file.Size;
        file.Size = size;
        if (size >= old)
        {
            ZeroTail(kernel, file, old, upTo: ulong.MaxValue);
            return;
        }

        var first = PageGeometry.PagesOf(size);
        UnmapPages(kernel, file, first, ulong.MaxValue, alsoCopies: true);
        file.Truncate(first);
        NoteZeroed(kernel, file, size);
        var within = size & (PageGeometry.PageSize - 1);
        if (within != 0 && file.Lookup(size >> PageGeometry.PageShift) is { } last)
            kernel.Memory.Bytes.Of(last)[(int)within..].Clear();
    }

    /// <summary>
    /// A file that grows: what a mapping stored behind its old end, in the page of that end, is zeroed first. Disk file
    /// systems since 6.13; others let it show.
    /// </summary>
    /// <param name="kernel">The machine's memory.</param>
    /// <param name="file">The file.</param>
    /// <param name="oldEnd">Its size so far, in bytes.</param>
    /// <param name="upTo">Where a write begins, in bytes: what it writes needs no zeroes. The largest number for a
    /// truncation.</param>
    public static void ZeroTail(KernelState kernel, MemoryFile file, ulong oldEnd, ulong upTo)
    {
        if (file.Kind != FileKind.Disk) return;
        NoteZeroed(kernel, file, oldEnd);
        var within = (int)(oldEnd & ~PageGeometry.PageMask);
        if (within == 0 || !kernel.CachesZeroedHoles) return;
        if (file.Lookup(oldEnd >> PageGeometry.PageShift) is not { } pfn) return;
        var end = PageGeometry.AlignUp(oldEnd, PageGeometry.PageSize);
        kernel.Memory.Bytes.Of(pfn).Slice(within, (int)(Math.Min(upTo, end) - oldEnd)).Clear();
        kernel.Memory.MarkDirty(pfn);
    }

    /// <summary>
    /// The file system zeroes the rest of a block from <paramref name="offset"/> on: at an old or a new end, or beside
    /// a hole.
    /// </summary>
    public static void NoteZeroed(KernelState kernel, MemoryFile file, ulong offset)
    {
        if ((offset & ~PageGeometry.PageMask) == 0) return;
        var index = offset >> PageGeometry.PageShift;
        if (file.Stored(index) is null)
        {
            if (kernel.CachesZeroedHoles) file.NoteUnread(index);
            return;
        }

        FaultHandler.FindOrAddPage(kernel, null, file, index, 0, AllocationContext.Movable);
    }

    /// <summary>
    /// fallocate(PUNCH_HOLE): whole pages leave the file, parts of pages are zeroed; private copies stay.
    /// </summary>
    public static void PunchHole(KernelState kernel, MemoryFile file, ulong offset, ulong length)
    {
        var end = Math.Min(offset + length, PageGeometry.AlignUp(file.Size, PageGeometry.PageSize));
        if (end <= offset) return;
        NoteZeroed(kernel, file, offset);
        NoteZeroed(kernel, file, end);
        var unit = PageGeometry.PageSize << file.Order;
        var first = PageGeometry.AlignUp(offset, unit) >> PageGeometry.PageShift;
        var last = PageGeometry.AlignDown(end, unit) >> PageGeometry.PageShift;
        ZeroPart(kernel, file, offset, Math.Min(end, first << PageGeometry.PageShift));
        if (last < first) return;
        ZeroPart(kernel, file, last << PageGeometry.PageShift, end);
        if (last == first) return;
        // hugetlbfs unmaps private copies too (hugetlb_vmdelete_list).
        UnmapPages(kernel, file, first, last, alsoCopies: file.Kind == FileKind.HugeTlb);
        file.Remove(first, last - first);
    }

    /// <summary>unmap_mapping_range over every address space. Page indexes, half-open.</summary>
    private static void UnmapPages(KernelState kernel, MemoryFile file, ulong first, ulong last, bool alsoCopies)
    {
        foreach (var vma in file.Mappings.Over<Vma>(first, last))
        {
            var part = vma.AddressesOf(first, last);
            Mapping.Zap(kernel, vma.Space, vma, part.Start, part.End, keepMarkers: true, onlyFile: !alsoCopies);
        }
    }

    private static void ZeroPart(KernelState kernel, MemoryFile file, ulong start, ulong end)
    {
        while (start < end)
        {
            var pageEnd = Math.Min(end, PageGeometry.AlignDown(start, PageGeometry.PageSize) + PageGeometry.PageSize);
            if (file.Lookup(start >> PageGeometry.PageShift) is { } pfn)
                kernel.Memory.Bytes.Of(pfn).Slice(
                    (int)(start & ~PageGeometry.PageMask), (int)(pageEnd - start)).Clear();
            start = pageEnd;
        }
    }
}
