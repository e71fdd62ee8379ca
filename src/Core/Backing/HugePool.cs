using FramePin.Core.Addressing;

namespace FramePin.Core.Backing;

/// <summary>A pool of huge pages of one size (hugetlb), filled when the machine is made.</summary>
/// <remarks>Guarded by the turn.</remarks>
internal sealed class HugePool(int order)
{
    /// <summary>log2 of the frames of one page.</summary>
    public int Order { get; } = order;

    public Stack<Pfn> Free { get; } = new();

    /// <summary>Pages in the pool, in use or not.</summary>
    public ulong Total { get; set; }

    /// <summary>
    /// Promised to mappings and not yet taken (resv_huge_pages). Below 0 while the owner of a promise is gone and a
    /// child still has the page, which Linux shows as HugePages_Rsvd too.
    /// </summary>
    public long Reserved { get; set; }

    /// <summary>Free and promised to nobody (available_huge_pages).</summary>
    public long Available => Free.Count - Reserved;
}
