using FramePin.Core.Addressing;
using FramePin.Core.Native;

namespace FramePin.Core.PageTables;

/// <summary>
/// The tables of all page tables and page caches of a machine: 512 entries of 64 bits each, in sparse native memory,
/// named by number. Number 0 means none.
/// </summary>
/// <remarks>Guarded by the turn; pins read entries under the gate. A freed table is all zero.</remarks>
internal sealed class TablePool : IDisposable
{
    private readonly NativeArray<ulong> _entries;
    private readonly Stack<int> _free = new();
    private readonly int _capacity;
    private int _next = 1;

    /// <summary>Reserves room for <paramref name="capacity"/> tables of 4 KiB.</summary>
    public TablePool(int capacity)
    {
        _capacity = capacity;
        _entries = NativeArray<ulong>.Reserve((ulong)capacity * PageGeometry.EntriesPerTable);
    }

    /// <summary>Tables in use.</summary>
    public int InUse => _next - 1 - _free.Count;

    /// <summary>A zeroed table; 0 when the pool is used up.</summary>
    public int Allocate()
    {
        if (_free.TryPop(out var table)) return table;
        return _next < _capacity ? _next++ : 0;
    }

    /// <summary>Takes back a table whose entries are all zero.</summary>
    public void Free(int table) => _free.Push(table);

    public Span<ulong> Table(int table) =>
        _entries.Slice((ulong)table * PageGeometry.EntriesPerTable, PageGeometry.EntriesPerTable);

    public ref ulong Entry(int table, int index) =>
        ref _entries[((ulong)table * PageGeometry.EntriesPerTable) + (uint)index];

    public void Dispose() => _entries.Release();
}
