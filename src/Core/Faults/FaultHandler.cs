using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>handle_mm_fault and what follows from it (mm/memory.c; Semantics 5). Under the turn.</summary>
internal static partial class FaultHandler
{
    private const ulong FaultAroundBytes = 64UL << 10;

    /// <summary>Pages that a block device reads ahead (128 KiB).</summary>
    private const ulong ReadAheadPages = 32;

    /// <summary>
    /// Handles a fault. <see cref="VmFault.Retry"/> means that a plan dropped the lock: the caller tries again, or
    /// parks when <paramref name="parks"/> says so.
    /// </summary>
    public static VmFault Handle(KernelState kernel, FaultRequest request, out bool parks)
    {
        parks = false;
        var vma = request.Vma;
        if (request.IsUnshare && !vma.IsCow) request = request with { Flags = request.Flags & ~FaultFlags.Unshare };
        if (request.IsWrite)
        {
            if (!vma.Has(VmFlags.MayWrite)) return VmFault.SigSegv;
            if (!vma.Has(VmFlags.Write) && !vma.IsCow) return VmFault.SigSegv;
        }

        kernel.FaultCount++;
        var planned = Planned(kernel, request, out parks);
        if (planned != VmFault.None) return planned;
        if (vma.IsHugeTlb) return HugeTlb.Handle(kernel, request);
        // __handle_mm_fault: the upper tables come first, and stay when the fault fails.
        if (!request.Space.PageTable.Ensure(request.Address, PageGeometry.PmdOrder).Exists) return VmFault.Oom;
        var result = HandleEntry(kernel, request);
        parks = (result & VmFault.Waits) != 0;
        if (parks) kernel.RetryCount++;
        return result & ~VmFault.Waits;
    }

    /// <summary>Gives an area its anon_vma before the first anonymous page (anon_vma_prepare).</summary>
    public static void PrepareAnonVma(KernelState kernel, AddressSpace space, Vma vma) =>
        kernel.AnonVmas.Prepare(space, vma);

    private static VmFault Planned(KernelState kernel, in FaultRequest request, out bool parks)
    {
        var action = kernel.Plan.Decide(ChoicePoint.Fault, request.Space.Name, request.Address);
        parks = action == FaultAction.Park;
        switch (action)
        {
            case FaultAction.Retry or FaultAction.Park or FaultAction.NeedsIo:
                // A handler that may not drop the lock has to block until it is done (row 43): here it is done at once.
                if (!request.MayRetry)
                {
                    parks = false;
                    return VmFault.None;
                }

                kernel.RetryCount++;
                return VmFault.Retry;
            case FaultAction.Oom: return VmFault.Oom;
            case FaultAction.SigBus: return VmFault.SigBus;
            case FaultAction.SigSegv: return VmFault.SigSegv;
            case FaultAction.HwPoison: return VmFault.HwPoison;
            default: return VmFault.None;
        }
    }

    private static VmFault HandleEntry(KernelState kernel, in FaultRequest request)
    {
        var table = request.Space.PageTable;
        var slot = table.Find(request.Address);
        var entry = slot.Exists ? table[slot] : 0;
        if ((entry & Pte.Marker) != 0) return entry == Pte.GuardMarker ? VmFault.SigSegv : VmFault.HwPoison;
        if ((entry & Pte.Swap) != 0) return SwapIn(kernel, request, slot);
        if (!Pte.IsMapped(entry))
        {
            if (request.Vma.IsAnonymous) return Anonymous(kernel, request, slot.Exists);
            return request.Vma.Device is not null ? DeviceFault(kernel, request) : FileFault(kernel, request);
        }

        if (request.IsWrite && (entry & Pte.Write) == 0) return WriteProtected(kernel, request, slot);
        if (request.IsUnshare && (entry & Pte.Write) == 0) return WriteProtected(kernel, request, slot);
        table[slot] |= Pte.Accessed | (request.IsWrite ? Pte.Dirty : 0);
        return VmFault.None;
    }

    private static bool WantsHuge(KernelState kernel, in FaultRequest request, out ulong start)
    {
        var vma = request.Vma;
        start = PageGeometry.AlignDown(request.Address, PageGeometry.PmdSize);
        if (kernel.Thp == ThpMode.Never || vma.Has(VmFlags.NoHugePage)) return false;
        if (kernel.Thp == ThpMode.MAdvise && !vma.Has(VmFlags.HugePage)) return false;
        return start >= vma.Start && start + PageGeometry.PmdSize <= vma.End;
    }

    /// <summary>do_anonymous_page and do_huge_pmd_anonymous_page.</summary>
    private static VmFault Anonymous(KernelState kernel, in FaultRequest request, bool tableExists)
    {
        var (space, vma) = (request.Space, request.Vma);
        var address = request.Address & PageGeometry.PageMask;
        if (vma.Has(VmFlags.UffdMissing)) return Missing(kernel, request, tableExists);
        if (kernel.UsesZeroPage && !request.IsWrite && !request.IsUnshare)
        {
            var bits = Pte.Accessed | Mapping.AccessBits(vma, false);
            if (!tableExists && WantsHuge(kernel, request, out var zeroStart) && kernel.EnsureHugeZero())
            {
                // do_huge_pmd_anonymous_page prepares for either page.
                PrepareAnonVma(kernel, space, vma);
                var into = space.PageTable.Ensure(zeroStart, PageGeometry.PmdOrder);
                if (!into.Exists) return VmFault.Oom;
                space.PageTable[into] = Pte.Leaf(kernel.HugeZero, Pte.Huge | Pte.Special | bits);
                return VmFault.NoPage;
            }

            return Mapping.MapSpecial(space, address, kernel.Memory.ZeroPage, bits) ? VmFault.NoPage : VmFault.Oom;
        }

        PrepareAnonVma(kernel, space, vma);
        if (!tableExists && WantsHuge(kernel, request, out var start))
        {
            var huge = kernel.AllocatePage(space, start, request.Context, FrameFlags.Anon, PageGeometry.PmdOrder);
            if (huge is { } head)
            {
                var slot = space.PageTable.Ensure(start, PageGeometry.PmdOrder);
                if (slot.Exists)
                {
                    space.PageTable[slot] = Pte.Leaf(head, Pte.Huge | AnonBits(kernel, vma, !request.IsUnshare));
                    Rmap.AddNewAnon(kernel, vma, start, head);
                    LargeFolio.AddMaps(kernel, space, head, 1);
                    Mlock.AddNew(kernel, vma, head);
                    return VmFault.NoPage;
                }

                kernel.Memory.Put(head);
            }
        }

        var page = kernel.AllocatePage(space, address, request.Context, FrameFlags.Anon);
        if (page is not { } pfn) return VmFault.Oom;
        if (Mapping.MapPage(kernel, space, vma, address, pfn, AnonBits(kernel, vma, !request.IsUnshare)))
            return VmFault.NoPage;
        kernel.Memory.Put(pfn);
        return VmFault.Oom;
    }

    /// <summary>
    /// handle_userfault of a missing page. The preparations made by then stay: the anon_vma of a write or a
    /// huge page, the table of a small one.
    /// </summary>
    private static VmFault Missing(KernelState kernel, in FaultRequest request, bool tableExists)
    {
        var isHuge = !tableExists && WantsHuge(kernel, request, out _);
        var isZero = kernel.UsesZeroPage && !request.IsWrite && !request.IsUnshare;
        if (isHuge || !isZero) PrepareAnonVma(kernel, request.Space, request.Vma);
        if (!isHuge && !request.Space.PageTable.Ensure(request.Address, 0).Exists) return VmFault.Oom;
        return AskUserfaultfd(kernel, request);
    }

    /// <summary>
    /// handle_userfault: SIGBUS with UFFD_FEATURE_SIGBUS or where the lock cannot be dropped; else the handler is
    /// asked, and wakes who waits.
    /// </summary>
    private static VmFault AskUserfaultfd(KernelState kernel, in FaultRequest request)
    {
        if (request.Vma.Uffd is not { } fd) return VmFault.SigBus;
        // A fault that may not wait does not ask the handler.
        if ((request.Flags & FaultFlags.RetryNoWait) != 0 && kernel.Served.IsServed(fd)) return VmFault.Retry;
        // Its answer is the page itself, or a plain waking: either way the fault begins anew.
        var reply = kernel.Served.TakeOrAsk(
            request.Space, request.Address, request.WantsOwnPage, request.MayRetry, fd, request.Vma.IndexOf(
                request.Address), out var result);
        return reply is null ? result : VmFault.Retry;
    }

    private static ulong AnonBits(KernelState kernel, Vma vma, bool writable)
    {
        var access = Mapping.AccessBits(vma, writable);
        return Pte.Anon | Pte.Exclusive | Pte.Accessed | Pte.Dirty | access
            | ((access & Pte.Write) != 0 ? kernel.SoftDirty : 0);
    }

    /// <summary>do_wp_page: an entry is there and forbids the write (or is shared and must not be).</summary>
    private static VmFault WriteProtected(KernelState kernel, in FaultRequest request, LeafSlot slot)
    {
        var (space, vma) = (request.Space, request.Vma);
        ref var entry = ref space.PageTable[slot];
        // handle_userfault: nobody takes the protection off.
        if (request.IsWrite && (entry & Pte.UffdWp) != 0 && vma.Has(VmFlags.UffdWp)) return VmFault.SigBus;
        if (request.IsWrite) entry &= ~Pte.UffdWp;
        if (vma.HasAny(VmFlags.Shared | VmFlags.MayShare))
        {
            // page_mkwrite or pfn_mkwrite: the page is dirty from now on.
            entry |= Mapping.AccessBits(vma, true) | Pte.Dirty | Pte.Accessed | kernel.SoftDirty;
            if ((entry & Pte.Special) == 0) kernel.Memory.MarkDirty(Pte.PfnOf(entry));
            return VmFault.NoPage;
        }

        if (slot.Order > 0 && (entry & Pte.Special) != 0)
        {
            // do_huge_zero_wp_pmd since 6.13: a huge page at once. Before, the huge zero page is split and one small
            // page copied.
            if (kernel.Profile.HugeZeroIsReplacedWhole) entry = 0;
            else if (!Mapping.SplitLeaf(kernel, space, request.Address, slot)) return VmFault.Oom;
            return kernel.Profile.HugeZeroIsReplacedWhole
                ? Anonymous(kernel, request, tableExists: false)
                : HandleEntry(kernel, request);
        }

        if ((entry & Pte.Anon) != 0)
        {
            if ((entry & Pte.Exclusive) == 0 && IsSoleUser(kernel, entry))
            {
                entry |= Pte.Exclusive;
                Rmap.MoveAnon(kernel, vma, kernel.Memory.Frames.HeadOf(Pte.PfnOf(entry)));
            }

            if ((entry & Pte.Exclusive) != 0)
            {
                if (request.IsUnshare) return VmFault.None;
                entry |= Mapping.AccessBits(vma, true) | Pte.Dirty | Pte.Accessed | kernel.SoftDirty;
                return VmFault.NoPage;
            }

            if (slot.Order > 0)
            {
                if (!Mapping.SplitLeaf(kernel, space, request.Address, slot)) return VmFault.Oom;
                return HandleEntry(kernel, request);
            }
        }

        return CopyOnWrite(kernel, request, slot);
    }

    /// <summary>
    /// wp_can_reuse_anon_folio: nobody else holds the page, by a mapping, by a reference, or by an entry of swap that
    /// names it.
    /// </summary>
    private static bool IsSoleUser(KernelState kernel, ulong entry)
    {
        var frames = kernel.Memory.Frames;
        var head = frames.HeadOf(Pte.PfnOf(entry));
        if ((entry & Pte.Compound) != 0 && kernel.Profile.LargeFolioReuse != LargeFolioReuse.WithoutOtherPages)
        {
            // A folio of which one page is mapped is better given back than used on.
            var maps = frames[head].MapCount;
            return kernel.Profile.LargeFolioReuse == LargeFolioReuse.WithinOneProcess && maps > 1
                && frames.RefCount(head) == maps
                && !LargeFolio.IsMappedShared(kernel, head);
        }

        var isInSwapCache = (frames[head].Flags & FrameFlags.SwapCache) != 0;
        if (frames.RefCount(head) != (isInSwapCache ? 2 : 1)) return false;
        return !isInSwapCache || kernel.Swap!.TryDropCache(head);
    }

    private static VmFault CopyOnWrite(KernelState kernel, in FaultRequest request, LeafSlot slot)
    {
        var (space, vma) = (request.Space, request.Vma);
        var address = request.Address & PageGeometry.PageMask;
        var old = space.PageTable[slot];
        var source = Pte.PfnOf(old);
        PrepareAnonVma(kernel, space, vma);
        var page = kernel.AllocatePage(space, address, request.Context, FrameFlags.Anon);
        if (page is not { } pfn) return VmFault.Oom;
        // __wp_page_copy_user: what has no page is read as the program would read it, and MMIO reads as ones.
        if (!kernel.Memory.Frames.IsValid(source)) kernel.Memory.Bytes.Of(pfn).Fill(0xff);
        else if (source != kernel.Memory.ZeroPage)
            kernel.Memory.Bytes.Of(source).CopyTo(kernel.Memory.Bytes.Of(pfn));
        space.PageTable[slot] = Pte.Leaf(
            pfn, AnonBits(kernel, vma, !request.IsUnshare)
                | (request.IsUnshare ? old & (Pte.UffdWp | Pte.SoftDirty) : kernel.SoftDirty));
        kernel.Memory.Frames[pfn].MapCount = 1;
        Rmap.AddNewAnon(kernel, vma, address, pfn);
        Mlock.AddNew(kernel, vma, pfn);
        Mapping.Release(kernel, space, vma, old);
        return VmFault.NoPage;
    }
}
