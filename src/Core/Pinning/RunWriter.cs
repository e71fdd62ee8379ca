using System.Runtime.CompilerServices;
using FramePin.Core.Addressing;

namespace FramePin.Core.Pinning;

/// <summary>Appends frames to a vector, joining consecutive ones of a kind into runs.</summary>
/// <remarks>A ref struct on the pin's stack; <see cref="Finish"/> hands the counts back to the vector.</remarks>
internal ref struct RunWriter
{
    private readonly FrameVector _vector;
    private readonly Span<ulong> _slots;
    private int _runs;
    private ulong _first;
    private ulong _count;
    private bool _isLarge;

    public RunWriter(FrameVector vector)
    {
        _vector = vector;
        _slots = vector.Slots;
        _runs = vector.RunCount;
        Frames = vector.Count;
        if (_runs == 0) return;
        // Take the last run up again, so that a resumed pin joins where it left off.
        var last = FrameRun.FromPacked(_slots[--_runs]);
        (_first, _count, _isLarge) = (last.First.Value, last.Count, last.IsLarge);
    }

    /// <summary>Frames written, those that the vector held already included.</summary>
    public long Frames { get; private set; }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Append(ulong first, ulong count, bool isLarge)
    {
        Frames += (long)count;
        if (first == _first + _count && isLarge == _isLarge && _count != 0 && _count + count <= FrameRun.MaxCount)
        {
            _count += count;
            return;
        }

        if (_count != 0) _slots[_runs++] = FrameRun.Pack(_first, _count, _isLarge);
        (_first, _count, _isLarge) = (first, count, isLarge);
    }

    /// <summary>Writes the last run and the counts.</summary>
    public void Finish()
    {
        if (_count != 0) _slots[_runs++] = FrameRun.Pack(_first, _count, _isLarge);
        _vector.RunCount = _runs;
        _vector.Count = Frames;
        _count = 0;
    }
}
