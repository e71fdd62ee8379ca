using System.Diagnostics;
using FramePin.Core.Addressing;
using FramePin.Core.Pinning;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using Grpc.Core;

namespace FramePin.Server.Machines;

/// <summary>Where a vector's frames came from: the range, the time and the span of the pin that filled it.</summary>
/// <param name="Space">Address space of the pages; null for a device's pages, and before the first pin.</param>
/// <param name="Start">First byte of the range, as asked.</param>
/// <param name="IsWrite">The pin asked for pages to write to.</param>
/// <param name="PinnedAt">Time of the pin, UTC.</param>
/// <param name="Trace">Span that acquired the frames.</param>
/// <param name="Epoch">Number of the machine's last command before the pin.</param>
internal readonly record struct PinOrigin(
    Named<SpaceId>? Space, ulong Start, bool IsWrite, DateTime PinnedAt, ActivityContext Trace, long Epoch);

/// <summary>A frame vector under its name, with the origin of its frames.</summary>
/// <param name="number">Its number in the table.</param>
/// <param name="vector">The vector, which the record owns.</param>
/// <param name="lease">The lease that it hangs on; null for none.</param>
/// <param name="table">The table of its machine.</param>
/// <param name="source">The device of its pages, exported or imported; null for every other vector.</param>
/// <remarks>
/// Any thread. Number, vector and lease never change. Everything else, the vector's content included, is read and
/// written under <see cref="Gate"/>: each member that needs it throws without it. One exception: the pin that is
/// filling the vector (<see cref="IsFilling"/>) owns the content without the gate, and reaches it by
/// <see cref="Vector"/>. The calls of clients reach it by <see cref="Content"/>. Lock order: gate, then the lease.
/// </remarks>
internal sealed class VectorRecord(
    ulong number, FrameVector vector, Lease? lease, VectorTable table, Named<DeviceId>? source) : ILeased
{
    private PinOrigin _origin;
    private Named<DeviceId>? _source = source;
    private bool _isDestroyed;
    private bool _isFilling;

    public ulong Number { get; } = number;

    /// <summary>Full name.</summary>
    public string Name => table.NameOf(Number);

    /// <summary>The vector, for the pin that fills it and for the table that destroys it.</summary>
    public FrameVector Vector { get; } = vector;

    /// <summary>
    /// The vector, to read and change its content. Refuses as <see cref="CheckReady"/> does. Under <see cref="Gate"/>.
    /// </summary>
    public FrameVector Content
    {
        get
        {
            CheckReady();
            return Vector;
        }
    }

    /// <summary>
    /// The lease that gives the vector back at its end; null: the vector lives as long as the machine.
    /// </summary>
    public Lease? Lease { get; } = lease;

    /// <summary>
    /// The device that it was exported from: the vector is a dma-buf. Null for every other vector, and once its pages
    /// were put. Under <see cref="Gate"/>.
    /// </summary>
    public Named<DeviceId>? Device => IsImport ? null : Held(_source);

    /// <summary>It was imported from a dma-buf, which it keeps alive.</summary>
    public bool IsImport { get; init; }

    /// <summary>Lets one thread at a time use the vector. Never held across an await.</summary>
    public Lock Gate { get; } = new();

    /// <summary>The vector was unpinned or destroyed. Under <see cref="Gate"/>.</summary>
    public bool IsDestroyed => Held(_isDestroyed);

    /// <summary>A pin is filling the vector and may be parked. Under <see cref="Gate"/>.</summary>
    public bool IsFilling => Held(_isFilling);

    /// <summary>Where the frames came from. Under <see cref="Gate"/>.</summary>
    public PinOrigin Origin => Held(_origin);

    bool ILeased.IsVector => true;

    long ILeased.Pages
    {
        get
        {
            lock (Gate) return _isFilling || _isDestroyed ? 0 : Vector.Count;
        }
    }

    /// <summary>
    /// Refuses the use of the vector: NOT_FOUND when it is gone, FAILED_PRECONDITION (PIN_IN_PROGRESS) while a pin is
    /// filling it. Under <see cref="Gate"/>.
    /// </summary>
    public void CheckReady()
    {
        if (IsFilling) throw Filling();
        if (IsDestroyed) throw table.Gone(Number);
    }

    /// <summary>
    /// Why nobody may use the vector now: it is gone, or a pin is filling it. Takes <see cref="Gate"/>.
    /// </summary>
    public RpcException NotReady()
    {
        lock (Gate) return _isFilling ? Filling() : table.Gone(Number);
    }

    /// <summary>
    /// A pin fills the vector from now on: nobody else uses it, and the lease leaves it alone. Refuses as
    /// <see cref="CheckReady"/> does. Under <see cref="Gate"/>.
    /// </summary>
    public void BeginFilling()
    {
        CheckReady();
        _isFilling = true;
    }

    /// <summary>The pin that filled the vector has come to its end. Takes <see cref="Gate"/>.</summary>
    public void EndFilling()
    {
        lock (Gate) _isFilling = false;
    }

    /// <summary>
    /// The pages of the device are put: what the vector holds later is no dma-buf. The device that it was exported from
    /// or imported over; null when it was of none. Under <see cref="Gate"/>.
    /// </summary>
    public Named<DeviceId>? TakeSource()
    {
        var source = Held(_source);
        _source = null;
        return source;
    }

    /// <summary>Notes the origin of the frames. Takes <see cref="Gate"/>.</summary>
    public void Note(in PinOrigin origin)
    {
        lock (Gate) _origin = origin;
    }

    /// <summary>
    /// Nobody may use the vector any more. False: it was destroyed before, or a pin is filling it. Under
    /// <see cref="Gate"/>.
    /// </summary>
    public bool TryDestroy()
    {
        if (IsDestroyed || IsFilling) return false;
        _isDestroyed = true;
        return true;
    }

    bool ILeased.Release(out long pages)
    {
        try
        {
            return table.Release(this, dirty: false, out pages);
        }
        catch (ObjectDisposedException)
        {
            // The vector went with its machine, which was deleted before.
            pages = 0;
            return false;
        }
    }

    private static RpcException Filling() =>
        Refusals.State("PIN_IN_PROGRESS", "a pin is still filling this vector: resume or cancel it first");

    private T Held<T>(T value) =>
        Gate.IsHeldByCurrentThread ? value : throw new InvalidOperationException("the vector's gate is not held");
}
