using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Inspection;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;

namespace FramePin.Core.Access;

/// <summary>
/// An io_uring as far as it pins: one table of registered buffers, charged to the user that set the ring up, inherited
/// over fork as a descriptor is, and given back when the last process that has it ends (io_uring/rsrc.c,
/// io_uring/memmap.c; Semantics 3.11).
/// </summary>
/// <remarks>
/// <see cref="RingCalls.SetupRing"/> makes it. The table of buffers belongs to one thread at a time; the turn guards
/// the rest.
/// </remarks>
public sealed class Ring
{
    /// <summary>Pages of a small ring itself: the queues and the submission entries, a page each.</summary>
    internal const long OwnPages = 2;

    /// <summary>Most bytes of a buffer.</summary>
    internal const ulong MaxRegisteredBytes = 1UL << 30;

    /// <summary>Most buffers of a table (IORING_MAX_REG_BUFFERS).</summary>
    public const int MaxBuffers = 1 << 14;

    private readonly List<FrameVector?> _buffers = [];
    private long _charged;

    internal Ring(RingId id, AddressSpace owner, int? user)
    {
        Id = id;
        Owner = owner;
        User = user;
        Holders.Add(owner);
    }

    public RingId Id { get; }

    /// <summary>
    /// The registered buffers, in order; null for a sparse entry. IPinHost.CopyFrames reads their bytes.
    /// </summary>
    public IReadOnlyList<FrameVector?> Buffers => _buffers;

    /// <summary>The process that set the ring up: its memory is registered, and its limits hold.</summary>
    internal AddressSpace Owner { get; }

    /// <summary>The user that pays; null when the ring was set up with CAP_IPC_LOCK.</summary>
    internal int? User { get; }

    /// <summary>Processes that have the ring open.</summary>
    internal HashSet<AddressSpace> Holders { get; } = [];

    /// <summary>Pages that the user is charged for registered buffers.</summary>
    internal long Charged { get; set; }

    /// <summary>The machine that the buffers are pinned on; set by the call that made the ring.</summary>
    internal IPinHost? Host { get; set; }

    /// <summary>
    /// REGISTER_BUFFERS: pins every buffer for writing and for long, or none. -EBUSY over a table that is there,
    /// -EINVAL above <see cref="MaxBuffers"/>, -EFAULT for none, -ENOMEM above the user's memory-lock limit.
    /// </summary>
    /// <param name="buffers">Address and length in bytes of each; 0 and 0 for a sparse entry.</param>
    public SyscallResult Register(params IReadOnlyList<(ulong Address, ulong Length)> buffers) =>
        Register(buffers, wait: null);

    /// <summary>The same, and waits at a fault of a handler outside by <paramref name="wait"/>.</summary>
    public SyscallResult Register(IReadOnlyList<(ulong Address, ulong Length)> buffers, FaultWait? wait)
    {
        if (_buffers.Count > 0) return Errno.EBUSY;
        if (buffers.Count > MaxBuffers) return Errno.EINVAL;
        if (buffers.Count == 0) return Errno.EFAULT;
        var heads = new HashSet<Pfn>();
        foreach (var (address, length) in buffers)
        {
            var error = Add(address, length, heads, wait);
            if (error == Errno.None) continue;
            Release();
            return error;
        }

        return SyscallResult.Ok();
    }

    /// <summary>UNREGISTER_BUFFERS: -ENXIO when there is no table.</summary>
    public SyscallResult Unregister()
    {
        if (_buffers.Count == 0) return Errno.ENXIO;
        Release();
        return SyscallResult.Ok();
    }

    /// <summary>Drops every pin and the charge for it. Without a turn.</summary>
    internal void Release()
    {
        if (Host is not { } host) return;
        foreach (var vector in _buffers)
        {
            if (vector is null) continue;
            host.Put(vector, isDirty: false);
            host.DestroyVector(vector);
        }

        _buffers.Clear();
        host.Call(new ChargeRingCall(Id, -_charged));
        _charged = 0;
    }

    private Errno Add(ulong address, ulong length, HashSet<Pfn> heads, FaultWait? wait)
    {
        if (address == 0 && length == 0)
        {
            _buffers.Add(null);
            return Errno.None;
        }

        var host = Host!;
        var bytes = (address & ~PageGeometry.PageMask) + Math.Min(length, MaxRegisteredBytes);
        if (host.CreateVector(Math.Max(1, (long)PageGeometry.PagesOf(bytes))) is not { } vector) return Errno.ENOMEM;
        var error = host.RegisterBuffer(Owner.Id, address, length, vector, wait).Error;
        if (error == Errno.None)
        {
            var pages = PagesToCharge(host, vector, heads);
            error = host.Call(new ChargeRingCall(Id, pages)).Error;
            if (error == Errno.None)
            {
                _charged += pages;
                _buffers.Add(vector);
                return Errno.None;
            }

            host.Put(vector, isDirty: false);
        }

        host.DestroyVector(vector);
        return error;
    }

    /// <summary>io_buffer_account_pin: a large folio counts whole, and once for the table.</summary>
    private static long PagesToCharge(IPinHost host, FrameVector vector, HashSet<Pfn> heads)
    {
        var pages = 0L;
        var query = new VectorPagesQuery(vector, 0, (int)vector.Count);
        foreach (var view in host.Query<VectorPagesQuery, IReadOnlyList<PageView>>(query))
        {
            if (view.Order == 0) pages++;
            else if (heads.Add(view.Head)) pages += 1L << view.Order;
        }

        return pages;
    }
}
