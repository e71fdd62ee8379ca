using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>Faults of file and device mappings (do_fault, filemap_fault, shmem_fault, a device's ->fault).</summary>
internal static partial class FaultHandler
{
    private static VmFault FileFault(KernelState kernel, in FaultRequest request)
    {
        var (space, vma) = (request.Space, request.Vma);
        if (vma.File is not { } file) return SpecialFault(kernel, request);
        var address = request.Address & PageGeometry.PageMask;
        var index = vma.IndexOf(address);
        // do_read_fault: what is cached around the address is mapped first, also when the page itself cannot be had.
        if (!request.IsWrite && !request.IsUnshare)
        {
            MapAround(kernel, request, file, address);
            if (Pte.IsMapped(space.PageTable.Read(address))) return VmFault.NoPage;
        }

        var isPrivateCopy = !vma.HasAny(VmFlags.Shared | VmFlags.MayShare) && (request.IsWrite || request.IsUnshare);
        // do_cow_fault prepares before it asks the file, and keeps that when the file refuses.
        if (isPrivateCopy) PrepareAnonVma(kernel, space, vma);
        if (index >= PageGeometry.PagesOf(file.Size)) return VmFault.SigBus;
        // A hole is there at once, before what is read along with it from the disk.
        var later = file.Stored(index) is null ? file.StoredPages() : null;
        if (file.Kind == FileKind.Disk && file.Lookup(index) is null && ReadAhead(kernel, vma, file, index)
            && request.MayRetry && !request.IsWrite && !request.IsUnshare)
        {
            // The read drops the lock where it may; the fault begins anew and finds the neighbours cached.
            MapAround(kernel, request, file, address, later);
            if (Pte.IsMapped(space.PageTable.Read(address))) return VmFault.NoPage;
        }

        if (file.Kind == FileKind.Disk && ReadAheadOfMarked(kernel, vma, file, index) is { } unread
            && request.MayRetry && !request.IsWrite && !request.IsUnshare)
        {
            // As above, but nobody waits for what is read: it is not there yet.
            MapAround(kernel, request, file, address, unread);
            if (Pte.IsMapped(space.PageTable.Read(address))) return VmFault.NoPage;
        }

        if (file.Kind == FileKind.Shmem && vma.Has(VmFlags.UffdMissing) && file.Lookup(index) is null
            && file.Stored(index) is null)
            return AskUserfaultfd(kernel, request);
        var isShared = vma.Has(VmFlags.Shared);
        if (FindOrAddPage(kernel, space, file, index, address, request.Context) is not { } pfn) return VmFault.Oom;
        if ((kernel.Memory.Frames[pfn].Flags & FrameFlags.HwPoison) != 0) return VmFault.HwPoison;
        if (isPrivateCopy) return PrivateCopy(kernel, request, address, pfn);

        var isDirtying = request.IsWrite && isShared;
        var bits = FileBits(kernel, vma, pfn, isDirtying || Mapping.SharedBornWritable(kernel, vma))
            | (isDirtying ? Pte.Dirty | kernel.SoftDirty : 0);
        kernel.Memory.Frames.AddRefs(pfn, 1);
        if (!Mapping.MapPage(kernel, space, vma, address, pfn, bits))
        {
            kernel.Memory.Put(pfn);
            return VmFault.Oom;
        }

        if (isDirtying) kernel.Memory.MarkDirty(pfn);
        return VmFault.NoPage;
    }

    /// <summary>
    /// do_sync_mmap_readahead: a page that is not cached is read with its neighbours, 16 pages before it and 15 behind
    /// it; from it on under MADV_SEQUENTIAL, as for huge pages under MADV_HUGEPAGE, alone under MADV_RANDOM, which code
    /// that is read forward does not mind. True when it is cached now.
    /// </summary>
    private static bool ReadAhead(KernelState kernel, Vma vma, MemoryFile file, ulong index)
    {
        // Found, but without contents: read alone (filemap_fault: page_not_uptodate).
        if (file.IsUnread(index))
            return FindOrAddPage(kernel, null, file, index, 0, AllocationContext.Movable) is not null;
        if (vma.Has(VmFlags.HugePage))
        {
            // As much as one huge page, and the next one, whatever else was advised.
            const ulong pages = PageGeometry.EntriesPerTable;
            CacheRange(kernel, file, index & ~(pages - 1), vma.Has(VmFlags.RandRead) ? pages : 2 * pages);
            return file.Lookup(index) is not null;
        }

        var readsForward = vma.Has(VmFlags.Exec) && kernel.Profile.ExecReadsForward;
        if (vma.Has(VmFlags.RandRead) && !readsForward) CacheRange(kernel, file, index, 1);
        else if (readsForward && !vma.Has(VmFlags.SeqRead))
            CacheRange(kernel, file, index, Math.Min(ReadAheadPages, vma.PageOffset + vma.Pages - index));
        else if (vma.Has(VmFlags.SeqRead)) CacheRange(kernel, file, index, ReadAheadPages);
        else CacheRange(kernel, file, index - Math.Min(index, ReadAheadPages / 2), ReadAheadPages);
        return file.Lookup(index) is not null;
    }

    /// <summary>
    /// do_async_mmap_readahead: PG_reclaim, which MADV_PAGEOUT left on a dirty page, is the same bit as PG_readahead.
    /// A fault on the page takes the bit for the mark of a sequential reader, and reads the pages behind it that are
    /// not cached (page_cache_async_ra). The pages that had to be read from the disk; null when nothing was done.
    /// </summary>
    private static IReadOnlySet<ulong>? ReadAheadOfMarked(KernelState kernel, Vma vma, MemoryFile file, ulong index)
    {
        if (vma.Has(VmFlags.RandRead) || file.Lookup(index) is not { } pfn) return null;
        ref var flags = ref kernel.Memory.Frames[pfn].Flags;
        if ((flags & (FrameFlags.Reclaim | FrameFlags.HwPoison)) != FrameFlags.Reclaim) return null;
        flags &= ~FrameFlags.Reclaim;
        var start = index + 1;
        while (start - index <= ReadAheadPages && file.Lookup(start) is not null) start++;
        var unread = file.StoredPages();
        if (start - index <= ReadAheadPages) CacheRange(kernel, file, start, ReadAheadPages);
        return unread;
    }

    /// <summary>
    /// Reads a range of pages into the cache, up to the end of the file; stops in silence when memory is out.
    /// </summary>
    public static void CacheRange(KernelState kernel, MemoryFile file, ulong first, ulong count)
    {
        var end = Math.Min(first + count, PageGeometry.PagesOf(file.Size));
        for (var index = first; index < end; index++)
            if (!file.IsUnread(index) && FindOrAddPage(kernel, null, file, index, 0, AllocationContext.Movable) is null)
                return;
    }

    private static ulong FileBits(KernelState kernel, Vma vma, Pfn pfn, bool writable)
    {
        var flags = kernel.Memory.Frames[pfn].Flags;
        return Pte.Accessed | Mapping.AccessBits(vma, writable)
            | ((flags & FrameFlags.DirtyTracked) != 0 ? Pte.DirtyTracked : 0)
            | ((flags & FrameFlags.Secret) != 0 ? Pte.Secret : 0);
    }

    /// <summary>The cached page, read in (as zeroes) when it is not there yet; null when memory is out.</summary>
    public static Pfn? FindOrAddPage(
        KernelState kernel, AddressSpace? space, MemoryFile file, ulong index, ulong address, AllocationContext context)
    {
        if (file.Lookup(index) is { } cached) return cached;
        // secretmem pages are unmovable; everything else follows the request.
        var where = file.Kind == FileKind.Secret ? AllocationContext.Unmovable : context;
        if (kernel.AllocatePage(space, address, where, FrameFlags.None) is not { } pfn) return null;
        if (file.Insert(index, pfn)) return pfn;
        kernel.Memory.Put(pfn);
        return null;
    }

    /// <summary>do_cow_fault: a private page made from the file's.</summary>
    private static VmFault PrivateCopy(KernelState kernel, in FaultRequest request, ulong address, Pfn source)
    {
        var (space, vma) = (request.Space, request.Vma);
        // A fault method answers with a page; MMIO has none.
        if (!kernel.Memory.Frames.IsValid(source)) return VmFault.SigBus;
        PrepareAnonVma(kernel, space, vma);
        if (kernel.AllocatePage(space, address, request.Context, FrameFlags.Anon) is not { } pfn) return VmFault.Oom;
        kernel.Memory.Bytes.Of(source).CopyTo(kernel.Memory.Bytes.Of(pfn));
        if (Mapping.MapPage(kernel, space, vma, address, pfn,
            AnonBits(kernel, vma, !request.IsUnshare) | (request.IsWrite ? kernel.SoftDirty : 0)))
            return VmFault.NoPage;
        kernel.Memory.Put(pfn);
        return VmFault.Oom;
    }

    /// <summary>
    /// do_fault_around: cached neighbours, sixteen pages at most, are mapped too, read-only faults only.
    /// </summary>
    private static void MapAround(
        KernelState kernel, in FaultRequest request, MemoryFile file, ulong address, IReadOnlySet<ulong>? unread = null)
    {
        if (file.Kind == FileKind.Secret) return;
        var (space, vma) = (request.Space, request.Vma);
        var start = Math.Max(vma.Start, PageGeometry.AlignDown(address, FaultAroundBytes));
        // Sixteen pages from there on, within one page table.
        var table = PageGeometry.AlignDown(address, PageGeometry.PmdSize) + PageGeometry.PmdSize;
        var end = Math.Min(Math.Min(vma.End, table), start + FaultAroundBytes);
        if (kernel.Profile.LastPageNeedsTable && file.Kind == FileKind.Disk && !space.PageTable.Find(address).Exists
            && StartsWithLastPage(file, vma, start, end))
            return;
        for (var at = start; at < end; at += PageGeometry.PageSize)
        {
            if (space.PageTable.Read(at) != 0) continue;
            var index = vma.IndexOf(at);
            if (index >= PageGeometry.PagesOf(file.Size) || file.Lookup(index) is not { } pfn
                || unread?.Contains(index) == true)
                continue;
            if ((kernel.Memory.Frames[pfn].Flags & (FrameFlags.HwPoison | FrameFlags.Reclaim)) != 0) continue;
            kernel.Memory.Frames.AddRefs(pfn, 1);
            if (Mapping.MapPage(
                kernel, space, vma, at, pfn, FileBits(kernel, vma, pfn, Mapping.SharedBornWritable(kernel, vma))))
                continue;
            kernel.Memory.Put(pfn);
            return;
        }
    }

    /// <summary>
    /// filemap_map_pages sets a missing page table up only when the first page that it finds is not the file's last
    /// (can_map_large); without the table it maps nothing.
    /// </summary>
    private static bool StartsWithLastPage(MemoryFile file, Vma vma, ulong start, ulong end)
    {
        var last = PageGeometry.PagesOf(file.Size) - 1;
        for (var at = start; at < end; at += PageGeometry.PageSize)
            if (file.Lookup(vma.IndexOf(at)) is not null) return vma.IndexOf(at) >= last;
        return false;
    }

    /// <summary>Pages that the kernel itself maps without a file: [vdso] and its like read as zeroes here.</summary>
    private static VmFault SpecialFault(KernelState kernel, in FaultRequest request)
    {
        var address = request.Address & PageGeometry.PageMask;
        if (request.Vma.Has(VmFlags.PfnMap))
        {
            // [vvar]: the page of the clocks, and since 6.18 that of the random numbers. Their contents are not
            // emulated.
            var page = (address - request.Vma.Start) >> PageGeometry.PageShift;
            if (request.Vma.SpecialName != "[vvar]" || (page != 0 && !(page == 2 && kernel.Profile.VvarHasRandomPage)))
                return VmFault.SigBus;
            return MapRaw(request.Space, request.Vma, address, kernel.Memory.ZeroPage) ? VmFault.NoPage : VmFault.Oom;
        }

        if (kernel.AllocatePage(request.Space, address, AllocationContext.Unmovable, FrameFlags.None) is not { } pfn)
            return VmFault.Oom;
        var bits = Pte.Accessed | Pte.NoMapping | Mapping.AccessBits(request.Vma, false);
        if (Mapping.MapPage(kernel, request.Space, request.Vma, address, pfn, bits)) return VmFault.NoPage;
        kernel.Memory.Put(pfn);
        return VmFault.Oom;
    }

    private static VmFault DeviceFault(KernelState kernel, in FaultRequest request)
    {
        var (space, vma) = (request.Space, request.Vma);
        var device = vma.Device!;
        var address = request.Address & PageGeometry.PageMask;
        var index = vma.IndexOf(address);
        if (index >= device.Frames) return VmFault.SigBus;
        var pfn = device.First + index;
        var isPrivateCopy = vma.IsCow && (request.IsWrite || request.IsUnshare);
        switch (device.Mapping)
        {
            case DeviceMapping.PfnMapLazy:
                return MapRaw(space, vma, address, pfn) ? VmFault.NoPage : VmFault.Oom;
            case DeviceMapping.FaultPages when isPrivateCopy:
                return PrivateCopy(kernel, request, address, pfn);
            case DeviceMapping.FaultPages:
                return Inserted(InsertPage(kernel, space, vma, address, pfn));
            case DeviceMapping.ServedPfns or DeviceMapping.ServedPages:
                return ServedDeviceFault(kernel, request, device, index, isPrivateCopy);
            default:
                // vm_ops without ->fault: an empty entry stays empty (row 135).
                return VmFault.SigBus;
        }
    }

    /// <summary>vmf_insert_page: an entry that is there already is no error.</summary>
    private static VmFault Inserted(Errno error) => error switch
    {
        Errno.None or Errno.EBUSY => VmFault.NoPage,
        Errno.ENOMEM => VmFault.Oom,
        _ => VmFault.SigBus,
    };

    /// <summary>->fault of a device whose driver is a process outside.</summary>
    private static VmFault ServedDeviceFault(
        KernelState kernel, in FaultRequest request, Device device, ulong index, bool isPrivateCopy)
    {
        var taken = kernel.Served.TakeOrAsk(
            request.Space, request.Address, request.WantsOwnPage, request.MayRetry, device, index, out var result);
        if (taken is not { Reply: { } reply } fault) return result;
        var (space, vma) = (request.Space, request.Vma);
        var address = request.Address & PageGeometry.PageMask;
        var pfn = device.First + fault.ReplyPage;
        switch (reply)
        {
            case FaultReply.InsertPfn:
                return MapRaw(space, vma, address, pfn) ? VmFault.NoPage : VmFault.Oom;
            case FaultReply.Page when isPrivateCopy:
                return PrivateCopy(kernel, request, address, pfn);
            case FaultReply.Page:
                return Inserted(InsertPage(kernel, space, vma, address, pfn));
            case FaultReply.Oom: return VmFault.Oom;
            case FaultReply.HwPoison: return VmFault.HwPoison;
            case FaultReply.Retry: return VmFault.Retry;
            default: return VmFault.SigBus;
        }
    }

    /// <summary>Maps a raw PFN as remap_pfn_range and vmf_insert_pfn do: no reference, no map count.</summary>
    public static bool MapRaw(AddressSpace space, Vma vma, ulong address, Pfn pfn) =>
        Mapping.MapSpecial(
            space, address, pfn, Pte.RawPfn | Pte.Accessed | Mapping.AccessBits(vma, vma.Has(VmFlags.Shared)));

    /// <summary>
    /// vm_insert_page: maps a device's RAM page, counted. -EFAULT outside the area, -EINVAL for an anonymous or free
    /// page, -EBUSY when the entry is taken, -ENOMEM without a table.
    /// </summary>
    public static Errno InsertPage(KernelState kernel, AddressSpace space, Vma vma, ulong address, Pfn pfn)
    {
        if (!vma.Range.Contains(address)) return Errno.EFAULT;
        var frames = kernel.Memory.Frames;
        if (!frames.IsValid(pfn) || frames.RefCount(frames.HeadOf(pfn)) <= 0) return Errno.EINVAL;
        if ((frames[frames.HeadOf(pfn)].Flags & FrameFlags.Anon) != 0) return Errno.EINVAL;
        if (space.PageTable.Read(address) != 0) return Errno.EBUSY;
        frames.AddRefs(pfn, 1);
        var compound = frames.OrderOf(pfn) > 0 ? Pte.Compound : 0;
        var bits = Pte.NoMapping | Pte.Accessed | compound | Mapping.AccessBits(vma, vma.Has(VmFlags.Shared));
        if (Mapping.MapPage(kernel, space, vma, address & PageGeometry.PageMask, pfn, bits)) return Errno.None;
        kernel.Memory.Put(pfn);
        return Errno.ENOMEM;
    }
}
