using FramePin.Core.Addressing;

namespace FramePin.Core.Kernel;

/// <summary>A pool of huge pages of one size (hugetlb), filled when the machine is made.</summary>
internal sealed class HugePool(int order)
{
    /// <summary>log2 of the frames of one page.</summary>
    public int Order { get; } = order;

    public Stack<Pfn> Free { get; } = new();

    /// <summary>Pages in the pool, in use or not.</summary>
    public ulong Total { get; set; }

    /// <summary>Promised to mappings and not yet taken.</summary>
    public ulong Reserved { get; set; }
}
