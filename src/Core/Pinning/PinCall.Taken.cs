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
        var plan = PinOperation.PlanByArguments(kernel, Request, Slots);
        if (!plan.Walks) return;
        var start = plan.Start & PageGeometry.PageMask;
        var space = kernel.Space(Request.Space);
        var end = start + ((ulong)plan.Count << PageGeometry.PageShift);
        // The walk ends at a hole. An area that refuses the slow walk does not end it: the fast walk looks at no area.
        var reach = start;
        while (reach < end && space.Vmas.Find(reach) is { } vma) reach = vma.End;
        var range = new AddressRange(start, Math.Min(reach, end));
        if (range.IsEmpty) return;
        var isPin = (plan.Flags & GupFlags.Pin) != 0;
        var isLongTerm = (plan.Flags & GupFlags.LongTerm) != 0;
        var access = new Unsharing.Access(
            (plan.Flags & GupFlags.Write) != 0, (plan.Flags & GupFlags.Force) != 0, UnsharesAnon: isPin,
            UnsharesFile: isPin && isLongTerm && kernel.Profile.LongTermUnsharesFilePages);
        Unsharing.AddTaken(kernel, space, range, access, taken);
        if (!isLongTerm) return;
        for (var address = range.Start; address < range.End; address += PageGeometry.PageSize)
            if (FrameAt(kernel, space, address, access) is { } pfn) AddMoves(kernel, pfn, taken);
    }

    /// <summary>
    /// The frame that the pin will meet at an address: mapped, or in the cache of its file or of swap.
    /// </summary>
    private static Pfn? FrameAt(
        KernelState kernel, AddressSpace space, ulong address, Unsharing.Access access)
    {
        var slot = space.PageTable.Find(address);
        var entry = slot.Exists ? space.PageTable[slot] : 0;
        if ((entry & Pte.Special) != 0) return null;
        var within = (address >> PageGeometry.PageShift) & ((1UL << slot.Order) - 1);
        if (Pte.IsMapped(entry)) return Pte.PfnOf(entry) + within;
        if ((entry & Pte.Swap) != 0) return kernel.Swap!.Cached(Pte.SlotOf(entry));
        if (space.Vmas.Find(address) is not { File: { } file } vma) return null;
        // A private mapping that is stored to or unshared gets a copy, and the page of the file stays where it is.
        var getsCopy = !vma.Has(VmFlags.MayShare) && (access.IsWrite || access.UnsharesFile);
        return getsCopy ? null : file.Lookup(vma.IndexOf(address));
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
