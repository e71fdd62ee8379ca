using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>
/// The pages that faults would replace: those that a store copies, and those that the owner of a hugetlb mapping takes
/// from a fork. Under the turn; changes nothing.
/// </summary>
internal static class Unsharing
{
    /// <summary>Which pages of private memory an access makes the address space's own.</summary>
    /// <param name="IsWrite">A store, or a pin for writing.</param>
    /// <param name="IsForced">FORCE: memory without VM_WRITE too.</param>
    /// <param name="UnsharesAnon">A pin for reading unshares anonymous pages.</param>
    /// <param name="UnsharesFile">A pin for reading unshares file pages and the zero page too.</param>
    internal readonly record struct Access(bool IsWrite, bool IsForced, bool UnsharesAnon, bool UnsharesFile)
    {
        public static readonly Access Store = new(true, false, false, false);

        /// <summary>
        /// The program's own store: it copies a raw frame too, and it ends at a guard and at broken memory.
        /// </summary>
        public bool IsStore => this == Store;
    }

    /// <summary>Adds the pages of a range that an access to each would replace.</summary>
    public static void AddTaken(
        KernelState kernel, AddressSpace space, AddressRange range, Access access, ICollection<TakenRange> taken)
    {
        var leaves = space.PageTable.Leaves(range);
        while (leaves.MoveNext())
        {
            var entry = leaves.Entry;
            if (access.IsStore && (entry & Pte.Marker) != 0) return;
            if (!Pte.IsMapped(entry) || (entry & Pte.Write) != 0) continue;
            var isZero = Pte.PfnOf(entry) == kernel.Memory.ZeroPage || Pte.PfnOf(entry) == kernel.HugeZero;
            if (space.Vmas.Find(leaves.Address) is not { IsCow: true } vma) continue;
            // A raw frame is copied by a store, and by a pin for writing where get_user_pages takes the area.
            var isRaw = (entry & Pte.RawPfn) != 0 && access.IsWrite
                && (access.IsStore || !vma.HasAny(VmFlags.Io | VmFlags.PfnMap));
            if ((entry & Pte.Special) != 0 && !isZero && !isRaw) continue;
            var mayWrite = vma.Has(VmFlags.Write) || (access.IsForced && vma.Has(VmFlags.MayWrite));
            var unshares = (entry & Pte.Anon) != 0 ? access.UnsharesAnon : access.UnsharesFile;
            if (access.IsWrite ? !mayWrite : !unshares) continue;
            // An exclusive page is written in place.
            if (Pte.Has(entry, Pte.Anon | Pte.Exclusive)) continue;
            var start = PageGeometry.AlignDown(leaves.Address, leaves.Slot.Size);
            var page = new AddressRange(start, leaves.End);
            taken.Add(new TakenRange(space.Id, page, TakeCause.Unshare));
            if (vma.IsHugeTlb && !isZero) AddThefts(kernel, space, vma, range, start, Pte.PfnOf(entry), taken);
        }
    }

    /// <summary>unmap_ref_private: forks lose the page when the pool has none for the owner's copy.</summary>
    private static void AddThefts(
        KernelState kernel, AddressSpace owner, Vma vma, AddressRange range, ulong address, Pfn head,
        ICollection<TakenRange> taken)
    {
        if (vma.Reserve is null || (kernel.Memory.Frames[head].Flags & FrameFlags.Anon) == 0) return;
        if (kernel.Memory.Frames[head].MapCount <= 1) return;
        // The pages before this one may have used the pool.
        var size = PageGeometry.PageSize << vma.HugeOrder;
        var before = address > range.Start ? (address - range.Start + size - 1) / size : 0;
        if (kernel.HugePools[vma.HugeOrder].Available > (long)before) return;
        foreach (var (space, at) in HugeTlb.ForksWith(kernel, owner, vma, address, head))
            taken.Add(new TakenRange(space.Id, new AddressRange(at, at + size), TakeCause.HugeTheft));
    }
}
