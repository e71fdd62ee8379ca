using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>handle_mm_fault and what follows from it (mm/memory.c; kernel-semantics 5). Under the turn.</summary>
internal static partial class FaultHandler
{
    private const ulong FaultAroundBytes = 64UL << 10;

    /// <summary>Pages that a block device reads ahead (128 KiB).</summary>
    private const ulong ReadAheadPages = 32;

    /// <summary>
    /// Handles a fault. <see cref="VmFault.Retry"/> means that a plan dropped the lock: the caller tries again, or parks when
    /// <paramref name="parks"/> says so.
    /// </summary>
    public static VmFault Handle(MmContext mm, FaultRequest request, out bool parks)
    {
        parks = false;
        var vma = request.Vma;
        if (request.IsUnshare && !vma.IsCow) request = request with { Flags = request.Flags & ~FaultFlags.Unshare };
        if (request.IsWrite)
        {
            if (!vma.Has(VmFlags.MayWrite)) return VmFault.SigSegv;
            if (!vma.Has(VmFlags.Write) && !vma.IsCow) return VmFault.SigSegv;
        }

        mm.FaultCount++;
        var planned = Planned(mm, request, out parks);
        if (planned != VmFault.None) return planned;
        if (vma.IsHugeTlb) return HugeTlb.Handle(mm, request);
        // __handle_mm_fault: the upper tables come first, and stay when the fault fails.
        if (!request.Space.PageTable.Ensure(request.Address, PageGeometry.PmdOrder).Exists) return VmFault.Oom;
        var result = HandleEntry(mm, request);
        parks = (result & VmFault.Waits) != 0;
        if (parks) mm.RetryCount++;
        return result & ~VmFault.Waits;
    }

    /// <summary>Gives an area its anon_vma before the first anonymous page (anon_vma_prepare).</summary>
    public static void PrepareAnonVma(MmContext mm, AddressSpace space, Vma vma) =>
        vma.AnonVma ??= VmaMerge.Reusable(space, vma) ?? mm.NewAnonVma();

    private static VmFault Planned(MmContext mm, in FaultRequest request, out bool parks)
    {
        var action = mm.Plan.Decide(ChoicePoint.Fault, request.Space.Name, request.Address);
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

                mm.RetryCount++;
                return VmFault.Retry;
            case FaultAction.Oom: return VmFault.Oom;
            case FaultAction.SigBus: return VmFault.SigBus;
            case FaultAction.SigSegv: return VmFault.SigSegv;
            case FaultAction.HwPoison: return VmFault.HwPoison;
            default: return VmFault.None;
        }
    }

    private static VmFault HandleEntry(MmContext mm, in FaultRequest request)
    {
        var table = request.Space.PageTable;
        var slot = table.Find(request.Address);
        var entry = slot.Exists ? table[slot] : 0;
        if ((entry & Pte.Marker) != 0) return entry == Pte.GuardMarker ? VmFault.SigSegv : VmFault.HwPoison;
        if ((entry & Pte.Swap) != 0) return SwapIn(mm, request, slot);
        if (!Pte.IsMapped(entry))
        {
            if (request.Vma.IsAnonymous) return Anonymous(mm, request, slot.Exists);
            return request.Vma.Device is not null ? DeviceFault(mm, request) : FileFault(mm, request);
        }

        if (request.IsWrite && (entry & Pte.Write) == 0) return WriteProtected(mm, request, slot);
        if (request.IsUnshare && (entry & Pte.Write) == 0) return WriteProtected(mm, request, slot);
        table[slot] |= Pte.Accessed | (request.IsWrite ? Pte.Dirty : 0);
        return VmFault.None;
    }

    private static bool WantsHuge(MmContext mm, in FaultRequest request, out ulong start)
    {
        var vma = request.Vma;
        start = PageGeometry.AlignDown(request.Address, PageGeometry.PmdSize);
        if (mm.Thp == ThpMode.Never || vma.Has(VmFlags.NoHugePage)) return false;
        if (mm.Thp == ThpMode.MAdvise && !vma.Has(VmFlags.HugePage)) return false;
        return start >= vma.Start && start + PageGeometry.PmdSize <= vma.End;
    }

    /// <summary>do_anonymous_page and do_huge_pmd_anonymous_page.</summary>
    private static VmFault Anonymous(MmContext mm, in FaultRequest request, bool tableExists)
    {
        var (space, vma) = (request.Space, request.Vma);
        var address = request.Address & PageGeometry.PageMask;
        if (vma.Has(VmFlags.UffdMissing)) return Missing(mm, request, tableExists);
        if (mm.UsesZeroPage && !request.IsWrite && !request.IsUnshare)
        {
            var bits = Pte.Accessed | Mapping.AccessBits(vma, false);
            if (!tableExists && WantsHuge(mm, request, out var zeroStart) && mm.EnsureHugeZero())
            {
                // do_huge_pmd_anonymous_page prepares for either page.
                PrepareAnonVma(mm, space, vma);
                var into = space.PageTable.Ensure(zeroStart, PageGeometry.PmdOrder);
                if (!into.Exists) return VmFault.Oom;
                space.PageTable[into] = Pte.Leaf(mm.HugeZero, Pte.Huge | Pte.Special | bits);
                return VmFault.NoPage;
            }

            return Mapping.MapSpecial(space, address, mm.Memory.ZeroPage, bits) ? VmFault.NoPage : VmFault.Oom;
        }

        PrepareAnonVma(mm, space, vma);
        if (!tableExists && WantsHuge(mm, request, out var start))
        {
            var huge = mm.AllocatePage(space, start, request.Context, FrameFlags.Anon, PageGeometry.PmdOrder);
            if (huge is { } head)
            {
                var slot = space.PageTable.Ensure(start, PageGeometry.PmdOrder);
                if (slot.Exists)
                {
                    space.PageTable[slot] = Pte.Leaf(head, Pte.Huge | AnonBits(mm, vma, !request.IsUnshare));
                    LargeFolio.AddMaps(mm, space, head, 1);
                    Mlock.AddNew(mm, vma, head);
                    return VmFault.NoPage;
                }

                mm.Memory.Put(head);
            }
        }

        var page = mm.AllocatePage(space, address, request.Context, FrameFlags.Anon);
        if (page is not { } pfn) return VmFault.Oom;
        if (Mapping.MapPage(mm, space, vma, address, pfn, AnonBits(mm, vma, !request.IsUnshare))) return VmFault.NoPage;
        mm.Memory.Put(pfn);
        return VmFault.Oom;
    }

    /// <summary>
    /// handle_userfault of a missing page. What the kernel had prepared by then stays: the anon_vma of a write or a huge page, the table of a
    /// small one.
    /// </summary>
    private static VmFault Missing(MmContext mm, in FaultRequest request, bool tableExists)
    {
        var isHuge = !tableExists && WantsHuge(mm, request, out _);
        var isZero = mm.UsesZeroPage && !request.IsWrite && !request.IsUnshare;
        if (isHuge || !isZero) PrepareAnonVma(mm, request.Space, request.Vma);
        if (!isHuge && !request.Space.PageTable.Ensure(request.Address, 0).Exists) return VmFault.Oom;
        return AskUserfaultfd(mm, request);
    }

    /// <summary>handle_userfault: SIGBUS with UFFD_FEATURE_SIGBUS or where the lock cannot be dropped; else the handler is asked, and wakes who waits.</summary>
    private static VmFault AskUserfaultfd(MmContext mm, in FaultRequest request)
    {
        if (request.Vma.Uffd is not { } fd) return VmFault.SigBus;
        // Who will not wait does not ask either.
        if ((request.Flags & FaultFlags.RetryNoWait) != 0 && mm.Served.IsServed(fd)) return VmFault.Retry;
        // Its answer is the page itself, or a plain waking: either way the fault begins anew.
        return mm.Served.TakeOrAsk(request, fd, request.Vma.IndexOf(request.Address), out var result) is null ? result : VmFault.Retry;
    }

    private static ulong AnonBits(MmContext mm, Vma vma, bool writable)
    {
        var access = Mapping.AccessBits(vma, writable);
        return Pte.Anon | Pte.Exclusive | Pte.Accessed | Pte.Dirty | access | ((access & Pte.Write) != 0 ? mm.SoftDirty : 0);
    }

    /// <summary>do_wp_page: an entry is there and forbids the write (or is shared and must not be).</summary>
    private static VmFault WriteProtected(MmContext mm, in FaultRequest request, LeafSlot slot)
    {
        var (space, vma) = (request.Space, request.Vma);
        ref var entry = ref space.PageTable[slot];
        // handle_userfault: nobody takes the protection off.
        if (request.IsWrite && (entry & Pte.UffdWp) != 0 && vma.Has(VmFlags.UffdWp)) return VmFault.SigBus;
        if (request.IsWrite) entry &= ~Pte.UffdWp;
        if (vma.HasAny(VmFlags.Shared | VmFlags.MayShare))
        {
            // page_mkwrite or pfn_mkwrite: the page is dirty from now on.
            entry |= Mapping.AccessBits(vma, true) | Pte.Dirty | Pte.Accessed | mm.SoftDirty;
            if ((entry & Pte.Special) == 0) mm.Memory.MarkDirty(Pte.PfnOf(entry));
            return VmFault.NoPage;
        }

        if (slot.Order > 0 && (entry & Pte.Special) != 0)
        {
            // do_huge_zero_wp_pmd since 6.13: a huge page at once. Before, the huge zero page is split and one small page copied.
            if (mm.Profile.HugeZeroIsReplacedWhole) entry = 0;
            else if (!Mapping.SplitLeaf(mm, space, request.Address, slot)) return VmFault.Oom;
            return mm.Profile.HugeZeroIsReplacedWhole ? Anonymous(mm, request, tableExists: false) : HandleEntry(mm, request);
        }

        if ((entry & Pte.Anon) != 0)
        {
            if ((entry & Pte.Exclusive) == 0 && (IsSoleUser(mm, entry) || mm.Mutant == Mutant.WriteSkipsCopy)) entry |= Pte.Exclusive;
            if ((entry & Pte.Exclusive) != 0)
            {
                if (request.IsUnshare) return VmFault.None;
                entry |= Mapping.AccessBits(vma, true) | Pte.Dirty | Pte.Accessed | mm.SoftDirty;
                return VmFault.NoPage;
            }

            if (slot.Order > 0)
            {
                if (!Mapping.SplitLeaf(mm, space, request.Address, slot)) return VmFault.Oom;
                return HandleEntry(mm, request);
            }
        }

        return CopyOnWrite(mm, request, slot);
    }

    /// <summary>
    /// wp_can_reuse_anon_folio: nobody else holds the page, by a mapping, by a reference, or by an entry of swap that names it.
    /// </summary>
    private static bool IsSoleUser(MmContext mm, ulong entry)
    {
        var frames = mm.Memory.Frames;
        var head = frames.HeadOf(Pte.PfnOf(entry));
        if ((entry & Pte.Compound) != 0 && mm.Profile.LargeFolioReuse != LargeFolioReuse.WithoutOtherPages)
        {
            // A folio of which one page is mapped is better given back than used on.
            var maps = frames[head].MapCount;
            return mm.Profile.LargeFolioReuse == LargeFolioReuse.WithinOneProcess && maps > 1 && frames.RefCount(head) == maps
                && !LargeFolio.IsMappedShared(mm, head);
        }

        var isInSwapCache = (frames[head].Flags & FrameFlags.SwapCache) != 0;
        if (frames.RefCount(head) != (isInSwapCache ? 2 : 1)) return false;
        return !isInSwapCache || mm.Swap!.TryDropCache(head);
    }

    private static VmFault CopyOnWrite(MmContext mm, in FaultRequest request, LeafSlot slot)
    {
        var (space, vma) = (request.Space, request.Vma);
        var address = request.Address & PageGeometry.PageMask;
        var old = space.PageTable[slot];
        var source = Pte.PfnOf(old);
        if ((old & Pte.RawPfn) != 0 && !mm.Memory.Frames.IsValid(source)) return VmFault.SigBus;
        PrepareAnonVma(mm, space, vma);
        var page = mm.AllocatePage(space, address, request.Context, FrameFlags.Anon);
        if (page is not { } pfn) return VmFault.Oom;
        if (source != mm.Memory.ZeroPage) mm.Memory.Bytes.Of(source).CopyTo(mm.Memory.Bytes.Of(pfn));
        space.PageTable[slot] = Pte.Leaf(pfn, AnonBits(mm, vma, !request.IsUnshare) | (request.IsUnshare ? old & (Pte.UffdWp | Pte.SoftDirty) : mm.SoftDirty));
        mm.Memory.Frames[pfn].MapCount = 1;
        Mlock.AddNew(mm, vma, pfn);
        Mapping.Release(mm, space, vma, old);
        return VmFault.NoPage;
    }
}
