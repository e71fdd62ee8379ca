using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>Faults and references of hugetlb pages (mm/hugetlb.c). Under the turn.</summary>
internal static class HugeTlb
{
    /// <summary>hugetlb_fault: missing pages come from the file or the pool, private writes copy.</summary>
    public static VmFault Handle(KernelState kernel, in FaultRequest request)
    {
        var vma = request.Vma;
        var order = vma.HugeOrder;
        var size = PageGeometry.PageSize << order;
        var address = PageGeometry.AlignDown(request.Address, size);
        var table = request.Space.PageTable;
        var slot = table.Ensure(address, order);
        if (!slot.Exists) return VmFault.Oom;
        var entry = table[slot];
        if ((entry & Pte.Marker) != 0) return entry == Pte.GuardMarker ? VmFault.SigSegv : VmFault.HwPoisonLarge;
        if (!Pte.IsMapped(entry)) return NoPage(kernel, request, address, slot);
        if (request.IsWrite && (entry & Pte.Write) == 0) return WriteProtected(kernel, request, address, slot);
        if (request.IsUnshare && !Pte.Has(entry, Pte.Exclusive)) return WriteProtected(kernel, request, address, slot);
        return VmFault.None;
    }

    private static VmFault NoPage(KernelState kernel, in FaultRequest request, ulong address, LeafSlot slot)
    {
        var vma = request.Vma;
        var file = vma.File!;
        var index = vma.IndexOf(address);
        if (vma.LostHugePage || index << PageGeometry.PageShift >= file.Size) return VmFault.SigBus;
        var isShared = vma.Has(VmFlags.MayShare);
        var head = file.Lookup(index);
        if (head is null && vma.Has(VmFlags.UffdMissing)) return VmFault.SigBus;
        if (head is null && !isShared) return NewAnon(kernel, request, slot, null, isOwnersCopy: false);
        if (head is null)
        {
            head = Allocate(kernel, vma, address, isOwnersCopy: false);
            if (head is null) return VmFault.SigBus;
            if (!file.Insert(index, head.Value))
            {
                kernel.Memory.Put(head.Value);
                return VmFault.Oom;
            }
        }

        if ((kernel.Memory.Frames[head.Value].Flags & FrameFlags.HwPoison) != 0) return VmFault.HwPoisonLarge;
        if (!isShared && request.IsWrite) return NewAnon(kernel, request, slot, head, isOwnersCopy: false);
        kernel.Memory.Frames.AddRefs(head.Value, 1);
        kernel.Memory.Frames[head.Value].MapCount++;
        var bits = Pte.Huge | Pte.Accessed | Mapping.AccessBits(vma, isShared);
        request.Space.PageTable[slot] = Pte.Leaf(head.Value, bits | (request.IsWrite ? Pte.Dirty : 0));
        return VmFault.NoPage;
    }

    private static VmFault NewAnon(
        KernelState kernel, in FaultRequest request, LeafSlot slot, Pfn? source, bool isOwnersCopy)
    {
        var vma = request.Vma;
        if (Allocate(kernel, vma, request.Address, isOwnersCopy) is not { } head) return VmFault.SigBus;
        if (source is { } from) CopyHuge(kernel, from, head, vma.HugeOrder);
        FaultHandler.PrepareAnonVma(kernel, request.Space, vma);
        var info = kernel.Memory.Frames[head];
        info.Flags |= FrameFlags.Anon;
        info.MapCount = 1;
        var address = PageGeometry.AlignDown(request.Address, PageGeometry.PageSize << vma.HugeOrder);
        Rmap.AddNewAnon(kernel, vma, address, head);
        var bits = Pte.Huge | Pte.Anon | Pte.Exclusive | Pte.Accessed | Pte.Dirty
            | Mapping.AccessBits(vma, !request.IsUnshare);
        request.Space.PageTable[slot] = Pte.Leaf(head, bits);
        return VmFault.NoPage;
    }

    private static VmFault WriteProtected(KernelState kernel, in FaultRequest request, ulong address, LeafSlot slot)
    {
        var vma = request.Vma;
        ref var entry = ref request.Space.PageTable[slot];
        var head = Pte.PfnOf(entry);
        if (vma.Has(VmFlags.MayShare))
        {
            entry |= Mapping.AccessBits(vma, true) | Pte.Dirty;
            return VmFault.NoPage;
        }

        var isAnon = (entry & Pte.Anon) != 0;
        // hugetlb_wp asks only who maps the page: references such as a pipe's do not count here.
        var isOwn = Pte.Has(entry, Pte.Exclusive) || (isAnon && kernel.Memory.Frames[head].MapCount == 1);
        if (isOwn)
        {
            if (!Pte.Has(entry, Pte.Exclusive)) Rmap.MoveAnon(kernel, vma, head);
            entry |= Pte.Exclusive | Pte.Dirty | Mapping.AccessBits(vma, !request.IsUnshare);
            return VmFault.NoPage;
        }

        // The owner's promise was used up by the page that it shares now.
        var isOwnersCopy = isAnon && vma.Reserve is not null;
        var old = entry;
        var result = NewAnon(kernel, request, slot, head, isOwnersCopy);
        if ((result & VmFault.ErrorMask) == 0)
        {
            Mapping.Release(kernel, request.Space, vma, old);
        }
        else if (isOwnersCopy)
        {
            TakeFromForks(kernel, request.Space, vma, address, head);
            if (kernel.Memory.Frames[head].MapCount == 1) return WriteProtected(kernel, request, address, slot);
        }

        return result;
    }

    /// <summary>
    /// unmap_ref_private: when the pool is empty, the owner of a private mapping keeps its page and whoever shares it
    /// by fork loses it, to end with SIGBUS.
    /// </summary>
    private static void TakeFromForks(KernelState kernel, AddressSpace owner, Vma vma, ulong address, Pfn head)
    {
        foreach (var (space, at) in ForksWith(kernel, owner, vma, address, head))
        {
            var other = space.Vmas.Find(at)!;
            other.LostHugePage = true;
            Mapping.Zap(kernel, space, other, at, at + (PageGeometry.PageSize << vma.HugeOrder));
        }
    }

    /// <summary>
    /// The forks that map an owner's huge page by a private mapping without a reservation, oldest first.
    /// </summary>
    internal static List<(AddressSpace Space, ulong Address)> ForksWith(
        KernelState kernel, AddressSpace owner, Vma vma, ulong address, Pfn head)
    {
        var found = new List<(AddressSpace, ulong)>();
        var index = vma.IndexOf(address);
        foreach (var other in vma.File!.Mappings.Over<Vma>(index, index + 1))
        {
            var space = other.Space;
            if (space == owner || other.Has(VmFlags.MayShare) || other.Reserve is not null) continue;
            var at = other.AddressesOf(index, index + 1).Start;
            var entry = space.PageTable.Read(at);
            if (Pte.IsMapped(entry) && Pte.PfnOf(entry) == head) found.Add((space, at));
        }

        return found;
    }

    /// <summary>
    /// alloc_hugetlb_folio: by the promise that the mapping has for the page, or from what the pool has promised to
    /// nobody. Null: there is none, and Linux's answer is SIGBUS.
    /// </summary>
    /// <param name="kernel">The machine's memory.</param>
    /// <param name="vma">The area.</param>
    /// <param name="address">An address in the page.</param>
    /// <param name="isOwnersCopy">A copy of a page that has used the promise already (cow_from_owner).</param>
    private static Pfn? Allocate(KernelState kernel, Vma vma, ulong address, bool isOwnersCopy)
    {
        var page = vma.HugePageOf(address);
        var isShared = vma.Has(VmFlags.MayShare);
        var isPromised = !isOwnersCopy && (isShared ? vma.File!.Promises(page) : vma.Reserve?.Promises(page) == true);
        var head = kernel.TakeHuge(vma.HugeOrder, isPromised);
        if (head is null || isOwnersCopy) return head;
        if (isShared) vma.File!.Promise(page);
        else vma.Reserve?.Take(page);
        return head;
    }

    /// <summary>
    /// __unmap_hugepage_range: the owner of a promise that unmaps its page has it again, so that nobody takes the page
    /// meanwhile (6.10).
    /// </summary>
    public static void RestorePromise(KernelState kernel, Vma vma, ulong address, ulong entry)
    {
        if (!kernel.Profile.RestoresHugePromises || vma.Reserve is not { } reserve) return;
        if (!Pte.IsMapped(entry) || (entry & Pte.Anon) == 0) return;
        kernel.Memory.Frames[Pte.PfnOf(entry)].Flags |= FrameFlags.RestoreReserve;
        reserve.Restore(vma.HugePageOf(address));
    }

    /// <summary>Copies a whole huge page.</summary>
    public static void CopyHuge(KernelState kernel, Pfn from, Pfn to, int order) =>
        kernel.Memory.Bytes.Copy(from, to, 1UL << order);
}
