using FramePin.Core.Addressing;

namespace FramePin.Core.PageTables;

/// <summary>
/// Walks the entries of a page table that are not empty, in a range of addresses, in ascending order: mapped pages of
/// any size, swap entries and markers. Addresses in bytes.
/// </summary>
/// <remarks>
/// <para><b>Use.</b> <see cref="PageTable.Leaves(ulong, ulong)"/> gives a cursor that stands before the first leaf;
/// <see cref="MoveNext"/> moves it to the next one. A leaf that the range cuts is visited whole:
/// <see cref="Address"/> is then the start of the range, and <see cref="End"/> may lie behind its end. Callers that
/// must not touch the rest split such leaves first.</para>
/// <para><b>Locking.</b> A walk that changes entries holds the turn. A walk that reads them holds the turn or the
/// gate.</para>
/// <para><b>What may change during a walk.</b> The holder of the turn may clear or rewrite any entry, through
/// <see cref="Entry"/> or otherwise, and may make tables anywhere. It may split the leaf at hand, and then calls
/// <see cref="Again"/> to visit the parts, or does not, and the parts are passed over. Tables are not freed while a
/// cursor stands in the range (<see cref="PageTable.Prune(ulong, ulong)"/> comes behind the walk), since
/// <see cref="Slot"/> and <see cref="Entry"/> name a table. Nothing else is remembered between two steps: each step
/// descends from the root, so entries that appear ahead of the cursor are seen.</para>
/// <para><b>Cost.</b> No allocation. One descent from the top table a step; empty entries are skipped a table at a
/// time.</para>
/// </remarks>
internal ref struct LeafCursor
{
    private readonly PageTable _table;
    private readonly ulong _limit;
    private ulong _next;

    /// <summary>Stands before the first leaf of [<paramref name="start"/>, <paramref name="end"/>).</summary>
    public LeafCursor(PageTable table, ulong start, ulong end)
    {
        _table = table;
        _limit = end;
        _next = start;
    }

    /// <summary>First byte of the leaf inside the range.</summary>
    public ulong Address { get; private set; }

    /// <summary>First byte behind the leaf.</summary>
    public readonly ulong End => PageGeometry.AlignDown(Address, Slot.Size) + Slot.Size;

    /// <summary>Place and size of the leaf.</summary>
    public LeafSlot Slot { get; private set; }

    /// <summary>The entry itself.</summary>
    public readonly ref ulong Entry => ref _table[Slot];

    /// <summary>Moves to the next leaf; false when the range has no more.</summary>
    public bool MoveNext()
    {
        if (!_table.Next(ref _next, _limit, out var slot)) return false;
        Address = _next;
        Slot = slot;
        _next = End;
        return true;
    }

    /// <summary>
    /// The next step begins at <see cref="Address"/> once more: the leaf there was split, or is to be tried again.
    /// </summary>
    public void Again() => _next = Address;

    /// <summary>
    /// The next step begins <paramref name="pages"/> small pages behind <see cref="Address"/>: the caller has looked
    /// at the entries between by itself.
    /// </summary>
    public void Skip(int pages) => _next = Address + ((ulong)pages << PageGeometry.PageShift);
}
