using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Core.Access;

/// <summary>The rings that are open, and the pages that each user is charged for them. The turn guards it.</summary>
internal sealed class RingTable
{
    private readonly Dictionary<RingId, Ring> _rings = [];
    private readonly Dictionary<int, long> _lockedByUser = [];
    private int _next;

    /// <summary>A ring; null when it is closed and its buffers are dropped.</summary>
    public Ring? Ring(RingId id) => _rings.GetValueOrDefault(id);

    /// <summary>Opens a ring, or says why not.</summary>
    public Ring? Open(KernelState kernel, AddressSpace owner, out Errno error)
    {
        int? user = owner.Task.CanLockMemory ? null : owner.Task.User;
        var ring = new Ring(new RingId(_next + 1), owner, user);
        error = ChargeUser(ring, Access.Ring.OwnPages);
        if (error != Errno.None) return null;
        // fork inherits a ring as it inherits any descriptor.
        if (_next++ == 0) kernel.Forked.Add(Inherit);
        _rings.Add(ring.Id, ring);
        return ring;
    }

    /// <summary>
    /// Charges a ring's user and its owner's pinned_vm with pages; below 0 gives back. -ENOMEM above RLIMIT_MEMLOCK.
    /// </summary>
    public Errno Charge(Ring ring, long pages)
    {
        var error = ChargeUser(ring, pages);
        if (error != Errno.None) return error;
        ring.Owner.PinnedPages += pages;
        ring.Charged += pages;
        if (ring.Holders.Count == 0 && ring.Charged == 0) _rings.Remove(ring.Id);
        return Errno.None;
    }

    /// <summary>A process has ended: the rings that no other process has open.</summary>
    public List<Ring> Close(SpaceId space)
    {
        var closed = new List<Ring>();
        foreach (var ring in _rings.Values)
            if (ring.Holders.RemoveWhere(holder => holder.Id == space) > 0 && ring.Holders.Count == 0) closed.Add(ring);
        foreach (var ring in closed)
        {
            ChargeUser(ring, -Access.Ring.OwnPages);
            if (ring.Charged == 0) _rings.Remove(ring.Id);
        }

        return closed;
    }

    private Errno ChargeUser(Ring ring, long pages)
    {
        if (ring.User is not { } user) return Errno.None;
        var charged = _lockedByUser.GetValueOrDefault(user) + pages;
        if (pages > 0 && charged > (long)(ring.Owner.Task.RlimitMemlock >> PageGeometry.PageShift)) return Errno.ENOMEM;
        _lockedByUser[user] = charged;
        return Errno.None;
    }

    private void Inherit(AddressSpace parent, AddressSpace child)
    {
        foreach (var ring in _rings.Values)
            if (ring.Holders.Contains(parent)) ring.Holders.Add(child);
    }
}

/// <summary>The answer to <see cref="SetupRingCall"/>.</summary>
public readonly record struct SetupRingResult(Ring? Ring, Errno Error);

/// <summary>
/// io_uring_setup of a small ring: its own pages are charged to the user unless the process may lock memory. -ENOMEM
/// above RLIMIT_MEMLOCK.
/// </summary>
public readonly record struct SetupRingCall(SpaceId Space) : ICommand<SetupRingCall, SetupRingResult>
{
    public SetupRingResult Run(in Turn turn)
    {
        if (turn.Kernel.Space(Space) is not { Exited: false } space) return new(null, Errno.ESRCH);
        var ring = turn.Kernel.Part<RingTable>().Open(turn.Kernel, space, out var error);
        return new(ring, error);
    }

    public void Write(CommandWriter writer) => writer.Add(Space);

    public static SetupRingCall Read(ref CommandReader reader) => new(reader.Space());
}

/// <summary>
/// Charges a ring's user and its owner's pinned_vm with pages of 4 KiB; below 0 gives back. -ENOMEM above
/// RLIMIT_MEMLOCK, -ENOENT for a ring that is gone.
/// </summary>
public readonly record struct ChargeRingCall(RingId Ring, long Pages) : ISyscall<ChargeRingCall>
{
    public SyscallResult Run(in Turn turn)
    {
        var rings = turn.Kernel.Part<RingTable>();
        return rings.Ring(Ring) is { } ring ? rings.Charge(ring, Pages) : Errno.ENOENT;
    }

    public void Write(CommandWriter writer) => writer.Add(Ring).Add(Pages);

    public static ChargeRingCall Read(ref CommandReader reader) => new(reader.Ring(), reader.I64());
}

/// <summary>A process has ended: rings that no other process has open are closed.</summary>
/// <returns>The rings that were closed; the caller drops their buffers.</returns>
public readonly record struct CloseRingsCall(SpaceId Space) : ICommand<CloseRingsCall, IReadOnlyList<Ring>>
{
    public IReadOnlyList<Ring> Run(in Turn turn) => turn.Kernel.Part<RingTable>().Close(Space);

    public void Write(CommandWriter writer) => writer.Add(Space);

    public static CloseRingsCall Read(ref CommandReader reader) => new(reader.Space());
}

/// <summary>The calls of a process on its rings, made of commands and pins.</summary>
public static class RingCalls
{
    /// <summary>io_uring_setup: null with -ENOMEM above RLIMIT_MEMLOCK, or -ESRCH.</summary>
    public static Ring? SetupRing(this IPinHost host, SpaceId space, out Errno error)
    {
        (var ring, error) = host.Execute<SetupRingCall, SetupRingResult>(new(space));
        if (ring is not null) ring.Host = host;
        return ring;
    }

    /// <summary>
    /// io_uring's REGISTER_BUFFERS of one buffer: PIN, WRITE, LONGTERM, all of it or -EFAULT. The pages stay in
    /// <paramref name="vector"/> until it is put. It waits at a fault of a handler outside by <paramref name="wait"/>,
    /// and is killed there without one. Source: io_uring/rsrc.c: io_sqe_buffer_register, io_pin_pages.
    /// </summary>
    public static SyscallResult RegisterBuffer(
        this IPinHost host, SpaceId space, ulong address, ulong length, FrameVector vector, FaultWait? wait = null)
    {
        if (length is 0 or > Ring.MaxRegisteredBytes || address == 0) return Errno.EFAULT;
        if (address + length < address) return Errno.EOVERFLOW;
        var pages = AccessPaths.PagesBetween(address, length);
        var call = host.Profile.RingPinsUnderLock ? GupCall.PinUserPages : GupCall.PinUserPagesFast;
        var request = new PinRequest(space, address, pages, GupFlags.Write | GupFlags.LongTerm) { Call = call };
        var result = host.PinToEnd(request, vector, wait);
        if (result.Error != Errno.None) return result.Error;
        if (result.Pages == pages) return SyscallResult.Ok();
        host.Put(vector, isDirty: false);
        return Errno.EFAULT;
    }

    /// <summary>
    /// exit: mappings go, and the rings that no other process has open; pins stay with their vectors. -ESRCH when the
    /// process has exited before.
    /// </summary>
    public static Errno ExitProcess(this IPinHost host, SpaceId space)
    {
        var error = host.Call(new ExitCall(space)).Error;
        if (error != Errno.None) return error;
        foreach (var ring in host.Execute<CloseRingsCall, IReadOnlyList<Ring>>(new(space))) ring.Release();
        return Errno.None;
    }
}
