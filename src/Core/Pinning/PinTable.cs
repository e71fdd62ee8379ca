using FramePin.Core.Addressing;
using FramePin.Core.Kernel;

namespace FramePin.Core.Pinning;

/// <summary>The frame vectors of a machine by number, its pins that wait, and its holds.</summary>
/// <remarks>A lock guards the vectors, from any thread. The turn guards the rest.</remarks>
internal sealed class PinTable
{
    /// <summary>Pins of one address space that may wait at once.</summary>
    public const int MaxParkedPerSpace = 64;

    private readonly Lock _lock = new();
    private readonly Dictionary<VectorId, FrameVector> _vectors = [];
    private readonly List<ParkedPin> _parked = [];
    private ulong _next;

    public FrameHolds Holds { get; } = new();

    /// <summary>The pins of a machine.</summary>
    public static PinTable Of(KernelState kernel) => (PinTable)kernel.Pins!;

    /// <summary>Pins that wait, oldest first.</summary>
    public IReadOnlyList<ParkedPin> Parked => _parked;

    /// <summary>frame_vector_create: null for 0 slots and above the cap.</summary>
    public FrameVector? CreateVector(long slots)
    {
        if (FrameVectors.Create(slots) is not { } vector) return null;
        lock (_lock)
        {
            vector.Id = new VectorId(++_next);
            _vectors.Add(vector.Id, vector);
        }

        return vector;
    }

    /// <summary>A vector under a number that another machine gave it: for a replay.</summary>
    public FrameVector CreateVector(VectorId id, long slots)
    {
        var vector = FrameVectors.Create(slots) ?? throw new InvalidDataException($"{slots} slots are no vector");
        vector.Id = id;
        lock (_lock)
        {
            if (!_vectors.TryAdd(id, vector))
                throw new InvalidDataException($"frame vector {id.Value} is there already");
            _next = Math.Max(_next, id.Value);
        }

        return vector;
    }

    /// <summary>frame_vector_destroy. False when frames are still held (row 9).</summary>
    public bool DestroyVector(FrameVector vector)
    {
        if (vector.Count > 0) return false;
        lock (_lock)
        {
            if (!_vectors.Remove(vector.Id)) return false;
        }

        return FrameVectors.Destroy(vector);
    }

    /// <summary>
    /// The vector that a command names. A replay makes a vector that its log has not mentioned yet.
    /// </summary>
    public FrameVector Vector(KernelState kernel, VectorId id, long slots) =>
        Vector(id) ?? (kernel.IsReplay
            ? CreateVector(id, slots)
            : throw new InvalidOperationException($"frame vector {id.Value} was destroyed under a call that uses it"));

    public FrameVector? Vector(VectorId id)
    {
        lock (_lock) return _vectors.GetValueOrDefault(id);
    }

    /// <summary>The live vectors, oldest first.</summary>
    public List<FrameVector> Vectors()
    {
        lock (_lock) return [.. _vectors.Values.OrderBy(vector => vector.Id.Value)];
    }

    /// <summary>The machine is gone: gives the memory of every vector back.</summary>
    public void ReleaseVectors()
    {
        lock (_lock)
        {
            foreach (var vector in _vectors.Values) vector.Release();
            _vectors.Clear();
        }
    }

    /// <summary>Runs a pin to its end, or parks it at a fault that has to wait. Under the turn.</summary>
    public PinOutcome Run(KernelState kernel, PinOperation operation)
    {
        var isDone = operation.Run(kernel);
        while (!isDone && _parked.Count(parked => parked.Space == operation.Space.Id) >= MaxParkedPerSpace)
        {
            // No room to wait: the fault is tried again at once, as if its handler had answered. A handler outside has
            // not answered, and so the pin is killed there.
            operation.IsKilled |= kernel.Served.Open(operation.Space, operation.ParkedAt) is not null;
            isDone = operation.Run(kernel);
        }

        if (isDone) return operation.Finish(kernel);
        operation.Park();
        var pin = new ParkedPin(new ParkedPinId(kernel.CommandNumber), operation);
        _parked.Add(pin);
        return new PinOutcome
        {
            Result = default,
            Reason = StopReason.None,
            Epoch = kernel.CommandNumber,
            Retries = operation.Retries,
            IsSlow = true,
            Parked = pin,
        };
    }

    /// <summary>A parked pin; null when it is not there.</summary>
    public PinOperation? Find(ParkedPinId id) => _parked.Find(parked => parked.Id == id)?.Operation;

    /// <summary>Takes a parked pin off the list; null when it is not there.</summary>
    public PinOperation? Take(ParkedPinId id)
    {
        var index = _parked.FindIndex(parked => parked.Id == id);
        if (index < 0) return null;
        var operation = _parked[index].Operation;
        _parked.RemoveAt(index);
        return operation;
    }
}
