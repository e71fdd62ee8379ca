using System.Diagnostics;
using System.Runtime.CompilerServices;
using FramePin.Core.Addressing;

namespace FramePin.Core.PageTables;

/// <summary>Where a leaf was found: its table, its place there, and log2 of the frames it covers.</summary>
internal readonly record struct LeafSlot(int Table, int Index, int Order)
{
    public static readonly LeafSlot None;

    public bool Exists => Table != 0;

    /// <summary>Bytes that the leaf covers.</summary>
    public ulong Size => PageGeometry.PageSize << Order;
}

/// <summary>
/// An x86-64 page table of four levels (48 bits of address) or five (57). Leaves may be 4 KiB, 2 MiB or 1 GiB. With
/// four levels also the index of a memory file's page cache, with page indexes in place of page numbers.
/// </summary>
/// <remarks>
/// Entries change under the turn; a pin reads them inside the gate, and changes only the table that is remembered.
/// Callers keep frame references and map counts right: the table knows entries, not frames.
/// </remarks>
internal sealed class PageTable
{
    public const int PteLevel = 0;
    public const int PmdLevel = 1;
    public const int PudLevel = 2;

    private readonly TablePool _pool;

    /// <summary>Level of the top table: 3 with four levels, 4 with five.</summary>
    private readonly int _topLevel;

    /// <summary>The table that <see cref="FindNear"/> remembers; meaningless without a region.</summary>
    private int _nearTable;

    /// <summary>Level of <see cref="_nearTable"/>: <see cref="PteLevel"/> or <see cref="PmdLevel"/>.</summary>
    private int _nearLevel;

    /// <summary>
    /// The address bits above the reach of <see cref="_nearTable"/>; <see cref="ulong.MaxValue"/>, which no address
    /// has, when no table is remembered.
    /// </summary>
    private ulong _nearRegion = ulong.MaxValue;

    private PageTable(TablePool pool, int root, int levels)
    {
        _pool = pool;
        _topLevel = levels - 1;
        Root = root;
    }

    /// <summary>Levels of tables: 4 or 5.</summary>
    public int Levels => _topLevel + 1;

    /// <summary>Number of the top table.</summary>
    public int Root { get; private set; }

    /// <summary>An empty table of 4 or 5 levels; null when the pool is used up.</summary>
    public static PageTable? Create(TablePool pool, int levels = 4) =>
        pool.Allocate() is var root and not 0 ? new PageTable(pool, root, levels) : null;

    /// <summary>An empty table of the same pool; null when it is used up.</summary>
    public PageTable? CreateSibling() => Create(_pool);

    /// <summary>The table of an address space that has exited: every look-up finds nothing.</summary>
    public static PageTable Destroyed(TablePool pool) => new(pool, 0, 4);

    public static int ShiftOf(int level) => PageGeometry.PageShift + (9 * level);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int IndexOf(ulong address, int level) => (int)(address >> ShiftOf(level)) & 511;

    /// <summary>The entry at a slot.</summary>
    public ref ulong this[LeafSlot slot] => ref _pool.Entry(slot.Table, slot.Index);

    /// <summary>
    /// The slot that decides over <paramref name="address"/>: a leaf of any size, or the entry of the lowest table that
    /// exists. <see cref="LeafSlot.Exists"/> is false when a table on the way is missing.
    /// </summary>
    public LeafSlot Find(ulong address)
    {
        var table = Root;
        for (var level = _topLevel; level > PteLevel; level--)
        {
            var index = IndexOf(address, level);
            var entry = _pool.Entry(table, index);
            if (entry == 0) return LeafSlot.None;
            if ((entry & Pte.Huge) != 0) return new LeafSlot(table, index, 9 * level);
            table = TableOf(entry);
        }

        return new LeafSlot(table, IndexOf(address, PteLevel), 0);
    }

    /// <summary>
    /// <see cref="Find"/> for a pin, inside the gate. It remembers the lowest table of a look-up for the next one, as a
    /// processor's paging-structure cache does: the entries of a walk are loaded one after the other.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public LeafSlot FindNear(ulong address)
    {
        if (_nearLevel == PteLevel)
        {
            if (address >> ShiftOf(PmdLevel) == _nearRegion)
                return new LeafSlot(_nearTable, IndexOf(address, PteLevel), 0);
        }
        else if (address >> ShiftOf(PudLevel) == _nearRegion)
        {
            var index = IndexOf(address, PmdLevel);
            if ((_pool.Entry(_nearTable, index) & Pte.Huge) != 0)
                return new LeafSlot(_nearTable, index, PageGeometry.PmdOrder);
        }

        return FindFar(address);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private LeafSlot FindFar(ulong address)
    {
        var slot = Find(address);
        if (slot.Exists && slot.Order <= PageGeometry.PmdOrder)
        {
            _nearTable = slot.Table;
            _nearLevel = slot.Order == 0 ? PteLevel : PmdLevel;
            _nearRegion = address >> ShiftOf(_nearLevel + 1);
        }

        return slot;
    }

    /// <summary>The entry that maps <paramref name="address"/>, of any size; 0 when there is none.</summary>
    public ulong Read(ulong address)
    {
        var slot = Find(address);
        return slot.Exists ? this[slot] : 0;
    }

    /// <summary>
    /// The slot for a leaf of 2^<paramref name="order"/> frames at <paramref name="address"/>, with the tables above it
    /// made. No leaf may be in the way. Not existing: the pool is used up.
    /// </summary>
    public LeafSlot Ensure(ulong address, int order)
    {
        var bottom = order / 9;
        var table = Root;
        for (var level = _topLevel; level > bottom; level--)
        {
            ref var entry = ref _pool.Entry(table, IndexOf(address, level));
            Debug.Assert((entry & Pte.Huge) == 0, "a huge leaf is in the way");
            if (entry == 0)
            {
                var made = _pool.Allocate();
                if (made == 0) return LeafSlot.None;
                entry = ((ulong)made << Pte.PfnShift) | Pte.Present;
            }

            table = TableOf(entry);
        }

        return new LeafSlot(table, IndexOf(address, bottom), order);
    }

    /// <summary>A walk over the leaves of [<paramref name="start"/>, <paramref name="end"/>), in bytes.</summary>
    public LeafCursor Leaves(ulong start, ulong end) => new(this, start, end);

    /// <summary>A walk over the leaves of a range.</summary>
    public LeafCursor Leaves(AddressRange range) => new(this, range.Start, range.End);

    /// <summary>
    /// The step of a <see cref="LeafCursor"/>: advances <paramref name="address"/> to the first entry at or after it
    /// that is not empty and lies below <paramref name="end"/>. The address becomes the leaf's first byte, or stays
    /// inside it when it started there.
    /// </summary>
    public bool Next(ref ulong address, ulong end, out LeafSlot slot)
    {
        while (address < end)
        {
            var table = Root;
            var level = _topLevel;
            while (true)
            {
                var index = IndexOf(address, level);
                var entries = _pool.Table(table);
                var skip = entries[index..].IndexOfAnyExcept(0UL);
                if (skip != 0)
                {
                    var span = 1UL << ShiftOf(level);
                    var steps = skip < 0 ? (ulong)(512 - index) : (ulong)skip;
                    var next = PageGeometry.AlignDown(address, span) + (steps * span);
                    if (next <= address || next >= end)
                    {
                        slot = LeafSlot.None;
                        return false;
                    }

                    address = next;
                    if (skip < 0) break;
                    index += skip;
                }

                var entry = entries[index];
                if (level == PteLevel || (entry & Pte.Huge) != 0)
                {
                    slot = new LeafSlot(table, index, 9 * level);
                    return true;
                }

                table = TableOf(entry);
                level--;
            }
        }

        slot = LeafSlot.None;
        return false;
    }

    /// <summary>
    /// Replaces a huge leaf by a table of the next smaller leaves that map the same frames. False: no table left.
    /// </summary>
    public bool Split(LeafSlot slot)
    {
        Debug.Assert(slot.Order > 0, "a small leaf cannot be split");
        var made = _pool.Allocate();
        if (made == 0) return false;
        ref var entry = ref this[slot];
        var below = slot.Order - 9;
        var bits = below == 0 ? (entry & ~Pte.Huge) | Pte.Compound : entry;
        var table = _pool.Table(made);
        for (var i = 0; i < table.Length; i++) table[i] = bits + (((ulong)i << below) << Pte.PfnShift);
        entry = ((ulong)made << Pte.PfnShift) | Pte.Present;
        return true;
    }

    /// <summary>
    /// Frees tables that hold nothing any more, around [<paramref name="start"/>, <paramref name="end"/>), as far as
    /// nothing else uses their reach: those that lie within [<paramref name="floor"/>, <paramref name="ceiling"/>)
    /// (mm/memory.c: free_pgd_range).
    /// </summary>
    public void Prune(ulong start, ulong end, ulong floor, ulong ceiling)
    {
        if (start < end) PruneTable(Root, _topLevel, 0, new Pruned(start, end, floor, ceiling));
    }

    /// <summary>Frees empty tables that lie wholly inside the range.</summary>
    public void Prune(ulong start, ulong end) => Prune(start, end, start, end);

    /// <summary>Whether the table exists that would hold a 2 MiB leaf at <paramref name="address"/>.</summary>
    public bool HasPmdTable(ulong address)
    {
        var table = Root;
        for (var level = _topLevel; level > PmdLevel; level--)
        {
            var entry = _pool.Entry(table, IndexOf(address, level));
            if (entry == 0 || (entry & Pte.Huge) != 0) return false;
            table = TableOf(entry);
        }

        return true;
    }

    /// <summary>
    /// Makes the lower tables of a range that <paramref name="other"/> has. False: the pool is used up.
    /// </summary>
    public bool MirrorTables(PageTable other, ulong start, ulong end) => Mirror(other.Root, _topLevel, 0, start, end);

    private bool Mirror(int table, int level, ulong tableBase, ulong start, ulong end)
    {
        var span = 1UL << ShiftOf(level);
        var first = start <= tableBase ? 0 : IndexOf(start, level);
        var last = end >= tableBase + (span * 512) ? 511 : IndexOf(end - 1, level);
        for (var index = first; index <= last; index++)
        {
            var entry = _pool.Entry(table, index);
            if (entry == 0 || (entry & Pte.Huge) != 0) continue;
            var childBase = tableBase + ((ulong)index * span);
            // A table for huge leaves is made though it may stay empty (copy_pmd_range: pmd_alloc), as is one for small
            // ones.
            if (level <= PudLevel && !Ensure(
                Math.Max(childBase, start), level == PudLevel ? PageGeometry.PmdOrder : 0).Exists)
                return false;
            if (level > PmdLevel && !Mirror(TableOf(entry), level - 1, childBase, start, end)) return false;
        }

        return true;
    }

    private readonly record struct Pruned(ulong Start, ulong End, ulong Floor, ulong Ceiling);

    /// <summary>Frees every table; the object must not be used afterwards.</summary>
    public void Destroy()
    {
        Forget();
        FreeSubtree(Root, _topLevel);
        Root = 0;
    }

    private void Forget()
    {
        _nearRegion = ulong.MaxValue;
        _nearTable = 0;
    }

    /// <summary>Tables of this page table, the top one included (for pgtables in statistics and the audit).</summary>
    public int CountTables() => CountTables(Root, _topLevel);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int TableOf(ulong entry) => (int)((entry & Pte.PfnMask) >> Pte.PfnShift);

    private int CountTables(int table, int level)
    {
        var count = 1;
        if (level == PteLevel) return count;
        foreach (var entry in _pool.Table(table))
            if (entry != 0 && (entry & Pte.Huge) == 0) count += CountTables(TableOf(entry), level - 1);
        return count;
    }

    private void PruneTable(int table, int level, ulong tableBase, in Pruned range)
    {
        var span = 1UL << ShiftOf(level);
        var first = range.Start <= tableBase ? 0 : IndexOf(range.Start, level);
        var last = range.End >= tableBase + (span * 512) ? 511 : IndexOf(range.End - 1, level);
        for (var index = first; index <= last; index++)
        {
            ref var entry = ref _pool.Entry(table, index);
            if (entry == 0 || (entry & Pte.Huge) != 0) continue;
            var child = TableOf(entry);
            var childBase = tableBase + ((ulong)index * span);
            if (level > PmdLevel) PruneTable(child, level - 1, childBase, range);
            if (childBase < range.Floor || childBase + span > range.Ceiling) continue;
            if (_pool.Table(child).ContainsAnyExcept(0UL)) continue;
            if (child == _nearTable) Forget();
            _pool.Free(child);
            entry = 0;
        }
    }

    private void FreeSubtree(int table, int level)
    {
        var entries = _pool.Table(table);
        if (level > PteLevel)
        {
            foreach (var entry in entries)
                if (entry != 0 && (entry & Pte.Huge) == 0) FreeSubtree(TableOf(entry), level - 1);
        }

        entries.Clear();
        _pool.Free(table);
    }
}
