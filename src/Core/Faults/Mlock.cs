using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>
/// PG_mlocked and the mlock_count of a folio (mm/mlock.c, mm/internal.h: mlock_vma_folio). Reclaim passes over what is
/// locked here, whatever its areas say by then: the count follows the calls and the mappings as Linux's does, with what
/// it forgets and what it keeps. Page batches are drained at once. Under the turn.
/// </summary>
internal static class Mlock
{
    /// <summary>
    /// A folio that was just made for <paramref name="vma"/>, of whatever size (folio_add_lru_vma: mlock_new_folio).
    /// </summary>
    public static void AddNew(KernelState kernel, Vma vma, Pfn head)
    {
        if (IsLocked(vma)) Lock(kernel, head);
    }

    /// <summary>
    /// One more entry maps the folio: of large ones nobody knows whether the area holds all of it (__folio_add_rmap).
    /// </summary>
    public static void Mapped(KernelState kernel, Vma vma, Pfn head)
    {
        if (IsLocked(vma) && kernel.Memory.Frames.OrderOf(head) == 0) Lock(kernel, head);
    }

    /// <summary>
    /// An entry, or a row of them, is gone: large folios are given up with their first (munlock_vma_folio).
    /// </summary>
    public static void Unmapped(KernelState kernel, Vma? vma, Pfn head)
    {
        if (vma is not null && vma.Has(VmFlags.Locked)) Unlock(kernel, head);
    }

    /// <summary>
    /// The part of an area whose VM_LOCKED has just changed: each folio in it is locked or unlocked, but that large
    /// ones are locked only where all of them is mapped there (mlock_pte_range, allow_mlock_munlock).
    /// </summary>
    public static void Walk(KernelState kernel, AddressSpace space, AddressRange part, bool locks)
    {
        var (table, frames) = (space.PageTable, kernel.Memory.Frames);
        var leaf = table.Leaves(part);
        while (leaf.MoveNext())
        {
            var (entry, slot) = (leaf.Entry, leaf.Slot);
            if (!Pte.IsMapped(entry) || (entry & Pte.Special) != 0) continue;
            var head = frames.HeadOf(Pte.PfnOf(entry));
            var folio = 1 << frames.OrderOf(head);
            var pages = slot.Order > 0 ? folio : LargeFolio.Batch(table, slot, leaf.Address, part.End, folio);
            if (slot.Order == 0) leaf.Skip(pages);
            if (!locks) Unlock(kernel, head);
            else if (pages == folio) Lock(kernel, head);
        }
    }

    public static bool IsLocked(KernelState kernel, Pfn head) =>
        (kernel.Memory.Frames[head].Flags & FrameFlags.Mlocked) != 0;

    /// <summary>
    /// Back on the list of the unevictable from elsewhere: how often it was locked is forgotten (lru_add).
    /// </summary>
    public static void PutBack(KernelState kernel, Pfn head) => kernel.Memory.Frames[head].MlockCount = 0;

    private static bool IsLocked(Vma vma) => vma.Has(VmFlags.Locked) && !vma.HasAny(VmFlags.Special);

    private static void Lock(KernelState kernel, Pfn head)
    {
        var info = kernel.Memory.Frames[head];
        info.Flags |= FrameFlags.Mlocked;
        if (info.MlockCount < ushort.MaxValue) info.MlockCount++;
    }

    private static void Unlock(KernelState kernel, Pfn head)
    {
        var info = kernel.Memory.Frames[head];
        if (info.MlockCount > 0) info.MlockCount--;
        if (info.MlockCount == 0) info.Flags &= ~FrameFlags.Mlocked;
    }
}
