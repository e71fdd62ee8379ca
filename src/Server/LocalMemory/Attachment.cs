using System.Collections.Concurrent;
using FramePin.Core.Inspection;
using FramePin.Core.Pinning;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Native;
using FramePin.Server.Sessions;

namespace FramePin.Server.LocalMemory;

/// <summary>
/// A local process that has a machine's memory, and the frames that it said it maps. Nothing more can be mapped once
/// its connection or its lease has ended; what it may have mapped still is held until it says so, or is dead.
/// </summary>
/// <remarks>Any thread.</remarks>
internal sealed class Attachment : IFrameHolder, IDisposable
{
    private readonly Lock _lock = new();
    private readonly CancellationTokenSource _fenced = new();
    private readonly Dictionary<ulong, FrameHold> _holds = [];
    private readonly TaskCompletionSource _empty = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private ulong _nextHold;
    private bool _isRevoked;

    public Attachment(string name, MachineHost host, Lease? lease, bool isReadOnly)
    {
        Name = name;
        Host = host;
        Lease = lease;
        IsReadOnly = isReadOnly;
        Fenced = _fenced.Token;
    }

    /// <summary>"machines/{machine}/attachments/{attachment}".</summary>
    public string Name { get; }

    public MachineHost Host { get; }

    public Lease? Lease { get; }

    public bool IsReadOnly { get; }

    /// <summary>The process at the other end; null while nobody has shown the ticket.</summary>
    public ProcessHandle? Process { get; set; }

    /// <summary>Number of that process, for people.</summary>
    public int Pid { get; set; }

    /// <summary>Cancelled when its frames were taken from it: its connection ends.</summary>
    public CancellationToken Fenced { get; }

    /// <summary>Completed when it is revoked and nothing is mapped any more.</summary>
    public Task Emptied => _empty.Task;

    /// <summary>Free frames that only this attachment and its like keep from the allocator.</summary>
    public ulong QuarantinedFrames
    {
        get
        {
            List<FrameHold> holds;
            lock (_lock) holds = [.. _holds.Values];
            return Host.Machine.Query<QuarantinedQuery, ulong>(new(holds));
        }
    }

    /// <summary>Holds a vector's frames for a mapping; its number within the attachment.</summary>
    public ulong Hold(VectorRecord record)
    {
        FrameHold hold;
        lock (record.Gate)
        {
            hold = Host.Machine.HoldFrames(record.Content);
        }

        return Hold(hold);
    }

    /// <summary>
    /// The attachment holds frames from now on; their number within it. NOT_FOUND, and they are released, when it has
    /// ended.
    /// </summary>
    public ulong Hold(FrameHold hold)
    {
        lock (_lock)
        {
            if (!_isRevoked)
            {
                _holds.Add(++_nextHold, hold);
                return _nextHold;
            }
        }

        Host.Machine.ReleaseHold(hold);
        throw Attachments.Gone(Name);
    }

    /// <summary>The process has unmapped; false for a hold that is not there.</summary>
    public bool Release(ulong number)
    {
        FrameHold? hold;
        bool isLast;
        lock (_lock)
        {
            _holds.Remove(number, out hold);
            isLast = _isRevoked && _holds.Count == 0;
        }

        if (hold is null) return false;
        Host.Machine.ReleaseHold(hold);
        if (isLast) _empty.TrySetResult();
        return true;
    }

    /// <summary>Nothing more can be mapped. False: something is mapped still, as far as is known.</summary>
    public bool Revoke()
    {
        lock (_lock)
        {
            _isRevoked = true;
            if (_holds.Count > 0) return false;
        }

        _empty.TrySetResult();
        return true;
    }

    /// <summary>Takes its frames from it, whatever it does with them, and ends its connection.</summary>
    public void Fence()
    {
        End();
        _fenced.Cancel();
    }

    public void Dispose()
    {
        Process?.Dispose();
        _fenced.Dispose();
    }

    /// <summary>The process is gone, and its mappings with it; or it is fenced.</summary>
    public void End()
    {
        List<FrameHold> held;
        lock (_lock)
        {
            _isRevoked = true;
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

        _empty.TrySetResult();
    }
}

/// <summary>The attachments that are open, of all machines. Any thread.</summary>
internal sealed class Attachments
{
    private readonly ConcurrentDictionary<string, Attachment> _open = new(StringComparer.Ordinal);

    public int Count => _open.Count;

    public IEnumerable<Attachment> Of(MachineHost host) => _open.Values.Where(attachment => attachment.Host == host);

    public void Add(Attachment attachment) => _open[attachment.Name] = attachment;

    public void End(Attachment attachment)
    {
        attachment.End();
        _open.TryRemove(attachment.Name, out _);
    }

    /// <summary>The attachment of a request's field. NOT_FOUND when it is not open.</summary>
    public Attachment Get(string name, string field = "attachment") => Find(name, field) ?? throw Gone(name);

    /// <summary>
    /// The attachment of a request's field; null when it is not open. INVALID_ARGUMENT for another thing's name.
    /// </summary>
    public Attachment? Find(string name, string field = "attachment")
    {
        Names.ChildIds(name, Names.Attachments, field);
        return _open.GetValueOrDefault(name);
    }

    public static Grpc.Core.RpcException Gone(string name) => Refusals.NotFound("ATTACHMENT", name);
}
