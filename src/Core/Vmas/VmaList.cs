using FramePin.Core.Addressing;

namespace FramePin.Core.Vmas;

/// <summary>The VMAs of an address space, by address, never overlapping. Guarded by the turn.</summary>
/// <remarks>
/// A sorted array: a look-up is a binary search over what fits a few cache lines, and a change moves at most
/// max_map_count references. A tree of nodes would cost a miss a level for the same answers.
/// </remarks>
internal sealed class VmaList
{
    private readonly List<Vma> _items = [];

    public int Count => _items.Count;

    public Vma this[int index] => _items[index];

    public IReadOnlyList<Vma> All => _items;

    /// <summary>Index of the first VMA that ends above <paramref name="address"/>; Count when there is none.</summary>
    public int LowerIndex(ulong address)
    {
        int low = 0, high = _items.Count;
        while (low < high)
        {
            var middle = (low + high) >> 1;
            if (_items[middle].End > address) high = middle;
            else low = middle + 1;
        }

        return low;
    }

    /// <summary>find_vma: the first VMA that ends above <paramref name="address"/>, which may lie before it.</summary>
    public Vma? FindFrom(ulong address) => LowerIndex(address) is var i && i < _items.Count ? _items[i] : null;

    /// <summary>vma_lookup: the VMA that contains <paramref name="address"/>.</summary>
    public Vma? Find(ulong address) => FindFrom(address) is { } vma && vma.Start <= address ? vma : null;

    /// <summary>The VMA that ends at or before <paramref name="address"/> and is the nearest.</summary>
    public Vma? Before(ulong address)
    {
        var index = LowerIndex(address == 0 ? 0 : address - 1);
        if (index < _items.Count && _items[index].End <= address) return _items[index];
        return index > 0 ? _items[index - 1] : null;
    }

    /// <summary>True when a VMA overlaps the range (find_vma_intersection).</summary>
    public bool Intersects(AddressRange range) => FindFrom(range.Start) is { } vma && vma.Start < range.End;

    /// <summary>The VMAs that overlap the range, in order, as they are now.</summary>
    public List<Vma> Overlapping(AddressRange range)
    {
        var found = new List<Vma>();
        for (var i = LowerIndex(range.Start); i < _items.Count && _items[i].Start < range.End; i++)
            found.Add(_items[i]);
        return found;
    }

    public void Insert(Vma vma) => _items.Insert(LowerIndex(vma.Start), vma);

    public void Remove(Vma vma)
    {
        var index = LowerIndex(vma.Start);
        if (!ReferenceEquals(_items[index], vma)) throw new InvalidOperationException($"{vma} is not in the tree");
        _items.RemoveAt(index);
    }

    /// <summary>Empties the list; what was in it, by address.</summary>
    public List<Vma> TakeAll()
    {
        var all = _items.ToList();
        _items.Clear();
        return all;
    }
}
