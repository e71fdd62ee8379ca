using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.V1;

namespace FramePin.Server.Sessions;

/// <summary>A client's stream session: what it was answered and has not acknowledged.</summary>
/// <remarks>Used by one stream at a time; <see cref="Gate"/> keeps a second one waiting.</remarks>
internal sealed class StreamSession : IDisposable
{
    private readonly Queue<PinBatchResult> _results = new();

    public SemaphoreSlim Gate { get; } = new(1, 1);

    /// <summary>Sequence of the last message worked off.</summary>
    public ulong Last { get; private set; }

    /// <summary>
    /// The result of a message that was worked off before; null when it was acknowledged and is gone.
    /// </summary>
    public PinBatchResult? Remembered(ulong sequence) => _results.FirstOrDefault(result => result.Sequence == sequence);

    /// <summary>Refuses a message whose result could not be kept.</summary>
    public void CheckRoom(DaemonLimits limits)
    {
        if (_results.Count >= limits.UnacknowledgedMax)
            throw Refusals.Limit("unacknowledged_max", (ulong)limits.UnacknowledgedMax, (ulong)_results.Count + 1);
    }

    public void Acknowledge(ulong sequence)
    {
        while (_results.TryPeek(out var oldest) && oldest.Sequence <= sequence) _results.Dequeue();
    }

    public void Keep(PinBatchResult result)
    {
        Last = result.Sequence;
        _results.Enqueue(result);
    }

    public void Dispose() => Gate.Dispose();
}

/// <summary>The sessions of a machine's clients, the longest unused forgotten first. Any thread.</summary>
internal sealed class StreamSessions(DaemonLimits limits)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<string, LinkedListNode<(string Name, StreamSession Session)>> _byName = new(
        StringComparer.Ordinal);
    private readonly LinkedList<(string Name, StreamSession Session)> _byUse = new();

    public StreamSession Get(string name)
    {
        var most = limits.RequestIdLengthMax;
        if (name.Length > most) throw Refusals.Limit("request_id_length_max", (ulong)most, (ulong)name.Length);
        lock (_lock)
        {
            if (_byName.TryGetValue(name, out var known))
            {
                _byUse.Remove(known);
                _byUse.AddLast(known);
                return known.Value.Session;
            }

            var session = new StreamSession();
            Add(name, session);
            return session;
        }
    }

    /// <summary>
    /// Notes the use of a session that its stream has from <see cref="Get"/>. One that was forgotten meanwhile is
    /// remembered again, unless another has taken its name.
    /// </summary>
    public void Touch(string name, StreamSession session)
    {
        lock (_lock)
        {
            if (!_byName.TryGetValue(name, out var known)) Add(name, session);
            else if (known.Value.Session == session && known != _byUse.Last)
            {
                _byUse.Remove(known);
                _byUse.AddLast(known);
            }
        }
    }

    /// <summary>Remembers a session in place of the one longest unused. Under the lock.</summary>
    private void Add(string name, StreamSession session)
    {
        if (_byName.Count >= limits.StreamSessionsMax)
        {
            _byName.Remove(_byUse.First!.Value.Name);
            _byUse.RemoveFirst();
        }

        _byName[name] = _byUse.AddLast((name, session));
    }
}
