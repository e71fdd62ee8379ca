using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Pinning;

namespace FramePin.Core.Inspection;

/// <summary>A struct page as seen from outside.</summary>
/// <param name="Pfn">The frame.</param>
/// <param name="HasPage">False for MMIO, and then every field behind is empty.</param>
/// <param name="Head">First frame of its folio.</param>
/// <param name="Order">log2 of the folio's frames.</param>
/// <param name="RefCount">References of the folio.</param>
/// <param name="PinCount">Pins counted apart, large folios only.</param>
/// <param name="MapCount">Entries that map the folio.</param>
/// <param name="Flags">State of the folio.</param>
/// <param name="MaybeDmaPinned">folio_maybe_dma_pinned.</param>
public readonly record struct PageView(
    Pfn Pfn, bool HasPage, Pfn Head, int Order, int RefCount, int PinCount, int MapCount, FrameFlags Flags,
    bool MaybeDmaPinned)
{
    internal static PageView Of(KernelState kernel, Pfn pfn)
    {
        var frames = kernel.Memory.Frames;
        if (!frames.IsValid(pfn)) return new PageView(pfn, false, pfn, 0, 0, 0, 0, FrameFlags.None, false);
        var head = frames.HeadOf(pfn);
        var info = frames[head];
        return new PageView(
            pfn, true, head, frames.OrderOf(head), frames.RefCount(head), frames.PinCount(head), info.MapCount,
            info.Flags, frames.MaybeDmaPinned(head));
    }
}

/// <summary>The struct page of a frame.</summary>
public readonly record struct PageQuery(Pfn Pfn) : IQuery<PageView>
{
    public PageView Run(in Turn turn) => PageView.Of(turn.Kernel, Pfn);
}

/// <summary>The struct pages of a vector's frames.</summary>
/// <param name="Vector">The vector; its owner lets nothing change it meanwhile.</param>
/// <param name="From">First slot.</param>
/// <param name="Most">Pages at most.</param>
public readonly record struct VectorPagesQuery(FrameVector Vector, long From, int Most)
    : IQuery<IReadOnlyList<PageView>>
{
    public IReadOnlyList<PageView> Run(in Turn turn)
    {
        var pages = new List<PageView>();
        var slot = 0L;
        foreach (var run in Vector.Runs)
        {
            for (var i = 0UL; i < run.Count; i++, slot++)
            {
                if (slot < From) continue;
                if (pages.Count == Most) return pages;
                pages.Add(PageView.Of(turn.Kernel, run.First + i));
            }
        }

        return pages;
    }
}

/// <summary>The frame mapped at an address, without a fault; null when there is none.</summary>
public readonly record struct TranslateQuery(SpaceId Space, ulong Address) : IQuery<Pfn?>
{
    public Pfn? Run(in Turn turn)
    {
        var table = turn.Kernel.Space(Space).PageTable;
        var slot = table.Find(Address);
        if (!slot.Exists || !Pte.IsMapped(table[slot])) return null;
        return Pte.PfnOf(table[slot]) + ((Address >> PageGeometry.PageShift) & ((1UL << slot.Order) - 1));
    }
}

/// <summary>
/// A frame's bytes as /proc/PID/mem would show them. False for memory that has no readable bytes: secret, broken, MMIO.
/// </summary>
/// <param name="pfn">The frame.</param>
/// <param name="page">Receives 4096 bytes.</param>
public readonly ref struct PeekFrameQuery(Pfn pfn, Span<byte> page) : IQuery<bool>
{
    private readonly Span<byte> _page = page;

    public bool Run(in Turn turn)
    {
        var memory = turn.Kernel.Memory;
        if (!memory.Frames.IsValid(pfn)) return false;
        var flags = memory.Frames[memory.Frames.HeadOf(pfn)].Flags;
        if ((flags & (FrameFlags.Secret | FrameFlags.HwPoison)) != 0) return false;
        memory.Bytes.Of(pfn).CopyTo(_page);
        return true;
    }
}

/// <summary>
/// True when a PFN that a vector holds without a reference was freed since: its bytes may belong to another user now.
/// </summary>
public readonly record struct IsFreedQuery(Pfn Pfn) : IQuery<bool>
{
    public bool Run(in Turn turn)
    {
        var frames = turn.Kernel.Memory.Frames;
        return frames.IsValid(Pfn) && frames.RefCount(frames.HeadOf(Pfn)) == 0;
    }
}

/// <summary>Free frames that are kept from the allocator and that these holds name, among others perhaps.</summary>
public readonly record struct QuarantinedQuery(IReadOnlyCollection<FrameHold> Holds) : IQuery<ulong>
{
    public ulong Run(in Turn turn)
    {
        var frames = 0UL;
        foreach (var hold in Holds)
            foreach (var run in hold.Runs) frames += turn.Kernel.Memory.Quarantine.WaitingIn(run.First, run.Count);
        return frames;
    }
}
