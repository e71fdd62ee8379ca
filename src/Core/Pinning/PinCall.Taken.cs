using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Pinning;

public readonly partial record struct PinCall : IInvalidating
{
    /// <summary>
    /// A pin takes pages in two ways: it makes shared pages the space's own before it pins them, and a long-term pin
    /// moves pages out of ZONE_MOVABLE.
    /// </summary>
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        var kernel = turn.Kernel;
        var plan = Request.Call is { } call
            ? GupCalls.Plan(kernel.Profile, call, Request.Start, Request.Count, Request.Flags, Request.Locked)
            : VaddrFrames.Plan(kernel.Profile, Request.Start, Request.Count, Request.Flags);
        if (!plan.Walks) return;
        var start = plan.Start & PageGeometry.PageMask;
        var range = new AddressRange(start, start + ((ulong)plan.Count << PageGeometry.PageShift));
        var space = kernel.Space(Request.Space);
        // A pin for reading unshares as a store does (FAULT_FLAG_UNSHARE).
        if ((plan.Flags & (GupFlags.Write | GupFlags.Pin)) != 0) Unsharing.AddTaken(kernel, space, range, taken);
        if ((plan.Flags & GupFlags.LongTerm) == 0) return;
        for (var address = range.Start; address < range.End; address += PageGeometry.PageSize)
            if (FrameAt(kernel, space, address) is { } pfn) AddMoves(kernel, pfn, taken);
    }

    /// <summary>
    /// The frame that the pin will meet at an address: mapped, or in the cache of its file or of swap.
    /// </summary>
    private static Pfn? FrameAt(KernelState kernel, AddressSpace space, ulong address)
    {
        var slot = space.PageTable.Find(address);
        var entry = slot.Exists ? space.PageTable[slot] : 0;
        if ((entry & Pte.Special) != 0) return null;
        var within = (address >> PageGeometry.PageShift) & ((1UL << slot.Order) - 1);
        if (Pte.IsMapped(entry)) return Pte.PfnOf(entry) + within;
        if ((entry & Pte.Swap) != 0) return kernel.Swap!.Cached(Pte.SlotOf(entry));
        // A private mapping gets a copy, and the page of the file stays where it is.
        var vma = space.Vmas.Find(address);
        return vma is { File: { } file } && vma.Has(VmFlags.MayShare) ? file.Lookup(vma.IndexOf(address)) : null;
    }

    private static void AddMoves(KernelState kernel, Pfn pfn, ICollection<TakenRange> taken)
    {
        if (kernel.Memory.IsLongTermPinnable(pfn)) return;
        foreach (var (vma, address) in Rmap.Entries(kernel, kernel.Memory.Frames.HeadOf(pfn)))
        {
            var size = vma.Space.PageTable.Find(address).Size;
            var start = PageGeometry.AlignDown(address, size);
            taken.Add(new TakenRange(vma.Space.Id, new AddressRange(start, start + size), TakeCause.Migration));
        }
    }
}
