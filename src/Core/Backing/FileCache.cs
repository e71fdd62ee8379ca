using FramePin.Core.Addressing;
using FramePin.Core.PageTables;

namespace FramePin.Core.Backing;

/// <summary>
/// Index of a file's cached folios by page of the file, over all of a file's 2^63 bytes (i_pages). A page table of four
/// levels is one window of 2^48 bytes; the first is always there, and the others appear with their first folio.
/// </summary>
/// <remarks>Guarded by the turn. Owned by its file.</remarks>
internal sealed class FileCache(PageTable first)
{
    private const int WindowShift = 48 - PageGeometry.PageShift;
    private const ulong WindowPages = 1UL << WindowShift;

    /// <summary>The windows above the first by number; null, as for nearly every file, while there is none.</summary>
    private SortedList<ulong, PageTable>? _far;

    /// <summary>The entry of a page; 0 for none.</summary>
    public ulong Read(ulong index) => Window(index)?.Read(AddressOf(index)) ?? 0;

    /// <summary>The entry of a slot that this cache gave out.</summary>
    public ref ulong this[LeafSlot slot] => ref first[slot];

    /// <summary>The slot of a page that is cached.</summary>
    public LeafSlot Find(ulong index) => Window(index)?.Find(AddressOf(index)) ?? LeafSlot.None;

    /// <summary>The slot of a page, made where it is missing; <see cref="LeafSlot.None"/> when no table is left.
    /// </summary>
    public LeafSlot Ensure(ulong index, int order)
    {
        if (Window(index) is { } window) return window.Ensure(AddressOf(index), order);
        if (first.CreateSibling() is not { } made) return LeafSlot.None;
        (_far ??= []).Add(index >> WindowShift, made);
        return made.Ensure(AddressOf(index), order);
    }

    /// <summary>
    /// The folios of [<paramref name="start"/>, <paramref name="start"/> + <paramref name="count"/>), ascending.
    /// </summary>
    public FolioCursor Folios(ulong start, ulong count) => new(this, start, count);

    /// <summary>Gives tables back that have no folio left in the range.</summary>
    public void Prune(ulong start, ulong count)
    {
        for (var number = -1; number < (_far?.Count ?? 0); number++)
        {
            var (window, from, to) = Cut(number, start, count);
            if (from < to) window.Prune(from, to);
        }
    }

    public int CountTables()
    {
        var tables = first.CountTables();
        foreach (var window in _far?.Values ?? []) tables += window.CountTables();
        return tables;
    }

    public void Destroy()
    {
        first.Destroy();
        foreach (var window in _far?.Values ?? []) window.Destroy();
        _far = null;
    }

    private PageTable? Window(ulong index) =>
        index < WindowPages ? first : _far?.GetValueOrDefault(index >> WindowShift);

    private static ulong AddressOf(ulong index) => (index & (WindowPages - 1)) << PageGeometry.PageShift;

    /// <summary>
    /// A window by its place, -1 for the first, and the addresses in it that a range of pages covers; an empty range
    /// where it covers none.
    /// </summary>
    private (PageTable Window, ulong From, ulong To) Cut(int place, ulong start, ulong count)
    {
        var window = place < 0 ? first : _far!.Values[place];
        var begin = place < 0 ? 0 : _far!.Keys[place] << WindowShift;
        var end = start > ulong.MaxValue - count ? ulong.MaxValue : start + count;
        var from = Math.Clamp(start, begin, begin + WindowPages) - begin;
        var to = Math.Clamp(end, begin, begin + WindowPages) - begin;
        return (window, from << PageGeometry.PageShift, to << PageGeometry.PageShift);
    }

    /// <summary>A walk over folios for <c>foreach</c>: page index in the file, and first frame.</summary>
    internal ref struct FolioCursor
    {
        private readonly FileCache _cache;
        private readonly ulong _start;
        private readonly ulong _count;
        private LeafCursor _leaf;
        private int _place = -1;

        public FolioCursor(FileCache cache, ulong start, ulong count)
        {
            (_cache, _start, _count) = (cache, start, count);
            _leaf = Leaves();
        }

        public readonly (ulong Index, Pfn Head) Current => (Index, Pte.PfnOf(_leaf.Entry));

        /// <summary>The entry, to be changed.</summary>
        public readonly ref ulong Entry => ref _leaf.Entry;

        private readonly ulong Index => (_leaf.Address >> PageGeometry.PageShift)
            + (_place < 0 ? 0 : _cache._far!.Keys[_place] << WindowShift);

        public readonly FolioCursor GetEnumerator() => this;

        public bool MoveNext()
        {
            while (!_leaf.MoveNext())
            {
                if (_place + 1 >= (_cache._far?.Count ?? 0)) return false;
                _place++;
                _leaf = Leaves();
            }

            return true;
        }

        private readonly LeafCursor Leaves()
        {
            var (window, from, to) = _cache.Cut(_place, _start, _count);
            return window.Leaves(from, to);
        }
    }
}
