using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;

namespace FramePin.Core.Machines;

/// <summary>What io_uring pins, and who pays for it.</summary>
public sealed partial class Machine
{
    internal const ulong MaxRegisteredBytes = 1UL << 30;

    /// <summary>
    /// io_uring's REGISTER_BUFFERS of one buffer: PIN, WRITE, LONGTERM, all of it or -EFAULT. The pages stay in
    /// <paramref name="vector"/> until it is put. Source: io_uring/rsrc.c: io_sqe_buffer_register, io_pin_pages.
    /// </summary>
    public SyscallResult RegisterBuffer(AddressSpace space, ulong address, ulong length, FrameVector vector)
    {
        if (length is 0 or > MaxRegisteredBytes || address == 0) return Errno.EFAULT;
        if (address + length < address) return Errno.EOVERFLOW;
        var pages = PagesBetween(address, length);
        var call = Profile.RingPinsUnderLock ? GupCall.PinUserPages : GupCall.PinUserPagesFast;
        var result = GupAtOnce(
            space, call, address, pages, GupFlags.Write | GupFlags.LongTerm, LockedArgument.Null, vector);
        if (result.Error != Errno.None) return result.Error;
        if (result.Pages == pages) return SyscallResult.Ok();
        PutVaddrFrames(vector);
        return Errno.EFAULT;
    }

    /// <summary>
    /// io_uring_setup of a small ring: its own pages are charged to the user unless the process may lock memory. Null
    /// with -ENOMEM above RLIMIT_MEMLOCK.
    /// </summary>
    public Ring? SetupRing(AddressSpace space, out Errno error)
    {
        using var turn = EnterTurn();
        error = Errno.ESRCH;
        if (space.Exited) return null;
        var ring = new Ring(this, space, space.Task.CanLockMemory ? null : space.Task.User);
        error = ChargeUser(ring, Ring.OwnPages);
        if (error != Errno.None) return null;
        _rings.Add(ring);
        return ring;
    }

    /// <summary>
    /// Charges a ring's user, and its owner's pinned_vm, with pages; below 0 gives back. -ENOMEM above RLIMIT_MEMLOCK.
    /// </summary>
    internal Errno Charge(Ring ring, long pages)
    {
        using var turn = EnterTurn();
        var error = ChargeUser(ring, pages);
        if (error == Errno.None) ring.Owner.PinnedPages += pages;
        return error;
    }

    private Errno ChargeUser(Ring ring, long pages)
    {
        if (ring.User is not { } user) return Errno.None;
        var charged = _lockedByUser.GetValueOrDefault(user) + pages;
        if (pages > 0 && charged > (long)(ring.Owner.Task.RlimitMemlock >> PageGeometry.PageShift)) return Errno.ENOMEM;
        _lockedByUser[user] = charged;
        return Errno.None;
    }

    /// <summary>The process has ended: rings that nobody else has open go with it.</summary>
    private void CloseRings(AddressSpace space)
    {
        List<Ring> closed;
        using (EnterTurn())
        {
            foreach (var ring in _rings) ring.Holders.Remove(space);
            closed = [.. _rings.Where(ring => ring.Holders.Count == 0)];
            _rings.RemoveAll(ring => ring.Holders.Count == 0);
            foreach (var ring in closed) ChargeUser(ring, -Ring.OwnPages);
        }

        foreach (var ring in closed) ring.Release();
    }
}
