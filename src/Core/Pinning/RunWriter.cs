using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using FramePin.Core.Addressing;

namespace FramePin.Core.Pinning;

/// <summary>Appends frames to a vector, joining consecutive ones of a kind into runs.</summary>
/// <remarks>
/// A ref struct on the pin's stack; <see cref="Finish"/> hands the counts back to the vector. The last run lies in its
/// slot already and grows there: one more frame is one more in the slot's low bits.
/// </remarks>
internal ref struct RunWriter
{
    private readonly FrameVector _vector;
    private readonly Span<ulong> _slots;
    private int _runs;
    private ulong _next;

    private RunWriter(FrameVector vector, int runs, long frames)
    {
        _vector = vector;
        _slots = vector.Slots;
        _runs = runs;
        Frames = frames;
        _next = Following();
    }

    /// <summary>Writes behind the frames that the vector holds.</summary>
    public RunWriter(FrameVector vector)
        : this(vector, vector.RunCount, vector.Count)
    {
    }

    /// <summary>
    /// Writes from the first slot on. The caller knows that the vector holds no reference: <see cref="Finish"/> forgets
    /// its earlier frames.
    /// </summary>
    public static RunWriter FromStart(FrameVector vector) => new(vector, 0, 0);

    /// <summary>Frames of the vector, once <see cref="Finish"/> is called.</summary>
    public long Frames { get; private set; }

    /// <summary>Appends <paramref name="count"/> frames from <paramref name="first"/> on.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Append(ulong first, ulong count, bool isLarge)
    {
        Frames += (long)count;
        var next = first | (isLarge ? LargeMark : 0);
        if (next == _next && (_slots[_runs - 1] & FrameRun.CountMask) + count < FrameRun.MaxCount)
            _slots[_runs - 1] += count;
        else
            _slots[_runs++] = FrameRun.Pack(first, count, isLarge);
        _next = next + count;
    }

    /// <summary>
    /// Appends eight small frames that follow neither each other nor the last run. <paramref name="packed"/> holds a
    /// finished run of one frame in each lane.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void AppendScattered(Vector512<ulong> packed)
    {
        packed.CopyTo(_slots[_runs..]);
        _runs += Vector512<ulong>.Count;
        Frames += Vector512<ulong>.Count;
        _next = (packed[Vector512<ulong>.Count - 1] >> FrameRun.CountBits) + 1;
    }

    /// <summary>Takes back the last <paramref name="count"/> frames, each of which has a run of its own.</summary>
    public void RemoveScattered(int count)
    {
        _runs -= count;
        Frames -= count;
        _next = Following();
    }

    /// <summary>Hands the counts to the vector.</summary>
    public readonly void Finish()
    {
        _vector.RunCount = _runs;
        _vector.Count = Frames;
    }

    /// <summary>Keeps the frame behind a run of large folios apart from the same frame of small ones.</summary>
    private const ulong LargeMark = 1UL << 62;

    /// <summary>The frame that would join the last run.</summary>
    private readonly ulong Following()
    {
        if (_runs == 0) return ulong.MaxValue;
        var run = FrameRun.FromPacked(_slots[_runs - 1]);
        return (run.First.Value + run.Count) | (run.IsLarge ? LargeMark : 0);
    }
}
