using System.Collections.Concurrent;
using FramePin.Core.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;

namespace FramePin.Server.LocalMemory;

/// <summary>A local process that has a machine's memory, and the frames that it said it maps. Ends with its connection.</summary>
/// <remarks>Any thread.</remarks>
internal sealed class Attachment(string id, MachineHost host, Lease? lease, bool isReadOnly)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<ulong, FrameHold> _holds = [];
    private ulong _nextHold;
    private bool _hasEnded;

    public string Id { get; } = id;

    public MachineHost Host { get; } = host;

    public Lease? Lease { get; } = lease;

    public bool IsReadOnly { get; } = isReadOnly;

    /// <summary>Holds a vector's frames for a mapping; its number within the attachment.</summary>
    public ulong Hold(VectorRecord record)
    {
        FrameHold hold;
        lock (record.Gate)
        {
            if (record.IsDestroyed) throw Refusals.NotFound("FRAME_VECTOR", Host.VectorName(record.Number));
            hold = Host.Machine.HoldFrames(record.Vector);
        }

        return Hold(hold);
    }

    /// <summary>The attachment holds frames from now on; their number within it. NOT_FOUND, and they are released, when it has ended.</summary>
    public ulong Hold(FrameHold hold)
    {
        lock (_lock)
        {
            if (!_hasEnded)
            {
                _holds.Add(++_nextHold, hold);
                return _nextHold;
            }
        }

        Host.Machine.ReleaseHold(hold);
        throw Attachments.Gone(Id);
    }

    /// <summary>The process has unmapped; false for a hold that is not there.</summary>
    public bool Release(ulong number)
    {
        FrameHold? hold;
        lock (_lock) _holds.Remove(number, out hold);
        if (hold is null) return false;
        Host.Machine.ReleaseHold(hold);
        return true;
    }

    /// <summary>The process is gone, and its mappings with it.</summary>
    public void End()
    {
        List<FrameHold> held;
        lock (_lock)
        {
            _hasEnded = true;
            held = [.. _holds.Values];
            _holds.Clear();
        }

        try
        {
            foreach (var hold in held) Host.Machine.ReleaseHold(hold);
        }
        catch (ObjectDisposedException)
        {
            // The machine was deleted before.
        }
    }
}

/// <summary>The attachments that are open. Any thread.</summary>
internal sealed class Attachments
{
    private readonly ConcurrentDictionary<string, Attachment> _open = new(StringComparer.Ordinal);
    private long _next;

    public int Count => _open.Count;

    /// <summary>The name that the next attachment will have; it is there once its connection is.</summary>
    public string NextId() => $"a{Interlocked.Increment(ref _next)}";

    public void Add(Attachment attachment) => _open[attachment.Id] = attachment;

    public void End(Attachment attachment)
    {
        _open.TryRemove(attachment.Id, out _);
        attachment.End();
    }

    public Attachment Get(string id) => _open.TryGetValue(id, out var attachment) ? attachment : throw Gone(id);

    public static Grpc.Core.RpcException Gone(string id) => Refusals.NotFound("ATTACHMENT", Names.Attachment(id));
}
