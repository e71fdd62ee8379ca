using System.Collections.Concurrent;
using FramePin.Core.Backing;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using Grpc.Core;

namespace FramePin.Server.Machines;

/// <summary>A machine under its name, with the names of everything in it.</summary>
/// <remarks>Any thread. Names that the daemon chooses count up from 1 and are never used twice.</remarks>
internal sealed class MachineHost : IDisposable
{
    private readonly ConcurrentDictionary<string, AddressSpace> _spaces = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, MemoryFile> _files = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, Device> _devices = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<object, Lease> _leases = new();
    private readonly ConcurrentDictionary<ulong, VectorRecord> _vectors = new();
    private readonly ConcurrentDictionary<ParkedPin, TaskCompletionSource<PinOutcome>> _waiting = new();
    private readonly Lock _naming = new();
    private readonly CancellationTokenSource _deleted = new();
    private readonly DaemonLimits _limits;
    private int _vectorCount;
    private ulong _nextVector;
    private int _nextName;

    public MachineHost(
        string id, MachineOptions options, DaemonLimits limits, TimeProvider time, V1.MachineSpec? spec = null)
    {
        Watches = new InvalidationWatches(limits, time);
        QuarantineBytesMax = spec is { QuarantineBytesMax: > 0 and var most } ? most : limits.QuarantineBytesMax;
        KillsHolders = spec?.QuarantinePolicy == V1.QuarantinePolicy.Kill;
        Id = id;
        _limits = limits;
        Machine = new Machine(id, options);
        Requests = new RequestLog(limits);
        Deleted = _deleted.Token;
        Faults = new FaultHandlers(Machine, SpaceName, parked => TakeUp(parked, isKilled: false), limits, time);
    }

    public string Id { get; }

    public Machine Machine { get; }

    public RequestLog Requests { get; }

    /// <summary>Who is asked before memory goes.</summary>
    public InvalidationWatches Watches { get; }

    /// <summary>Cancelled when the machine is deleted: the streams that serve or watch it end with NOT_FOUND.</summary>
    public CancellationToken Deleted { get; }

    /// <summary>Who handles faults of devices and ranges.</summary>
    public FaultHandlers Faults { get; }

    /// <summary>Most bytes of free memory kept back for local processes.</summary>
    public ulong QuarantineBytesMax { get; }

    /// <summary>Whoever holds the most past that is killed, and not fenced.</summary>
    public bool KillsHolders { get; }

    /// <summary>The daemon is ending: pins that wait are told so.</summary>
    public bool IsStopping { get; private set; }

    public IEnumerable<AddressSpace> Spaces => _spaces.Values.OrderBy(space => space.Id);

    public IEnumerable<KeyValuePair<string, MemoryFile>> Files => _files.OrderBy(pair => pair.Value.Id);

    public IEnumerable<KeyValuePair<string, Device>> Devices => _devices.OrderBy(pair => pair.Value.Id);

    public string SpaceName(AddressSpace space) => Names.Child(Id, Names.AddressSpaces, space.Name);

    public string VectorName(ulong number) => $"machines/{Id}/{Names.FrameVectors}/{number}";

    public AddressSpace Space(string id) =>
        _spaces.TryGetValue(id, out var space)
            ? space
            : throw Refusals.NotFound("ADDRESS_SPACE", Names.Child(Id, Names.AddressSpaces, id));

    public MemoryFile File(string id) =>
        _files.TryGetValue(id, out var file) ? file : throw Refusals.NotFound("FILE", Names.Child(Id, Names.Files, id));

    public Device Device(string id) =>
        _devices.TryGetValue(id, out var device)
            ? device
            : throw Refusals.NotFound("DEVICE", Names.Child(Id, Names.Devices, id));

    public VectorRecord? TryVector(ulong number) => _vectors.GetValueOrDefault(number);

    public AddressSpace AddSpace(string wantedId, Func<string, AddressSpace?> make) =>
        Add(_spaces, wantedId, "as", Names.AddressSpaces, "address_spaces_max", _limits.AddressSpacesMax, make);

    public (string Id, MemoryFile File) AddFile(string wantedId, Func<string, MemoryFile?> make)
    {
        var id = "";
        var file = Add(_files, wantedId, "f", Names.Files, "files_max", _limits.FilesMax, chosen => make(id = chosen));
        return (id, file);
    }

    public (string Id, Device Device) AddDevice(string wantedId, Func<string, Device?> make)
    {
        var id = "";
        var device = Add(
            _devices, wantedId, "d", Names.Devices, "devices_max", _limits.DevicesMax, chosen => make(id = chosen));
        return (id, device);
    }

    /// <summary>
    /// A device or an address space goes with its lease, if it has one. A lease that has ended meanwhile takes it
    /// along: NOT_FOUND.
    /// </summary>
    public void HangOn(Lease? lease, object owned, Action remove)
    {
        if (lease is null) return;
        _leases[owned] = lease;
        if (lease.TryAdd(owned, remove)) return;
        remove();
        throw LeaseRegistry.Gone(lease.Id);
    }

    /// <summary>The device loses its name; its memory goes with the last mapping.</summary>
    public void RemoveDevice(string id, Device device)
    {
        if (!_devices.TryRemove(new KeyValuePair<string, Device>(id, device))) return;
        if (_leases.TryRemove(device, out var lease)) lease.Forget(device);
        try
        {
            Machine.DestroyDevice(device);
        }
        catch (ObjectDisposedException)
        {
            // The machine was deleted before, and the device with it.
        }
    }

    /// <summary>
    /// A vector that holds a device's pages, not published yet. NOT_FOUND when the device was deleted meanwhile.
    /// </summary>
    public VectorRecord ExportDevice(Device device)
    {
        Reserve();
        if (Machine.CreateVector(device) is { } vector)
            return new VectorRecord(Interlocked.Increment(ref _nextVector), vector);
        Interlocked.Decrement(ref _vectorCount);
        throw Refusals.NotFound("DEVICE", device.Name);
    }

    /// <summary>
    /// The process ends (exit_mmap), and its address space loses its name. False: it has exited before.
    /// </summary>
    public bool ExitSpace(AddressSpace space)
    {
        if (_leases.TryRemove(space, out var lease)) lease.Forget(space);
        try
        {
            var hasExited = Machine.Exit(space) == Core.Abi.Errno.None;
            if (hasExited) _spaces.TryRemove(space.Name, out _);
            Faults.Drop(space);
            return hasExited;
        }
        catch (ObjectDisposedException)
        {
            // The machine was deleted before, and everything in it.
            return false;
        }
    }

    public void RemoveFile(string id) => _files.TryRemove(id, out _);

    /// <summary>A new vector of <paramref name="slots"/> slots under the next number, not published yet.</summary>
    public VectorRecord CreateVector(ulong slots)
    {
        if (slots == 0) throw Refusals.Bad("pages", "must be at least 1");
        if (slots > _limits.VectorPagesMax) throw Refusals.Limit("vector_pages_max", _limits.VectorPagesMax, slots);
        Reserve();
        return new VectorRecord(Interlocked.Increment(ref _nextVector), Machine.CreateVector((long)slots)!);
    }

    /// <summary>Counts one vector more. RESOURCE_EXHAUSTED at the limit.</summary>
    private void Reserve()
    {
        if (Interlocked.Increment(ref _vectorCount) <= _limits.FrameVectorsMax) return;
        Interlocked.Decrement(ref _vectorCount);
        throw Refusals.Limit("frame_vectors_max", (ulong)_limits.FrameVectorsMax, (ulong)_limits.FrameVectorsMax + 1);
    }

    /// <summary>
    /// Gives a vector its name and hangs it on its lease. A lease that has ended meanwhile takes the vector along:
    /// NOT_FOUND, and nothing is held.
    /// </summary>
    public void Publish(VectorRecord record)
    {
        _vectors[record.Number] = record;
        if (record.Lease is not { } lease || lease.TryAdd(this, record)) return;
        Release(record, dirty: false, out _);
        throw LeaseRegistry.Gone(lease.Id);
    }

    /// <summary>Why nobody may use a vector now: it is gone, or a pin is filling it.</summary>
    public RpcException NotReady(VectorRecord record) =>
        record.IsFilling
            ? Refusals.State("PIN_IN_PROGRESS", "a pin is still filling this vector: resume or cancel it first")
            : Refusals.NotFound("FRAME_VECTOR", VectorName(record.Number));

    /// <summary>Puts what the vector holds and destroys it. False: somebody else has, or a pin is filling it.</summary>
    public bool Release(VectorRecord record, bool dirty, out long frames)
    {
        lock (record.Gate)
        {
            frames = record.Vector.Count;
            if (record.IsDestroyed || record.IsFilling) return false;
            record.IsDestroyed = true;
            if (dirty) Machine.PutVaddrFramesDirty(record.Vector);
            else Machine.PutVaddrFrames(record.Vector);
            Machine.DestroyVector(record.Vector);
        }

        record.Lease?.Forget(this, record);
        _vectors.TryRemove(record.Number, out _);
        Interlocked.Decrement(ref _vectorCount);
        return true;
    }

    /// <summary>
    /// Up to <paramref name="most"/> vectors with numbers above <paramref name="after"/>, oldest first.
    /// </summary>
    public List<VectorRecord> VectorsAfter(ulong after, int most) =>
        [.. _vectors.Values.Where(record => record.Number > after).OrderBy(record => record.Number).Take(most)];

    /// <summary>Waits until a parked pin has come to its end; a cancelled call is a fatal signal to it.</summary>
    public async Task<PinOutcome> WaitAsync(ParkedPin parked, CancellationToken cancelled)
    {
        await using var registration = cancelled.Register(() => TakeUp(parked, isKilled: true)).ConfigureAwait(false);
        if (IsStopping) TakeUp(parked, isKilled: true);
        var outcome = await Waiting(parked).Task.ConfigureAwait(false);
        _waiting.TryRemove(parked, out _);
        return outcome.Parked is { } again ? await WaitAsync(again, cancelled).ConfigureAwait(false) : outcome;
    }

    /// <summary>Lets every parked pin go on; returns how many there were.</summary>
    public int ResumeAll() => Machine.ParkedPins().Count(parked => TakeUp(parked, isKilled: false));

    /// <summary>Ends every wait of a parked pin: nobody will resume them any more.</summary>
    public void StopWaiting()
    {
        IsStopping = true;
        foreach (var parked in Machine.ParkedPins()) TakeUp(parked, isKilled: true);
        Faults.StopWaiting();
    }

    /// <summary>
    /// Whoever comes first, the pin that waits or the one who resumes it, makes the place where they meet.
    /// </summary>
    private TaskCompletionSource<PinOutcome> Waiting(ParkedPin parked) =>
        _waiting.GetOrAdd(parked,
            static _ => new TaskCompletionSource<PinOutcome>(TaskCreationOptions.RunContinuationsAsynchronously));

    private bool TakeUp(ParkedPin parked, bool isKilled)
    {
        if (!Machine.TryResume(parked, isKilled, out var outcome)) return false;
        Waiting(parked).SetResult(outcome);
        return true;
    }

    public void Dispose()
    {
        StopWaiting();
        Machine.Dispose();
        _deleted.Cancel();
        _deleted.Dispose();
    }

    private T Add<T>(
        ConcurrentDictionary<string, T> table, string wantedId, string prefix, string collection, string limit,
        int most,
        Func<string, T?> make)
        where T : class
    {
        lock (_naming)
        {
            if (table.Count >= most) throw Refusals.Limit(limit, (ulong)most, (ulong)table.Count + 1);
            var id = wantedId;
            if (id.Length == 0)
            {
                do id = $"{prefix}{++_nextName}";
                while (table.ContainsKey(id));
            }
            else
            {
                Names.CheckId(id, _limits, "id");
                if (table.ContainsKey(id)) throw Refusals.Exists(Names.Child(Id, collection, id));
            }

            var made = make(id) ?? throw Refusals.Errno(collection, Core.Abi.Errno.ENOMEM);
            table[id] = made;
            return made;
        }
    }
}
