using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Core.Machines;

/// <summary>
/// Faults that handlers outside answer: ->fault of served devices, and missing pages of served userfaultfds.
/// </summary>
public sealed partial class Machine
{
    /// <summary>
    /// Told about each fault that a handler is asked about. Called under the turn: it must only take note, and call
    /// nothing of the machine. Set once, before the first handler.
    /// </summary>
    public Action<ServedFault>? FaultAsked
    {
        get => _kernel.Served.Asked;
        set => _kernel.Served.Asked = value;
    }

    /// <summary>
    /// A handler serves the device's faults. False: another one does, or the device is not one of the served kinds.
    /// </summary>
    public bool Serve(Device device)
    {
        using var turn = EnterTurn();
        if (device.IsOrphan || device.Mapping is not (DeviceMapping.ServedPfns or DeviceMapping.ServedPages)
            || _kernel.Served.IsServed(device))
            return false;
        _kernel.Served.Serve(device, isServed: true);
        return true;
    }

    /// <summary>
    /// The handler is gone: faults of the device end with SIGBUS, those that wait too. Whoever waits has to be resumed.
    /// </summary>
    public void StopServing(Device device)
    {
        using var turn = EnterTurn();
        _kernel.Served.Serve(device, isServed: false);
    }

    /// <summary>A handler is asked about missing pages of the userfaultfd from now on.</summary>
    public void Serve(Userfaultfd fd)
    {
        using var turn = EnterTurn();
        _kernel.Served.Serve(fd, isServed: true);
    }

    /// <summary>
    /// The userfaultfd is closed (fs/userfaultfd.c: userfaultfd_release): its ranges are ordinary memory again, and
    /// whoever waits goes on when resumed.
    /// </summary>
    public void Close(Userfaultfd fd)
    {
        using var turn = EnterTurn();
        _kernel.Served.Serve(fd, isServed: false);
        if (fd.Space.Exited) return;
        foreach (var vma in fd.Space.Vmas.All.ToList())
            if (vma.Uffd == fd) UffdCalls.Unregister(_kernel, fd, vma.Start, vma.Range.Length);
    }

    /// <summary>
    /// A handler answers a fault of its device; the next try of the fault takes the reply. -EINVAL for a page behind
    /// the device's end or a reply that the device's kind does not know, and then the fault waits on; -ENOENT when
    /// nobody asks any more.
    /// </summary>
    /// <param name="fault">Asked before.</param>
    /// <param name="reply">What ->fault would return.</param>
    /// <param name="page">Index in the device, for InsertPfn and Page.</param>
    public Errno Answer(ServedFault fault, FaultReply reply, ulong page = 0)
    {
        using var turn = EnterTurn();
        if (!_kernel.Served.Contains(fault) || !fault.IsOpen) return Errno.ENOENT;
        if (fault.Owner is not Device device) return Errno.EINVAL;
        var kind = reply switch
        {
            FaultReply.InsertPfn => DeviceMapping.ServedPfns,
            FaultReply.Page => DeviceMapping.ServedPages,
            _ => device.Mapping,
        };
        if (kind != device.Mapping || (reply is FaultReply.InsertPfn or FaultReply.Page && page >= device.Frames))
            return Errno.EINVAL;
        fault.ReplyPage = page;
        fault.Reply = reply;
        return Errno.None;
    }

    /// <summary>
    /// UFFDIO_WAKE: the fault is tried anew, and asked about anew when its page is still missing. False: nobody asks.
    /// </summary>
    public bool Wake(ServedFault fault)
    {
        using var turn = EnterTurn();
        if (!_kernel.Served.Contains(fault)) return false;
        _kernel.Served.Drop(fault);
        return true;
    }

    /// <summary>The fault at an address that waits for a handler's answer; null for none.</summary>
    public ServedFault? WaitingFault(AddressSpace space, ulong address)
    {
        using var turn = EnterQuery();
        return _kernel.Served.Open(space, address);
    }

    /// <summary>Pins that wait at an address.</summary>
    public IReadOnlyList<ParkedPin> ParkedAt(AddressSpace space, ulong address)
    {
        using var turn = EnterQuery();
        return [
            .. _parked.Where(parked => parked.Space == space
                && (parked.Address & PageGeometry.PageMask) == (address & PageGeometry.PageMask))];
    }
}
