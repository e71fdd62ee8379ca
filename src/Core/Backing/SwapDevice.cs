using System.Diagnostics;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;

namespace FramePin.Core.Backing;

/// <summary>
/// Swap space and its cache (mm/swapfile.c, mm/swap_state.c): slots of one page, each counted by the page-table entries
/// that name it. A device that answers at once (SWP_SYNCHRONOUS_IO, as zram) and reads nothing ahead (page-cluster 0).
/// </summary>
/// <remarks>
/// A frame in the cache holds one reference for it, has <see cref="FrameFlags.SwapCache"/> and its slot as
/// <see cref="FrameRecord.SwapSlot"/>. It stays there while a slot's contents are its own and somebody else may still
/// ask for them. Guarded by the turn.
/// </remarks>
internal sealed class SwapDevice(ulong bytes, PhysicalMemory memory)
{
    /// <summary>What the device holds of one page.</summary>
    private sealed class Slot
    {
        /// <summary>Entries that name the slot (swap_map).</summary>
        public int Count;

        /// <summary>The frame in the swap cache; invalid for none (SWAP_HAS_CACHE).</summary>
        public Pfn Cached = Pfn.Invalid;

        /// <summary>Written out; null for a page of zeroes, and before anything was written.</summary>
        public byte[]? Contents;
    }

    private readonly SortedDictionary<ulong, Slot> _slots = [];
    private readonly SortedSet<ulong> _freed = [];
    private ulong _next = 1;
    private ulong _ofFiles;

    /// <summary>Pages that fit.</summary>
    public ulong Pages { get; } = bytes >> PageGeometry.PageShift;

    /// <summary>Pages in use, those of memory files too.</summary>
    public ulong Used => (ulong)_slots.Count + _ofFiles;

    /// <summary>vm_swap_full: more than half is used, and what is in memory again gives its slot up.</summary>
    public bool IsHalfFull => Used * 2 > Pages;

    /// <summary>
    /// Slots with the entries that name them and their cached frame, ascending; for the audit and the digest.
    /// </summary>
    public IEnumerable<(ulong Slot, int Count, Pfn Cached)> Slots =>
        _slots.Select(pair => (pair.Key, pair.Value.Count, pair.Value.Cached));

    /// <summary>
    /// folio_alloc_swap: a slot for the frame, which is in the cache from now on and dirty. False: swap is full.
    /// </summary>
    public bool TryAdd(Pfn pfn)
    {
        if (Used >= Pages) return false;
        var slot = _freed.Count > 0 ? _freed.Min : _next++;
        _freed.Remove(slot);
        _slots.Add(slot, new Slot());
        AddToCache(slot, pfn);
        memory.MarkDirty(pfn);
        return true;
    }

    /// <summary>Puts a frame in the cache that was read from a slot; the cache takes a reference of its own.</summary>
    public void AddToCache(ulong slot, Pfn pfn)
    {
        _slots[slot].Cached = pfn;
        var info = memory.Frames[pfn];
        info.Flags |= FrameFlags.SwapCache;
        info.SwapSlot = slot;
        memory.Frames.AddRefs(pfn, 1);
    }

    /// <summary>
    /// The frame that has the slot's contents in memory (swap_cache_get_folio); null for none. No reference is taken.
    /// </summary>
    public Pfn? Cached(ulong slot) => _slots[slot].Cached is var pfn && pfn != Pfn.Invalid ? pfn : null;

    /// <summary>Entries that name the slot.</summary>
    public int Count(ulong slot) => _slots[slot].Count;

    /// <summary>swap_duplicate: one more entry names the slot.</summary>
    public void Duplicate(ulong slot) => _slots[slot].Count++;

    /// <summary>swap_free: one entry less. A page in the cache stays there.</summary>
    public void Free(ulong slot)
    {
        var state = _slots[slot];
        Debug.Assert(state.Count > 0, "a slot that nobody names was freed");
        state.Count--;
        if (state.Count == 0 && state.Cached == Pfn.Invalid) Release(slot);
    }

    /// <summary>
    /// free_swap_and_cache: an entry was thrown away, and with the last one what nobody maps any more.
    /// </summary>
    public void FreeWithCache(ulong slot)
    {
        var cached = _slots[slot].Cached;
        Free(slot);
        if (cached == Pfn.Invalid) return;
        if (memory.Frames[cached].MapCount == 0 || IsHalfFull) TryDropCache(cached);
    }

    /// <summary>
    /// folio_free_swap: takes a frame out of the cache, whose reference goes, when no entry names its slot. It is dirty
    /// from then on, for nothing else has its contents.
    /// </summary>
    public bool TryDropCache(Pfn pfn)
    {
        var info = memory.Frames[pfn];
        if ((info.Flags & FrameFlags.SwapCache) == 0 || _slots[info.SwapSlot].Count > 0) return false;
        memory.MarkDirty(pfn);
        DropCache(pfn);
        return true;
    }

    /// <summary>
    /// swap_writeout, and the frame leaves the cache (__remove_mapping): only the slot has its contents now.
    /// </summary>
    public void WriteOut(Pfn pfn)
    {
        var contents = memory.Bytes.Of(pfn);
        _slots[memory.Frames[pfn].SwapSlot].Contents = contents.ContainsAnyExcept((byte)0) ? contents.ToArray() : null;
        memory.Frames[pfn].Flags &= ~FrameFlags.Dirty;
        DropCache(pfn);
    }

    /// <summary>Reads a slot into a fresh, zeroed frame.</summary>
    public void Read(ulong slot, Pfn pfn) => _slots[slot].Contents?.CopyTo(memory.Bytes.Of(pfn));

    /// <summary>The frame moved (migration): the cache's reference goes along.</summary>
    public void Replace(Pfn old, Pfn fresh)
    {
        var slot = memory.Frames[old].SwapSlot;
        memory.Frames[old].Flags &= ~FrameFlags.SwapCache;
        AddToCache(slot, fresh);
        memory.Put(old);
    }

    /// <summary>Room for a page of a memory file, which keeps the contents itself. False: swap is full.</summary>
    public bool TryReserve()
    {
        if (Used >= Pages) return false;
        _ofFiles++;
        return true;
    }

    public void Unreserve() => _ofFiles--;

    private void DropCache(Pfn pfn)
    {
        var info = memory.Frames[pfn];
        var slot = info.SwapSlot;
        info.Flags &= ~FrameFlags.SwapCache;
        _slots[slot].Cached = Pfn.Invalid;
        if (_slots[slot].Count == 0) Release(slot);
        memory.Put(pfn);
    }

    private void Release(ulong slot)
    {
        _slots.Remove(slot);
        _freed.Add(slot);
    }
}
