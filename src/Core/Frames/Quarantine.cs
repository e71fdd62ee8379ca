using FramePin.Core.Addressing;
using FramePin.Core.Native;

namespace FramePin.Core.Frames;

/// <summary>
/// Frames that a process outside may have mapped. When such a frame becomes free, it is kept from the allocator until
/// its last hold ends, so that a late store reaches no other owner. The counts of the emulated kernel stay the same.
/// </summary>
/// <remarks>Guarded by the turn. Four bytes a frame of sparse native memory, touched where frames are held.</remarks>
internal sealed class Quarantine(ulong frames) : IDisposable
{
    private readonly NativeArray<uint> _holds = NativeArray<uint>.Reserve(frames);
    private readonly Dictionary<ulong, int> _waiting = [];

    /// <summary>Holds of single frames: while there are none, nothing has to be looked up.</summary>
    private ulong _held;

    /// <summary>Free frames that are kept back.</summary>
    public ulong Frames { get; private set; }

    public void Hold(Pfn first, ulong count)
    {
        _held += count;
        foreach (ref var hold in _holds.Slice(first.Value, (int)count)) hold++;
    }

    /// <summary>A folio of 2^<paramref name="order"/> frames became free. True: it is kept back.</summary>
    public bool Catches(Pfn head, int order)
    {
        if (!IsHeld(head.Value, order)) return false;
        _waiting.Add(head.Value, order);
        Frames += 1UL << order;
        return true;
    }

    /// <summary>Frames of a range that are free and kept back.</summary>
    public ulong WaitingIn(Pfn first, ulong count)
    {
        var frames = 0UL;
        foreach (var (head, order) in _waiting)
        {
            var from = Math.Max(head, first.Value);
            var to = Math.Min(head + (1UL << order), first.Value + count);
            if (from < to) frames += to - from;
        }

        return frames;
    }

    /// <summary>Holds are given up; the folios that may go to the allocator now, with their orders.</summary>
    public List<(Pfn Head, int Order)> Release(Pfn first, ulong count)
    {
        _held -= count;
        foreach (ref var hold in _holds.Slice(first.Value, (int)count)) hold--;
        if (_waiting.Count == 0) return [];
        var freed = new List<(Pfn, int)>();
        foreach (var (head, order) in _waiting)
        {
            var overlaps = head < first.Value + count && first.Value < head + (1UL << order);
            if (overlaps && !IsHeld(head, order)) freed.Add((new Pfn(head), order));
        }

        freed.Sort(static (a, b) => a.Item1.Value.CompareTo(b.Item1.Value));
        foreach (var (head, order) in freed)
        {
            _waiting.Remove(head.Value);
            Frames -= 1UL << order;
        }

        return freed;
    }

    private bool IsHeld(ulong head, int order)
    {
        if (_held == 0) return false;
        for (var pfn = head; pfn < head + (1UL << order); pfn++)
            if (_holds[pfn] > 0) return true;
        return false;
    }

    public void Dispose() => _holds.Release();
}
