using System.Collections.Concurrent;
using FramePin.Core.Addressing;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using Grpc.Core;

namespace FramePin.Server.Machines;

/// <summary>
/// The frame vectors of a machine under their numbers, which count up from 1 and are never used twice.
/// </summary>
/// <remarks>Any thread.</remarks>
internal sealed class VectorTable(string machineId, Machine machine, DaemonLimits limits)
{
    private readonly ConcurrentDictionary<ulong, VectorRecord> _published = new();

    /// <summary>Exported vectors and their imports that hold a device's pages, by device.</summary>
    private readonly ConcurrentDictionary<DeviceId, int> _exports = new();

    /// <summary>Vectors made and not released, published or not. Changed atomically.</summary>
    private int _count;
    private ulong _lastNumber;

    /// <summary>Full name of a vector.</summary>
    public string NameOf(ulong number) => $"machines/{machineId}/{Names.FrameVectors}/{number}";

    /// <summary>The refusal for a vector that is not there.</summary>
    public RpcException Gone(ulong number) => Refusals.NotFound("FRAME_VECTOR", NameOf(number));

    /// <summary>A published vector; null when there is none under the number.</summary>
    public VectorRecord? Find(ulong number) => _published.GetValueOrDefault(number);

    /// <summary>A published vector. NOT_FOUND when there is none under the number.</summary>
    public VectorRecord Get(ulong number) => Find(number) ?? throw Gone(number);

    /// <summary>The published vectors, oldest first.</summary>
    public IEnumerable<VectorRecord> All => _published.Values.OrderBy(record => record.Number);

    /// <summary>
    /// A new vector of <paramref name="slots"/> slots under the next number, not published yet. RESOURCE_EXHAUSTED at
    /// a limit.
    /// </summary>
    public VectorRecord Create(ulong slots, Lease? lease)
    {
        if (slots == 0) throw Refusals.Bad("pages", "must be at least 1");
        if (slots > limits.VectorPagesMax) throw Refusals.Limit("vector_pages_max", limits.VectorPagesMax, slots);
        Reserve();
        try
        {
            return machine.CreateVector((long)slots) is { } vector
                ? Number(vector, lease)
                : throw Refusals.Bad("pages", "more than a frame vector of this kernel holds");
        }
        catch
        {
            // Too many slots, or no memory for them.
            Interlocked.Decrement(ref _count);
            throw;
        }
    }

    /// <summary>
    /// A vector that holds a device's pages, not published yet. NOT_FOUND when the device was deleted meanwhile,
    /// RESOURCE_EXHAUSTED at the limit.
    /// </summary>
    public VectorRecord Create(Named<DeviceId> device, ulong frames, Lease? lease)
    {
        return Create(
            (long)frames, vector => machine.Call(new ExportDeviceCall(device.Thing, vector.Id, vector.Allocated)).IsOk,
            () => Refusals.NotFound("DEVICE", device.Name), lease, device, isImport: false);
    }

    /// <summary>
    /// A vector that holds the pages of a dma-buf too, not published yet. FAILED_PRECONDITION (NOT_A_DMA_BUF) for a
    /// vector that was not exported, NOT_FOUND for one that is gone, RESOURCE_EXHAUSTED at the limit.
    /// </summary>
    public VectorRecord Import(VectorRecord source, Lease? lease)
    {
        lock (source.Gate)
        {
            var pages = source.Content;
            if (source.Device is not { } device || pages.Count == 0) throw NotADmaBuf(source);
            return Create(
                pages.Count, vector => machine.Call(
                    new ShareVectorCall(pages.Id, pages.Allocated, vector.Id, vector.Allocated)).IsOk,
                () => NotADmaBuf(source), lease, device, isImport: true);
        }
    }

    /// <summary>
    /// Vectors that were exported from a device, and imports of such: an importer keeps the dma-buf that its exporter
    /// closed (drivers/dma-buf/dma-buf.c: dma_buf_attach under the importer's dma_buf_get).
    /// </summary>
    public int ExportsOf(DeviceId device) => _exports.GetValueOrDefault(device);

    /// <summary>
    /// Gives a vector its name and hangs it on its lease. A lease that has ended meanwhile takes the vector along:
    /// NOT_FOUND, and nothing is held.
    /// </summary>
    public void Publish(VectorRecord record)
    {
        if (record.Lease is not { } lease)
        {
            _published[record.Number] = record;
            return;
        }

        if (!lease.TryAdd(record))
        {
            Release(record, dirty: false, out _);
            throw LeaseRegistry.Gone(lease.Name);
        }

        // A lease that has ended since has taken the vector along, as it would a moment later.
        lock (record.Gate)
            if (!record.IsDestroyed) _published[record.Number] = record;
    }

    /// <summary>
    /// Destroys an empty vector. FAILED_PRECONDITION when it holds frames or a pin is filling it, NOT_FOUND when it is
    /// gone.
    /// </summary>
    public void DestroyEmpty(VectorRecord record)
    {
        // A pin that fills the vector meanwhile waits for the gate, and then finds it gone.
        lock (record.Gate)
        {
            if (record.Content.Count > 0)
                throw Refusals.State(
                    "VECTOR_NOT_EMPTY", "frame_vector_destroy wants an empty vector: put its frames first");
            Release(record, dirty: false, out _);
        }
    }

    /// <summary>Puts the frames of a vector, which stays, empty. The caller holds the gate.</summary>
    /// <param name="record">The vector. One that was a dma-buf is none any more.</param>
    /// <param name="dirty">The device wrote to the pages.</param>
    public void Put(VectorRecord record, bool dirty)
    {
        machine.Put(record.Content, dirty);
        if (record.TakeSource() is { } device) ForgetExport(device.Thing);
    }

    /// <summary>
    /// Puts the frames of a vector and destroys it. False: another thread has, or a pin is filling it.
    /// </summary>
    /// <param name="record">Published or not.</param>
    /// <param name="dirty">The device wrote to the pages.</param>
    /// <param name="frames">Frames that were put.</param>
    public bool Release(VectorRecord record, bool dirty, out long frames)
    {
        lock (record.Gate)
        {
            frames = record.Vector.Count;
            if (!record.TryDestroy()) return false;
            machine.Put(record.Vector, dirty);
            machine.DestroyVector(record.Vector);
            if (record.TakeSource() is { } device) ForgetExport(device.Thing);
        }

        record.Lease?.Forget(record);
        _published.TryRemove(record.Number, out _);
        Interlocked.Decrement(ref _count);
        return true;
    }

    private static RpcException NotADmaBuf(VectorRecord record) =>
        Refusals.State("NOT_A_DMA_BUF", $"{record.Name} was not exported from a device");

    /// <summary>A vector that <paramref name="fill"/> has filled at once.</summary>
    private VectorRecord Create(
        long slots, Func<FrameVector, bool> fill, Func<RpcException> refuse, Lease? lease, Named<DeviceId> device,
        bool isImport)
    {
        Reserve();
        FrameVector? vector = null;
        try
        {
            vector = machine.CreateVector(slots);
            if (vector is null || !fill(vector)) throw refuse();
            var record = Number(vector, lease, device, isImport);
            _exports.AddOrUpdate(device.Thing, 1, static (_, count) => count + 1);
            return record;
        }
        catch
        {
            if (vector is not null) machine.DestroyVector(vector);
            Interlocked.Decrement(ref _count);
            throw;
        }
    }

    private void ForgetExport(DeviceId device)
    {
        var left = _exports.AddOrUpdate(device, 0, static (_, count) => count - 1);
        if (left == 0) _exports.TryRemove(new KeyValuePair<DeviceId, int>(device, 0));
    }

    private VectorRecord Number(
        FrameVector vector, Lease? lease, Named<DeviceId>? device = null, bool isImport = false) =>
        new(Interlocked.Increment(ref _lastNumber), vector, lease, this, device) { IsImport = isImport };

    /// <summary>Counts one vector more. RESOURCE_EXHAUSTED at the limit.</summary>
    private void Reserve()
    {
        if (Interlocked.Increment(ref _count) <= limits.FrameVectorsMax) return;
        Interlocked.Decrement(ref _count);
        throw Refusals.Limit("frame_vectors_max", (ulong)limits.FrameVectorsMax, (ulong)limits.FrameVectorsMax + 1);
    }
}
