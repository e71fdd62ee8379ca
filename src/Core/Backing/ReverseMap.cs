using FramePin.Core.Addressing;

namespace FramePin.Core.Backing;

/// <summary>
/// An area of an address space, as the reverse map of what it maps sees it. Implemented by the room of the areas, which
/// lies to the right of this one.
/// </summary>
internal interface IMapping
{
    /// <summary>Number of the address space. A younger address space has a higher number.</summary>
    SpaceId SpaceId { get; }

    /// <summary>The addresses that the area covers, in bytes.</summary>
    AddressRange Range { get; }

    /// <summary>Index of the page that is mapped at the first of these addresses, in pages.</summary>
    ulong PageOffset { get; }
}

/// <summary>
/// The areas that map pages of one object: of a memory file (i_mmap of struct address_space) or of an anon_vma (its
/// tree of anon_vma_chain). Truncation, write-back, migration and splitting find the mappings of a page here.
/// </summary>
/// <remarks>
/// <para><b>Order.</b> Areas of older address spaces come first, and within one address space they come by address. The
/// order decides which frames are freed first, and with that which are given out next, so it is part of what makes a
/// machine deterministic.</para>
/// <para><b>Kept right by</b> the room of the areas: an area is added when it becomes part of an address space and
/// removed when it leaves it. In between its range may grow and shrink, and its offset with it, as long as it passes no
/// other area: that changes no order.</para>
/// <para><b>Locking.</b> The turn. No area may come or go during a walk.</para>
/// <para><b>Cost.</b> A sorted array. A walk looks at each area of the object once, about 2 ns each, and allocates
/// nothing. Finding the place of one area is a binary search; a young address space, as fork makes one, adds its areas
/// at the end. A tree of intervals, as Linux has it, would answer for one page in logarithmic time, but not in the
/// order of the address spaces.</para>
/// </remarks>
internal sealed class ReverseMap
{
    private readonly List<IMapping> _mappings = [];

    /// <summary>Areas in the map.</summary>
    public int Count => _mappings.Count;

    /// <summary>Every area, in order.</summary>
    public IReadOnlyList<IMapping> All => _mappings;

    /// <summary>Adds an area that is not in the map.</summary>
    public void Add(IMapping mapping) => _mappings.Insert(PlaceOf(mapping), mapping);

    /// <summary>Takes an area out. Throws <see cref="InvalidOperationException"/> when it is not in the map.</summary>
    public void Remove(IMapping mapping)
    {
        var place = PlaceOf(mapping);
        if (place == _mappings.Count || !ReferenceEquals(_mappings[place], mapping))
            throw new InvalidOperationException($"{mapping} is not in the reverse map");
        _mappings.RemoveAt(place);
    }

    /// <summary>
    /// The areas that map some of the pages [<paramref name="first"/>, <paramref name="last"/>), which is not empty,
    /// for <c>foreach</c>.
    /// </summary>
    /// <typeparam name="T">What every area of this map is.</typeparam>
    public Walk<T> Over<T>(ulong first, ulong last) where T : class, IMapping => new(_mappings, first, last);

    /// <summary>Index of the first area that does not come before <paramref name="mapping"/>.</summary>
    private int PlaceOf(IMapping mapping)
    {
        var (space, start) = (mapping.SpaceId.Value, mapping.Range.Start);
        // A new area mostly belongs behind all others.
        var (low, high) = (0, _mappings.Count);
        if (high > 0 && IsBefore(_mappings[high - 1], space, start)) return high;
        while (low < high)
        {
            var middle = (low + high) >> 1;
            if (IsBefore(_mappings[middle], space, start)) low = middle + 1;
            else high = middle;
        }

        return low;
    }

    private static bool IsBefore(IMapping mapping, int space, ulong start) =>
        mapping.SpaceId.Value < space || (mapping.SpaceId.Value == space && mapping.Range.Start < start);

    /// <summary>A walk over the areas that map some of a range of pages.</summary>
    internal ref struct Walk<T>(List<IMapping> mappings, ulong first, ulong last) where T : class, IMapping
    {
        private readonly List<IMapping> _mappings = mappings;
        private int _at = -1;

        public T Current { get; private set; } = null!;

        public readonly Walk<T> GetEnumerator() => this;

        public bool MoveNext()
        {
            while (++_at < _mappings.Count)
            {
                var mapping = (T)_mappings[_at];
                var from = mapping.PageOffset;
                if (from >= last || from + (mapping.Range.Length >> PageGeometry.PageShift) <= first) continue;
                Current = mapping;
                return true;
            }

            return false;
        }
    }
}
