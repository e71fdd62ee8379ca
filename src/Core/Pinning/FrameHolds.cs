using FramePin.Core.Addressing;
using FramePin.Core.Kernel;

namespace FramePin.Core.Pinning;

/// <summary>The holds of a machine, and the frames that they keep in quarantine.</summary>
/// <remarks>
/// A hold on a vector with references, and its end before the vector is put, take the lock here and no turn.
/// Changes of the quarantine happen under the turn too. Lock order: turn, then this lock. No pin inside the gate
/// takes it.
/// </remarks>
internal sealed class FrameHolds
{
    private readonly Lock _lock = new();
    /// <summary>Numbers from here on are given out without a turn, to holds whose vector is put.</summary>
    private const long FirstDetached = 1L << 62;

    /// <summary>Holds by number, in quarantine or about to be.</summary>
    private readonly Dictionary<HoldId, FrameHold> _numbered = [];

    /// <summary>Numbers of detached holds that ended before their frames were in quarantine.</summary>
    private readonly HashSet<HoldId> _endedEarly = [];
    private long _next;
    private long _nextDetached = FirstDetached;

    /// <summary>
    /// A hold that rides on the references of a vector; null when the vector has none. Needs no turn.
    /// </summary>
    public FrameHold? TryHold(FrameVector vector)
    {
        lock (_lock) return vector.GotRef ? new FrameHold(vector) : null;
    }

    /// <summary>
    /// Ends a hold that rides on its vector. False: its frames are in quarantine, and the turn is needed. Needs no
    /// turn.
    /// </summary>
    public bool TryRelease(FrameHold hold)
    {
        lock (_lock)
        {
            if (hold.IsReleased) return true;
            if (hold.Vector is not { } vector) return false;
            hold.IsReleased = true;
            if (vector.FirstHold == hold) vector.FirstHold = hold.NextOfVector;
            for (var other = vector.FirstHold; other is not null; other = other.NextOfVector)
                if (other.NextOfVector == hold) other.NextOfVector = hold.NextOfVector;
            (hold.Vector, hold.NextOfVector) = (null, null);
            return true;
        }
    }

    /// <summary>
    /// Takes the holds off a vector that is about to be put, and numbers them. Null when there are none. Needs no turn;
    /// the caller runs the command.
    /// </summary>
    public QuarantineVectorCall? Detach(FrameVector vector)
    {
        if (vector.FirstHold is null) return null;
        lock (_lock)
        {
            var first = _nextDetached;
            while (vector.FirstHold is { } hold)
            {
                vector.FirstHold = hold.NextOfVector;
                (hold.Vector, hold.NextOfVector) = (null, null);
                hold.Id = new HoldId(_nextDetached++);
                _numbered.Add(hold.Id, hold);
            }

            var count = (int)(_nextDetached - first);
            return count == 0 ? null : new QuarantineVectorCall(vector.Id, new HoldId(first), count);
        }
    }

    /// <summary>
    /// Puts the frames of detached holds into quarantine; a replay makes the holds here. Under the turn.
    /// </summary>
    public void Quarantine(KernelState kernel, FrameVector vector, HoldId first, int count)
    {
        var runs = RamOf(kernel, vector);
        lock (_lock)
        {
            _nextDetached = Math.Max(_nextDetached, first.Value + count);
            for (var i = 0; i < count; i++)
            {
                var id = new HoldId(first.Value + i);
                if (_endedEarly.Remove(id)) continue;
                if (!_numbered.TryGetValue(id, out var hold)) _numbered[id] = hold = new FrameHold(id, runs);
                hold.Runs = runs;
                Count(kernel, hold);
            }
        }
    }

    /// <summary>Puts frames into quarantine under a hold of their own. Under the turn.</summary>
    public FrameHold Quarantine(KernelState kernel, IReadOnlyList<FrameRun> runs)
    {
        lock (_lock)
        {
            var hold = new FrameHold(new HoldId(++_next), runs);
            _numbered.Add(hold.Id, hold);
            Count(kernel, hold);
            return hold;
        }
    }

    /// <summary>
    /// Ends a quarantine; frames that waited for it go to the allocator. False: it has ended. Under the turn.
    /// </summary>
    public bool Release(KernelState kernel, HoldId id)
    {
        lock (_lock)
        {
            _numbered.Remove(id, out var hold);
            // A detached hold may end before the command that puts its frames into quarantine has run.
            if (hold is not { Runs.Count: > 0 } && id.Value >= FirstDetached) _endedEarly.Add(id);
            if (hold is null) return false;
            hold.IsReleased = true;
            foreach (var run in hold.Runs) kernel.Memory.Unhold(run.First, run.Count);
            return true;
        }
    }

    /// <summary>The frames of a vector that have a struct page.</summary>
    public static FrameRun[] RamOf(KernelState kernel, FrameVector vector)
    {
        var runs = vector.Runs.ToArray();
        return Array.FindAll(runs, run => kernel.Memory.Frames.IsValid(run.First));
    }

    private static void Count(KernelState kernel, FrameHold hold)
    {
        foreach (var run in hold.Runs) kernel.Memory.Quarantine.Hold(run.First, run.Count);
    }
}
