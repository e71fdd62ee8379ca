using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;

namespace FramePin.Core.Faults;

/// <summary>
/// Broken memory (mm/memory-failure.c; Semantics 3.10): the frame is poisoned, and no address space maps it any more.
/// Under the turn.
/// </summary>
internal static class MemoryFailure
{
    /// <summary>
    /// memory_failure: entries of the frame become poison entries, in every address space. A clean page of a disk file
    /// is lost without harm: its entries become empty, and the next fault reads it again.
    /// </summary>
    /// <param name="kernel">The machine's memory.</param>
    /// <param name="pfn">The frame.</param>
    /// <returns>
    /// -EBUSY for the zero page, and for a large folio that cannot be split, whose page stays mapped and poisoned;
    /// -ENOMEM without a table.
    /// </returns>
    public static Errno Run(KernelState kernel, Pfn pfn)
    {
        var frames = kernel.Memory.Frames;
        var head = frames.HeadOf(pfn);
        if ((frames[head].Flags & FrameFlags.HugeTlb) != 0) return Unmap(kernel, head);
        if (frames.OrderOf(head) > 0 && (frames[head].Flags & FrameFlags.Anon) != 0
            && !LargeFolio.Split(kernel, head, dropsZeroes: true))
        {
            frames[pfn].Flags |= FrameFlags.HwPoison;
            return Errno.EBUSY;
        }

        var error = Unmap(kernel, pfn);
        if (error != Errno.None) return error;
        // me_pagecache_clean: a memory file keeps the page, so that a read meets it; other files lose it.
        var info = frames[pfn];
        if (kernel.Files.GetValueOrDefault(info.FileId) is { Kind: FileKind.Disk or FileKind.FsDax } file)
            file.Remove(info.Index, 1);
        return Errno.None;
    }

    private static Errno Unmap(KernelState kernel, Pfn pfn)
    {
        var frames = kernel.Memory.Frames;
        frames[pfn].Flags |= FrameFlags.HwPoison;
        var entries = Rmap.Entries(kernel, frames.HeadOf(pfn));
        foreach (var (vma, address) in entries)
        {
            var slot = vma.Space.PageTable.Find(address);
            if (slot.Order > 0 && (frames[pfn].Flags & FrameFlags.HugeTlb) == 0
                && !Mapping.SplitLeaf(kernel, vma.Space, address, slot))
                return Errno.ENOMEM;
        }

        var mapped = entries.ConvertAll(found => (found.Vma, found.Address,
            Slot: found.Vma.Space.PageTable.Find(found.Address)));
        mapped.RemoveAll(found => Pte.PfnOf(found.Vma.Space.PageTable[found.Slot]) != pfn);
        // page_mkclean tells first whether a store through any entry is lost with the page.
        var info = frames[pfn];
        if (mapped.Exists(found => (found.Vma.Space.PageTable[found.Slot] & Pte.Dirty) != 0))
            kernel.Memory.MarkDirty(pfn);
        var isClean = (info.Flags & (FrameFlags.InCache | FrameFlags.DirtyTracked | FrameFlags.Dirty))
            == (FrameFlags.InCache | FrameFlags.DirtyTracked);
        foreach (var (vma, _, slot) in mapped)
        {
            ref var entry = ref vma.Space.PageTable[slot];
            var old = entry;
            entry = isClean ? 0 : Pte.PoisonMarker | (slot.Order > 0 ? Pte.Huge : 0);
            Mapping.Release(kernel, vma.Space, vma, old);
        }

        return Errno.None;
    }
}
