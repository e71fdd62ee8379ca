using System.Runtime.InteropServices;
using FramePin.Core.Addressing;

namespace FramePin.Core.Kernel;

/// <summary>Ranges whose watchers have agreed, joined where they touch, by address space.</summary>
/// <remarks>One thread at a time. A look-up costs the logarithm of the pieces.</remarks>
public sealed class AnnouncedRanges
{
    private readonly Dictionary<SpaceId, List<AddressRange>> _bySpace = [];

    /// <summary>Adds ranges that were announced.</summary>
    public void Add(IEnumerable<TakenRange> ranges)
    {
        foreach (var group in ranges.GroupBy(range => range.Space))
        {
            ref var known = ref CollectionsMarshal.GetValueRefOrAddDefault(_bySpace, group.Key, out _);
            known = Join((known ?? []).Concat(group.Select(range => range.Range)));
        }
    }

    /// <summary>Ranges in the order of their addresses, joined where they touch.</summary>
    public static List<AddressRange> Join(IEnumerable<AddressRange> ranges)
    {
        var joined = new List<AddressRange>();
        foreach (var range in ranges.OrderBy(range => range.Start))
        {
            if (joined.Count > 0 && range.Start <= joined[^1].End)
                joined[^1] = joined[^1] with { End = Math.Max(joined[^1].End, range.End) };
            else joined.Add(range);
        }

        return joined;
    }

    /// <summary>Adds the parts of a range that were not announced.</summary>
    internal void AddMissing(TakenRange range, List<TakenRange> missing)
    {
        if (!_bySpace.TryGetValue(range.Space, out var known))
        {
            missing.Add(range);
            return;
        }

        var at = range.Range.Start;
        for (var i = FirstBehind(known, at); at < range.Range.End; i++)
        {
            var next = i < known.Count ? known[i] : new AddressRange(ulong.MaxValue, ulong.MaxValue);
            var end = Math.Min(next.Start, range.Range.End);
            if (at < end) missing.Add(range with { Range = new AddressRange(at, end) });
            at = Math.Max(at, next.End);
        }
    }

    /// <summary>Index of the first range that ends behind an address.</summary>
    private static int FirstBehind(List<AddressRange> ranges, ulong address)
    {
        var (low, high) = (0, ranges.Count);
        while (low < high)
        {
            var middle = (low + high) / 2;
            if (ranges[middle].End > address) high = middle;
            else low = middle + 1;
        }

        return low;
    }
}
