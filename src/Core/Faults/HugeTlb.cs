using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>Faults and references of hugetlb pages (mm/hugetlb.c). Under the turn.</summary>
internal static class HugeTlb
{
    /// <summary>A huge page whose last reference is gone goes back to its pool.</summary>
    public static void ReturnToPool(MmContext mm, Pfn head)
    {
        var info = mm.Memory.Frames[head];
        info.Flags &= ~(FrameFlags.Anon | FrameFlags.InCache | FrameFlags.Dirty | FrameFlags.Referenced | FrameFlags.PendingFree);
        info.MapCount = 0;
        info.FileId = 0;
        info.Index = 0;
        mm.Memory.Frames.ClearCount(head);
        mm.HugePools[info.Order].Free.Push(head);
    }

    /// <summary>hugetlb_fault: missing pages come from the file or the pool, private writes copy.</summary>
    public static VmFault Handle(MmContext mm, in FaultRequest request)
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
        if (!Pte.IsMapped(entry)) return NoPage(mm, request, address, slot);
        if (request.IsWrite && (entry & Pte.Write) == 0) return WriteProtected(mm, request, address, slot);
        if (request.IsUnshare && !Pte.Has(entry, Pte.Exclusive)) return WriteProtected(mm, request, address, slot);
        return VmFault.None;
    }

    private static VmFault NoPage(MmContext mm, in FaultRequest request, ulong address, LeafSlot slot)
    {
        var vma = request.Vma;
        var file = vma.File!;
        var index = vma.IndexOf(address);
        if (vma.LostHugePage || index << PageGeometry.PageShift >= file.Size) return VmFault.SigBus;
        var isShared = vma.Has(VmFlags.MayShare);
        var head = file.Lookup(index);
        if (head is null && vma.Has(VmFlags.UffdMissing)) return VmFault.SigBus;
        if (head is null && !isShared) return NewAnon(mm, request, slot, null);
        if (head is null)
        {
            head = Take(mm, vma, file.ReservedHugePages > 0, () => file.ReservedHugePages--);
            if (head is null) return VmFault.SigBus;
            if (!file.Insert(index, head.Value))
            {
                mm.Memory.Put(head.Value);
                return VmFault.Oom;
            }
        }

        if (!isShared && request.IsWrite) return NewAnon(mm, request, slot, head);
        mm.Memory.Frames.AddRefs(head.Value, 1);
        mm.Memory.Frames[head.Value].MapCount++;
        var bits = Pte.Huge | Pte.Accessed | Mapping.AccessBits(vma, isShared);
        request.Space.PageTable[slot] = Pte.Leaf(head.Value, bits | (request.IsWrite ? Pte.Dirty : 0));
        return VmFault.NoPage;
    }

    private static VmFault NewAnon(MmContext mm, in FaultRequest request, LeafSlot slot, Pfn? source)
    {
        var vma = request.Vma;
        var file = vma.File!;
        var fresh = Take(mm, vma, file.ReservedHugePages > 0 && vma.OwnsHugeReserve, () => file.ReservedHugePages--);
        if (fresh is not { } head) return VmFault.SigBus;
        if (source is { } from) CopyHuge(mm, from, head, vma.HugeOrder);
        FaultHandler.PrepareAnonVma(mm, request.Space, vma);
        var info = mm.Memory.Frames[head];
        info.Flags |= FrameFlags.Anon;
        info.MapCount = 1;
        var bits = Pte.Huge | Pte.Anon | Pte.Exclusive | Pte.Accessed | Pte.Dirty
            | Mapping.AccessBits(vma, !request.IsUnshare);
        request.Space.PageTable[slot] = Pte.Leaf(head, bits);
        return VmFault.NoPage;
    }

    private static VmFault WriteProtected(MmContext mm, in FaultRequest request, ulong address, LeafSlot slot)
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
        var isOwn = Pte.Has(entry, Pte.Exclusive) || (isAnon && mm.Memory.Frames[head].MapCount == 1);
        if (isOwn)
        {
            entry |= Pte.Exclusive | Pte.Dirty | Mapping.AccessBits(vma, !request.IsUnshare);
            return VmFault.NoPage;
        }

        var old = entry;
        var result = NewAnon(mm, request, slot, head);
        if ((result & VmFault.ErrorMask) == 0)
        {
            Mapping.Release(mm, request.Space, vma, old);
        }
        else if (isAnon && vma.OwnsHugeReserve)
        {
            TakeFromForks(mm, request.Space, vma, address, head);
            if (mm.Memory.Frames[head].MapCount == 1) return WriteProtected(mm, request, address, slot);
        }

        return result;
    }

    /// <summary>
    /// unmap_ref_private: when the pool is empty, the owner of a private mapping keeps its page and whoever shares it by fork
    /// loses it, to end with SIGBUS.
    /// </summary>
    private static void TakeFromForks(MmContext mm, AddressSpace owner, Vma vma, ulong address, Pfn head)
    {
        var index = vma.IndexOf(address);
        foreach (var space in mm.Spaces)
        {
            if (space == owner) continue;
            foreach (var other in space.Vmas.All)
            {
                if (!ReferenceEquals(other.File, vma.File) || other.Has(VmFlags.MayShare) || other.OwnsHugeReserve) continue;
                if (index < other.PageOffset || index >= other.PageOffset + other.Pages) continue;
                var at = other.Start + ((index - other.PageOffset) << PageGeometry.PageShift);
                var entry = space.PageTable.Read(at);
                if (!Pte.IsMapped(entry) || Pte.PfnOf(entry) != head) continue;
                other.LostHugePage = true;
                Mapping.Zap(mm, space, other, at, at + (PageGeometry.PageSize << vma.HugeOrder));
            }
        }
    }

    private static Pfn? Take(MmContext mm, Vma vma, bool fromReserve, Action taken)
    {
        var head = mm.TakeHuge(vma.HugeOrder, fromReserve);
        if (head is not null && fromReserve) taken();
        return head;
    }

    /// <summary>Copies a whole huge page, 2 MiB at a time.</summary>
    public static void CopyHuge(MmContext mm, Pfn from, Pfn to, int order)
    {
        const ulong step = 1UL << PageGeometry.PmdOrder;
        for (var i = 0UL; i < 1UL << order; i += step)
            mm.Memory.Bytes.Of(from + i, step).CopyTo(mm.Memory.Bytes.Of(to + i, step));
    }
}
