using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;

namespace FramePin.Core.Machines;

/// <summary>
/// An io_uring as far as it pins: one table of registered buffers, charged to the user who set the ring up, inherited
/// over fork as a descriptor is, and given back when the last process that has it ends (io_uring/rsrc.c,
/// io_uring/memmap.c; Semantics 3.11).
/// </summary>
/// <remarks>Made by <see cref="Machine.SetupRing"/>. Any thread; the charge is guarded by the machine's turn.</remarks>
public sealed class Ring
{
    /// <summary>Pages of a small ring itself: the queues and the submission entries, a page each.</summary>
    internal const long OwnPages = 2;

    /// <summary>Most buffers of a table (IORING_MAX_REG_BUFFERS).</summary>
    public const int MaxBuffers = 1 << 14;

    private readonly Machine _machine;
    private readonly List<FrameVector?> _buffers = [];
    private long _charged;

    internal Ring(Machine machine, AddressSpace owner, int? user)
    {
        _machine = machine;
        Owner = owner;
        User = user;
        Holders.Add(owner);
    }

    /// <summary>Whose memory is registered: that of the process that set the ring up.</summary>
    public AddressSpace Owner { get; }

    /// <summary>Who pays for it; null when the ring was set up with CAP_IPC_LOCK.</summary>
    public int? User { get; }

    /// <summary>
    /// The registered buffers, in order; null for a sparse entry. Read their bytes with
    /// <see cref="Machine.CopyFrames"/>.
    /// </summary>
    public IReadOnlyList<FrameVector?> Buffers => _buffers;

    /// <summary>Processes that have the ring open. Guarded by the turn.</summary>
    internal HashSet<AddressSpace> Holders { get; } = [];

    /// <summary>
    /// REGISTER_BUFFERS: pins every buffer for writing and for long, or none. -EBUSY over a table that is there,
    /// -EINVAL above <see cref="MaxBuffers"/>, -EFAULT for none, -ENOMEM above the user's memory-lock limit.
    /// </summary>
    /// <param name="buffers">Address and length in bytes of each; 0 and 0 for a sparse entry.</param>
    public SyscallResult Register(params IReadOnlyList<(ulong Address, ulong Length)> buffers)
    {
        if (_buffers.Count > 0) return Errno.EBUSY;
        if (buffers.Count > MaxBuffers) return Errno.EINVAL;
        if (buffers.Count == 0) return Errno.EFAULT;
        var heads = new HashSet<Pfn>();
        foreach (var (address, length) in buffers)
        {
            var error = Add(address, length, heads);
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

    /// <summary>Drops every pin and the charge for it. Outside the turn.</summary>
    internal void Release()
    {
        foreach (var vector in _buffers)
        {
            if (vector is null) continue;
            _machine.PutVaddrFrames(vector);
            _machine.DestroyVector(vector);
        }

        _buffers.Clear();
        _machine.Charge(this, -_charged);
        _charged = 0;
    }

    private Errno Add(ulong address, ulong length, HashSet<Pfn> heads)
    {
        if (address == 0 && length == 0)
        {
            _buffers.Add(null);
            return Errno.None;
        }

        var slots = (long)PageGeometry.PagesOf(
            (address & ~PageGeometry.PageMask) + Math.Min(length, Machine.MaxRegisteredBytes));
        if (_machine.CreateVector(Math.Max(1, slots)) is not { } vector) return Errno.ENOMEM;
        var error = _machine.RegisterBuffer(Owner, address, length, vector).Error;
        if (error == Errno.None)
        {
            var pages = PagesToCharge(vector, heads);
            error = _machine.Charge(this, pages);
            if (error == Errno.None)
            {
                _charged += pages;
                _buffers.Add(vector);
                return Errno.None;
            }

            _machine.PutVaddrFrames(vector);
        }

        _machine.DestroyVector(vector);
        return error;
    }

    /// <summary>io_buffer_account_pin: a large folio counts whole, and once for the table.</summary>
    private long PagesToCharge(FrameVector vector, HashSet<Pfn> heads)
    {
        var pages = 0L;
        foreach (var view in _machine.ViewPages(vector, 0, (int)vector.Count))
        {
            if (view.Order == 0) pages++;
            else if (heads.Add(view.Head)) pages += 1L << view.Order;
        }

        return pages;
    }
}
