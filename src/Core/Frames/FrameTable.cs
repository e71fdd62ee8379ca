using System.Diagnostics;
using System.Runtime.CompilerServices;
using FramePin.Core.Addressing;
using FramePin.Core.Native;

namespace FramePin.Core.Frames;

/// <summary>
/// The records of all frames of a machine, in sparse native memory: counts apart from the rest, so that pinning
/// shuffled frames touches as little memory as it can.
/// </summary>
/// <remarks>
/// A count word, high to low: 32 bits pincount, 32 bits refcount. Small folio: GET +1, PIN +<see cref="PinBias"/> on
/// the refcount. Large folio (order 1 and up): PIN of n frames adds n to both halves in one addition (mm/gup.c:
/// try_grab_folio; Semantics 3.2). Counts are changed under the <see cref="CountGate"/> only; everything in a
/// <see cref="FrameRecord"/> under the turn.
/// </remarks>
internal sealed class FrameTable : IDisposable
{
    /// <summary>GUP_PIN_COUNTING_BIAS.</summary>
    public const int PinBias = 1024;

    private readonly NativeArray<long> _counts;
    private readonly NativeArray<FrameState> _states;
    private readonly NativeArray<FrameInfo> _infos;

    public FrameTable(ulong frames)
    {
        Count = frames;
        _counts = NativeArray<long>.Reserve(frames);
        _states = NativeArray<FrameState>.Reserve(frames);
        _infos = NativeArray<FrameInfo>.Reserve(frames);
    }

    /// <summary>Number of frames with a record: pfn_valid is pfn &lt; Count.</summary>
    public ulong Count { get; }

    /// <summary>The count words, for the pin loops.</summary>
    public NativeArray<long> Counts => _counts;

    /// <summary>Flags and orders, for loops over runs of valid frames.</summary>
    public NativeArray<FrameState> States => _states;

    public FrameRecord this[Pfn pfn]
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get
        {
            if (pfn.Value >= Count) ThrowNoRecord(pfn);
            return new FrameRecord(ref _states[pfn.Value], ref _infos[pfn.Value]);
        }
    }

    /// <summary>pfn_valid: the frame has a record (RAM or reserved), unlike MMIO beyond it.</summary>
    public bool IsValid(Pfn pfn) => pfn.Value < Count;

    /// <summary>First frame of the folio that <paramref name="pfn"/> belongs to (page_folio).</summary>
    public Pfn HeadOf(Pfn pfn)
    {
        var info = this[pfn];
        return (info.Flags & FrameFlags.Tail) == 0 ? pfn : new Pfn(pfn.Value & ~((1UL << info.Order) - 1));
    }

    /// <summary>log2 of the frames of the folio.</summary>
    public int OrderOf(Pfn pfn)
    {
        var info = this[pfn];
        return (info.Flags & (FrameFlags.Head | FrameFlags.Tail)) == 0 ? 0 : info.Order;
    }

    public int RefCount(Pfn head) => (int)_counts[head.Value];

    public int PinCount(Pfn head) => (int)(_counts[head.Value] >> 32);

    /// <summary>folio_maybe_dma_pinned: exact for large folios, refcount at or above the bias for small ones.</summary>
    public bool MaybeDmaPinned(Pfn pfn)
    {
        var head = HeadOf(pfn);
        return OrderOf(head) > 0 ? PinCount(head) > 0 : (uint)RefCount(head) >= PinBias;
    }

    /// <summary>Adds plain references to the folio of <paramref name="pfn"/>. Under the turn.</summary>
    public void AddRefs(Pfn pfn, int count)
    {
        var head = HeadOf(pfn);
        Debug.Assert(RefCount(head) > 0 || count > 0, "reference taken from a free folio");
        _counts[head.Value] += count;
    }

    /// <summary>Sets the counts of a folio that was just allocated: one reference, no pin.</summary>
    public void InitCount(Pfn head) => _counts[head.Value] = 1;

    /// <summary>Sets the counts of a frame to nothing.</summary>
    public void ClearCount(Pfn head) => _counts[head.Value] = 0;

    /// <summary>
    /// Addition of PIN to the count word for <paramref name="frames"/> frames of a folio of <paramref name="order"/>.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static long PinDelta(int order, long frames) =>
        order == 0 ? PinBias * frames : frames | (frames << 32);

    public void Dispose()
    {
        _counts.Release();
        _states.Release();
        _infos.Release();
    }

    private static void ThrowNoRecord(Pfn pfn) =>
        throw new ArgumentOutOfRangeException(nameof(pfn), $"{pfn} has no record");
}
