using FramePin.Core.Addressing;

namespace FramePin.Core.Backing;

/// <summary>
/// What the shared mappings of a hugetlb file were promised, page by page (struct resv_map of the inode). Pages are
/// huge ones here. An entry stays while its page is cached; the promise is open while it is not.
/// </summary>
/// <remarks>Source: mm/hugetlb.c: hugetlb_reserve_pages, hugetlb_unreserve_pages.</remarks>
internal sealed partial class MemoryFile
{
    private readonly HashSet<ulong> _promised = [];

    /// <summary>The pool of the file's pages; null for other kinds of file.</summary>
    internal HugePool? Pool { get; init; }

    /// <summary>A page was promised to a shared mapping, or is cached.</summary>
    internal bool Promises(ulong page) => _promised.Contains(page);

    /// <summary>vma_commit_reservation of a shared mapping.</summary>
    internal void Promise(ulong page) => _promised.Add(page);

    /// <summary>
    /// Promises the pages of [<paramref name="first"/>, <paramref name="end"/>) that are not promised yet. False:
    /// the pool has not as many.
    /// </summary>
    internal bool TryPromise(ulong first, ulong end)
    {
        var known = 0UL;
        foreach (var page in _promised)
            if (page >= first && page < end) known++;
        var wanted = end - first - known;
        if (wanted > (ulong)Math.Max(0, Pool!.Available)) return false;
        // No more than the pool holds, beside those that are known.
        for (var page = first; page < end; page++) _promised.Add(page);
        Pool.Reserved += (long)wanted;
        return true;
    }

    /// <summary>Promises that wait for their page.</summary>
    internal long OpenPromises => _promised.Count - (long)(CachedFrames >> Order);

    /// <summary>Truncation: what was promised from a page on is no more, whether the page was ever there or not.
    /// </summary>
    internal void Truncate(ulong firstFrame)
    {
        Remove(firstFrame, ulong.MaxValue >> PageGeometry.PageShift);
        if (Pool is { } pool) pool.Reserved -= _promised.RemoveWhere(page => page >= firstFrame >> Order);
    }
}
