namespace FramePin.Drivers.VideoBuf2;

/// <summary>Where the buffers of a queue are, and what in the queue's books contradicts itself.</summary>
/// <param name="Dequeued">Buffers that are the application's.</param>
/// <param name="InRequest">Buffers that are bound to a request.</param>
/// <param name="Queued">Buffers that wait for the driver.</param>
/// <param name="Active">Buffers that the driver has.</param>
/// <param name="Done">Buffers that wait for DQBUF, those in error included.</param>
/// <param name="Findings">Contradictions; none for a sound queue.</param>
public sealed record Vb2Books(
    int Dequeued, int InRequest, int Queued, int Active, int Done, IReadOnlyList<string> Findings)
{
    /// <summary>All buffers.</summary>
    public int All => Dequeued + InRequest + Queued + Active + Done;
}

/// <summary>The books of a queue.</summary>
public sealed partial class Vb2Queue
{
    /// <summary>
    /// Counts the buffers by place and holds the lists of the queue against their states. Any time: it waits for the
    /// ioctl under way.
    /// </summary>
    /// <param name="cancellationToken">Gives the waiting for the lock up.</param>
    public async Task<Vb2Books> AuditAsync(CancellationToken cancellationToken = default)
    {
        await _lock.WaitAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            lock (_done) return Audit();
        }
        finally
        {
            _lock.Release();
        }
    }

    /// <summary>Under both locks.</summary>
    private Vb2Books Audit()
    {
        var findings = new List<string>();
        foreach (var buffer in _buffers.Values)
        {
            var isQueued = buffer.State is Vb2State.Queued or Vb2State.Active or Vb2State.Done or Vb2State.Error;
            var isDone = buffer.State is Vb2State.Done or Vb2State.Error;
            Hold(_queued, buffer, isQueued, "the queued list");
            Hold(_doneList, buffer, isDone, "the done list");
            if (buffer.State == Vb2State.Preparing) findings.Add($"buffer {buffer.Index} is being prepared by nobody");
            if (isQueued && !buffer.IsPrepared) findings.Add($"buffer {buffer.Index} is queued without memory");
            if (buffer.Memory != Memory) findings.Add($"buffer {buffer.Index} is {buffer.Memory} in a {Memory} queue");
        }

        foreach (var buffer in _queued.Concat(_doneList).Distinct().Where(buffer => !IsKnown(buffer)))
            findings.Add($"buffer {buffer.Index} is listed and not the queue's");
        var active = In(Vb2State.Active);
        var done = In(Vb2State.Done) + In(Vb2State.Error);
        if (!_hasStarted && active + done > 0)
            findings.Add($"{active} buffers active and {done} done without a stream");
        if (_buffers.Count == 0 && _isStreaming && !Options.SupportsRemove) findings.Add("a stream without buffers");
        return new Vb2Books(
            In(Vb2State.Dequeued) + In(Vb2State.Preparing), In(Vb2State.InRequest), In(Vb2State.Queued), active, done,
            findings);

        int In(Vb2State state) => _buffers.Values.Count(buffer => buffer.State == state);

        bool IsKnown(Vb2Buffer buffer) => _buffers.TryGetValue(buffer.Index, out var known) && known == buffer;

        void Hold(List<Vb2Buffer> list, Vb2Buffer buffer, bool belongs, string name)
        {
            var times = list.Count(other => other == buffer);
            if (times != (belongs ? 1 : 0))
                findings.Add($"buffer {buffer.Index}, {buffer.State}, {times} times in {name}");
        }
    }
}
