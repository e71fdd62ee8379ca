using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>
/// Moves a folio's contents, references and mappings to other frames (mm/migrate.c: migrate_pages). Under the turn.
/// </summary>
internal static class Migration
{
    /// <summary>
    /// The folio's references are its mappings and its cache, all of which can be changed: nobody uses it besides (row
    /// 34), it is no device's and not broken.
    /// </summary>
    public static bool IsMovable(KernelState kernel, Pfn head)
    {
        var frames = kernel.Memory.Frames;
        var info = frames[head];
        if ((info.Flags & (FrameFlags.HwPoison | FrameFlags.Device)) != 0) return false;
        return frames.RefCount(head) == info.MapCount
            + ((info.Flags & (FrameFlags.InCache | FrameFlags.SwapCache)) != 0 ? 1 : 0);
    }

    /// <summary>
    /// Moves the movable folio at <paramref name="head"/> to <paramref name="fresh"/>, which has one reference. False,
    /// and nothing done, when a mapping cannot be found.
    /// </summary>
    /// <param name="kernel">The machine's memory.</param>
    /// <param name="head">Where the folio is.</param>
    /// <param name="fresh">Allocated for it, of the same size; the caller frees it on false.</param>
    /// <param name="space">An address space that may map it, looked at first; null for none.</param>
    /// <param name="address">Where it may map it.</param>
    public static bool Move(KernelState kernel, Pfn head, Pfn fresh, AddressSpace? space = null, ulong address = 0)
    {
        var frames = kernel.Memory.Frames;
        var info = frames[head];
        var mappings = FindMappings(kernel, space, head, address, info.MapCount);
        if (mappings.Count != info.MapCount) return false;
        var size = 1UL << frames.OrderOf(head);
        kernel.Memory.Bytes.Of(head, size).CopyTo(kernel.Memory.Bytes.Of(fresh, size));
        frames[fresh].Flags |= info.Flags & (FrameFlags.Anon | FrameFlags.Dirty | FrameFlags.Referenced
            | FrameFlags.Secret | FrameFlags.LazyFree);
        var inSwapCache = (info.Flags & FrameFlags.SwapCache) != 0;
        var inCache = (info.Flags & FrameFlags.InCache) != 0;
        if ((info.Flags & FrameFlags.Anon) != 0)
        {
            frames[fresh].AnonVmaId = info.AnonVmaId;
            frames[fresh].Index = info.Index;
        }

        foreach (var (vma, at) in mappings)
        {
            var owner = vma.Space;
            var slot = owner.PageTable.Find(at);
            ref var entry = ref owner.PageTable[slot];
            // An entry that was stored through makes the folio dirty when it is taken away (try_to_migrate_one).
            if ((entry & Pte.Dirty) != 0) kernel.Memory.MarkDirty(fresh);
            var offset = Pte.PfnOf(entry).Value - head.Value;
            entry = (entry & ~Pte.PfnMask) | ((fresh.Value + offset) << Pte.PfnShift);
            frames.AddRefs(fresh, 1);
            LargeFolio.AddMaps(kernel, owner, fresh, 1);
            LargeFolio.RemoveMaps(kernel, owner, head, 1);
            Mlock.Mapped(kernel, vma, fresh);
            if (info.MapCount > 0 || inCache || inSwapCache) kernel.Memory.Put(head);
        }

        // The fresh folio's own first reference is the cache's, or is dropped now that the mappings hold theirs.
        if (inCache) kernel.Files[info.FileId].Replace(info.Index, fresh);
        else if (inSwapCache)
        {
            kernel.Swap!.Replace(head, fresh);
            kernel.Memory.Put(fresh);
        }
        else
        {
            kernel.Memory.Put(head);
            kernel.Memory.Put(fresh);
        }

        kernel.MigrationCount++;
        return true;
    }

    /// <summary>
    /// Every entry that maps the folio: the one at hand, where it is the only one, else by the reverse map.
    /// </summary>
    private static List<(Vma Vma, ulong Address)> FindMappings(
        KernelState kernel, AddressSpace? space, Pfn head, ulong address, int expected)
    {
        if (expected == 1 && space is { Exited: false } && space.PageTable.Find(address) is { Exists: true } slot
            && Rmap.Maps(kernel, space.PageTable[slot], head) && space.Vmas.Find(address) is { } vma)
            return [(vma, address)];
        return Rmap.Entries(kernel, head);
    }
}
