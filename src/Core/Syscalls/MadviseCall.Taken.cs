using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

public readonly partial record struct MadviseCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        var kernel = turn.Kernel;
        var space = kernel.Space(Space);
        if (!IsKnown(kernel, Advice) || (Advice == Advice.HwPoison && !space.Task.IsAdmin)) return;
        if (Advice == Advice.PopulateWrite)
        {
            var pages = (long)TakenRanges.Reachable(kernel.TaskSize, Start, Length).Pages;
            TakenRanges.AddStores(kernel, Space, Start, pages, taken);
            return;
        }

        foreach (var vma in space.Vmas.Overlapping(TakenRanges.Reachable(kernel.TaskSize, Start, Length)))
        {
            // The call stops at the first area that refuses; the areas before it have changed.
            var part = vma.Range.Intersect(TakenRanges.Reachable(kernel.TaskSize, Start, Length));
            if (IsRefusedBySeal(vma, Advice) || !TryAdd(kernel, space, vma, part, taken)) return;
        }
    }

    /// <summary>
    /// Large folios that a range cuts are split, and their pages that hold nothing but zeroes become the zero page.
    /// </summary>
    private static void AddCutFolios(
        KernelState kernel, AddressSpace space, AddressRange part, ICollection<TakenRange> taken)
    {
        if (!kernel.Profile.SplitDropsZeroes) return;
        var leaves = space.PageTable.Leaves(part);
        while (leaves.MoveNext())
        {
            var entry = leaves.Entry;
            if (!Pte.IsMapped(entry) || (entry & Pte.Anon) == 0) continue;
            var order = kernel.Memory.Frames.OrderOf(kernel.Memory.Frames.HeadOf(Pte.PfnOf(entry)));
            if (order == 0) continue;
            var start = PageGeometry.AlignDown(leaves.Address, PageGeometry.PageSize << order);
            var folio = new AddressRange(start, start + (PageGeometry.PageSize << order));
            if (folio.Start < part.Start || folio.End > part.End || leaves.Slot.Order == 0)
                taken.Add(new TakenRange(space.Id, folio, TakeCause.Madvise));
        }
    }

    /// <summary>Broken memory goes from every address space that maps it.</summary>
    private static void AddBroken(
        KernelState kernel, Vma vma, AddressRange part, ICollection<TakenRange> taken)
    {
        var first = vma.IndexOf(part.Start);
        if (vma.File is { } file)
            TakenRanges.AddMappings(file, first, first + part.Pages, TakeCause.Madvise, taken);
        var leaves = vma.Space.PageTable.Leaves(part);
        while (leaves.MoveNext())
        {
            if (!Pte.IsMapped(leaves.Entry) || (leaves.Entry & Pte.Anon) == 0) continue;
            foreach (var (other, address) in Rmap.Entries(
                kernel, kernel.Memory.Frames.HeadOf(Pte.PfnOf(leaves.Entry))))
            {
                var size = other.Space.PageTable.Find(address).Size;
                var start = PageGeometry.AlignDown(address, size);
                taken.Add(new TakenRange(other.Space.Id, new AddressRange(start, start + size), TakeCause.Madvise));
            }
        }
    }

    private bool TryAdd(
        KernelState kernel, AddressSpace space, Vma vma, AddressRange part, ICollection<TakenRange> taken)
    {
        switch (Advice)
        {
            case Advice.DontNeed or Advice.DontNeedLocked or Advice.Free:
                var locks = Advice == Advice.DontNeedLocked ? VmFlags.None : VmFlags.Locked;
                if (vma.HasAny(locks | (vma.IsHugeTlb ? 0 : VmFlags.PfnMap))) return false;
                if (Advice == Advice.Free && !vma.IsAnonymous) return false;
                if (Advice == Advice.Free) AddCutFolios(kernel, space, part, taken);
                break;
            case Advice.Remove:
                if (vma.Has(VmFlags.Locked) || vma.File is not { } file) return false;
                if (!vma.Has(VmFlags.Shared | VmFlags.MayWrite) || file.Kind == FileKind.Secret) return false;
                var first = vma.IndexOf(part.Start);
                TakenRanges.AddMappings(file, first, first + part.Pages, TakeCause.Madvise, taken);
                return true;
            case Advice.PageOut:
                if (vma.HasAny(VmFlags.Locked | VmFlags.PfnMap | VmFlags.HugeTlb)) return false;
                AddCutFolios(kernel, space, part, taken);
                break;
            case Advice.Cold:
                if (vma.HasAny(VmFlags.Locked | VmFlags.PfnMap | VmFlags.HugeTlb)) return false;
                AddCutFolios(kernel, space, part, taken);
                return true;
            case Advice.GuardInstall:
                if (vma.HasAny(VmFlags.Special | VmFlags.HugeTlb | VmFlags.Locked)) return false;
                break;
            case Advice.HwPoison:
                AddBroken(kernel, vma, part, taken);
                break;
            default:
                return true;
        }

        taken.Add(new TakenRange(space.Id, part, TakeCause.Madvise));
        return true;
    }
}
