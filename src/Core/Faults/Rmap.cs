using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>
/// From a folio to the entries that map it (mm/rmap.c): through the file in whose cache it is, or through the anon_vma
/// that it names. Under the turn.
/// </summary>
internal static class Rmap
{
    /// <summary>
    /// A folio that was just made for <paramref name="vma"/> is found through the area from now on
    /// (folio_add_new_anon_rmap).
    /// </summary>
    /// <param name="kernel">The machine's memory.</param>
    /// <param name="vma">The area that maps it, which has its anon_vma.</param>
    /// <param name="address">Where the first frame is mapped.</param>
    /// <param name="head">First frame of the folio.</param>
    public static void AddNewAnon(KernelState kernel, Vma vma, ulong address, Pfn head)
    {
        var info = kernel.Memory.Frames[head];
        info.AnonVmaId = vma.AnonVma!.Id;
        info.Index = vma.IndexOf(address);
    }

    /// <summary>
    /// The same for a page that others may map too, since they have its entry of swap: it is found through the oldest
    /// anon_vma of the family, in whose map all of them are (__folio_set_anon).
    /// </summary>
    public static void AddSharedAnon(KernelState kernel, Vma vma, ulong address, Pfn pfn)
    {
        var info = kernel.Memory.Frames[pfn];
        info.AnonVmaId = vma.AnonChain!.Root.Id;
        info.Index = vma.IndexOf(address);
    }

    /// <summary>
    /// A folio that one entry of <paramref name="vma"/> alone maps is looked for in its area only, and no more in those
    /// of its parents (folio_move_anon_rmap).
    /// </summary>
    public static void MoveAnon(KernelState kernel, Vma vma, Pfn head)
    {
        var info = kernel.Memory.Frames[head];
        if (info.MapCount == 1) info.AnonVmaId = vma.AnonVma!.Id;
    }

    /// <summary>
    /// Every entry that maps a frame of the folio, as area and address: those of older address spaces first, within one
    /// by address. Costs a look at each area that may map the folio, and at the entries of each in the folio's reach.
    /// </summary>
    public static List<(Vma Vma, ulong Address)> Entries(KernelState kernel, Pfn head)
    {
        var found = new List<(Vma, ulong)>();
        var info = kernel.Memory.Frames[head];
        if (info.MapCount == 0) return found;
        var mappings = (info.Flags & FrameFlags.Anon) != 0
            ? kernel.AnonVmas.Find(info.AnonVmaId)?.Mappings
            : kernel.Files.GetValueOrDefault(info.FileId)?.Mappings;
        if (mappings is null) return found;
        var (first, last) = (info.Index, info.Index + (1UL << kernel.Memory.Frames.OrderOf(head)));
        foreach (var vma in mappings.Over<Vma>(first, last))
        {
            var leaf = vma.Space.PageTable.Leaves(vma.AddressesOf(first, last));
            while (found.Count < info.MapCount && leaf.MoveNext())
                if (Maps(kernel, leaf.Entry, head)) found.Add((vma, leaf.Address));
        }

        return found;
    }

    /// <summary>Whether an entry maps a frame of the folio, counted.</summary>
    public static bool Maps(KernelState kernel, ulong entry, Pfn head) =>
        Pte.IsMapped(entry) && (entry & Pte.Special) == 0 && kernel.Memory.Frames.HeadOf(Pte.PfnOf(entry)) == head;
}
