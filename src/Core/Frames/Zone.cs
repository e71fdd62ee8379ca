namespace FramePin.Core.Frames;

/// <summary>Zones of a machine's memory.</summary>
public enum ZoneKind
{
    /// <summary>Everything may live here, long-term pins too.</summary>
    Normal,
    /// <summary>ZONE_MOVABLE: user pages only; a long-term pin moves them out first.</summary>
    Movable,
}

/// <summary>
/// A buddy allocator over one zone. Blocks of 2^0 to 2^18 frames; frames at or above the watermark were never given
/// out, so a terabyte costs nothing until it is used.
/// </summary>
/// <remarks>
/// Guarded by the turn. Free lists are last in first out, linked through the frame records: deterministic.
/// </remarks>
internal sealed class Zone
{
    public const int MaxOrder = Addressing.PageGeometry.PudOrder;
    private const ulong Nil = ulong.MaxValue;

    private readonly FrameTable _frames;
    private readonly ulong[] _heads = new ulong[MaxOrder + 1];
    private ulong _watermark;

    public Zone(ZoneKind kind, FrameTable frames, ulong start, ulong end)
    {
        Kind = kind;
        Start = start;
        End = end;
        _frames = frames;
        _watermark = start;
        Array.Fill(_heads, Nil);
        FreeFrames = end - start;
    }

    public ZoneKind Kind { get; }

    public ulong Start { get; }

    public ulong End { get; }

    /// <summary>First frame that was never given out.</summary>
    public ulong Watermark => _watermark;

    /// <summary>Frames not in use.</summary>
    public ulong FreeFrames { get; private set; }

    /// <summary>Takes a block of 2^<paramref name="order"/> frames; null when none is left in one piece.</summary>
    public Addressing.Pfn? Take(int order)
    {
        var from = order;
        while (from <= MaxOrder && _heads[from] == Nil) from++;
        if (from > MaxOrder)
        {
            if (!AdvanceWatermark(order)) return null;
            from = order;
            while (_heads[from] == Nil) from++;
        }

        var first = _heads[from];
        Unlink(first, from);
        while (from > order)
        {
            from--;
            Link(first + (1UL << from), from);
        }

        FreeFrames -= 1UL << order;
        return new Addressing.Pfn(first);
    }

    /// <summary>The free frames below the watermark, highest first, as they are now.</summary>
    public IEnumerable<ulong> FreeFramesDownwards()
    {
        var blocks = new List<(ulong Start, ulong Frames)>();
        for (var order = 0; order <= MaxOrder; order++)
            for (var block = _heads[order]; block != Nil; block = _frames[new Addressing.Pfn(block)].Index)
                blocks.Add((block, 1UL << order));
        blocks.Sort();
        for (var i = blocks.Count - 1; i >= 0; i--)
            for (var frame = blocks[i].Start + blocks[i].Frames; frame > blocks[i].Start; frame--)
                yield return frame - 1;
    }

    /// <summary>Takes one free frame out of the block that it lies in.</summary>
    public void TakeFrame(ulong frame)
    {
        for (var order = 0; order <= MaxOrder; order++)
        {
            var block = frame & ~((1UL << order) - 1);
            var info = _frames[new Addressing.Pfn(block)];
            if (block < Start || (info.Flags & FrameFlags.Buddy) == 0 || info.Order != order) continue;
            Unlink(block, order);
            while (order-- > 0)
            {
                var upper = block + (1UL << order);
                Link(frame < upper ? upper : block, order);
                if (frame >= upper) block = upper;
            }

            FreeFrames--;
            return;
        }

        throw new InvalidOperationException($"frame {frame} is not free");
    }

    /// <summary>Gives a block back and joins it with its free buddies.</summary>
    public void Give(Addressing.Pfn pfn, int order)
    {
        FreeFrames += 1UL << order;
        var first = pfn.Value;
        while (order < MaxOrder)
        {
            var buddy = first ^ (1UL << order);
            if (buddy < Start || buddy + (1UL << order) > _watermark) break;
            var info = _frames[new Addressing.Pfn(buddy)];
            if ((info.Flags & FrameFlags.Buddy) == 0 || info.Order != order) break;
            Unlink(buddy, order);
            first = Math.Min(first, buddy);
            order++;
        }

        Link(first, order);
    }

    /// <summary>Sum over the free lists and the untouched rest: for the audit.</summary>
    public ulong CountFree()
    {
        var free = End - _watermark;
        for (var order = 0; order <= MaxOrder; order++)
            for (var block = _heads[order]; block != Nil; block = _frames[new Addressing.Pfn(block)].Index)
                free += 1UL << order;
        return free;
    }

    /// <summary>
    /// Moves untouched frames into the free lists until a block of <paramref name="order"/> is there.
    /// </summary>
    private bool AdvanceWatermark(int order)
    {
        while (_watermark < End)
        {
            // The largest aligned block that starts here and ends within the zone.
            var size = _watermark == 0
                ? MaxOrder
                : Math.Min(MaxOrder, System.Numerics.BitOperations.TrailingZeroCount(_watermark));
            while (_watermark + (1UL << size) > End) size--;
            Link(_watermark, size);
            _watermark += 1UL << size;
            if (size >= order) return true;
        }

        return false;
    }

    private void Link(ulong block, int order)
    {
        var info = _frames[new Addressing.Pfn(block)];
        info.Flags = (info.Flags & FrameFlags.Touched) | FrameFlags.Buddy;
        info.Order = (byte)order;
        info.Index = _heads[order];
        info.Link = Nil;
        if (_heads[order] != Nil) _frames[new Addressing.Pfn(_heads[order])].Link = block;
        _heads[order] = block;
    }

    private void Unlink(ulong block, int order)
    {
        var info = _frames[new Addressing.Pfn(block)];
        if (info.Link == Nil) _heads[order] = info.Index;
        else _frames[new Addressing.Pfn(info.Link)].Index = info.Index;
        if (info.Index != Nil) _frames[new Addressing.Pfn(info.Index)].Link = info.Link;
        info.Flags &= ~FrameFlags.Buddy;
        info.Index = 0;
        info.Link = 0;
    }
}
