using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Vmas;

namespace FramePin.Core.Kernel;

/// <summary>
/// Answer of a handler outside to a fault of its device, as of a driver's ->fault method
/// (include/linux/mm_types.h: vm_fault_t).
/// </summary>
public enum FaultReply
{
    /// <summary>vmf_insert_pfn of a frame of the device; <see cref="DeviceMapping.ServedPfns"/> only.</summary>
    InsertPfn,
    /// <summary>vmf->page, a page of the device's RAM; <see cref="DeviceMapping.ServedPages"/> only.</summary>
    Page,
    SigBus,
    Oom,
    HwPoison,
    /// <summary>VM_FAULT_RETRY once more: the program tries anew, and the handler is asked anew.</summary>
    Retry,
}

/// <summary>A device or a userfaultfd whose faults a handler outside serves.</summary>
/// <param name="Device">The device; <see cref="DeviceId.None"/> for a userfaultfd.</param>
/// <param name="Uffd">The userfaultfd; 0 for a device.</param>
public readonly record struct FaultOwner(DeviceId Device, UffdId Uffd)
{
    /// <summary>A device.</summary>
    public static FaultOwner Of(DeviceId device) => new(device, default);

    /// <summary>A userfaultfd.</summary>
    public static FaultOwner Of(UffdId uffd) => new(DeviceId.None, uffd);
}

/// <summary>
/// A fault that a handler outside is asked about: ->fault of its device, or a missing page of a userfaultfd. The
/// program that faulted has dropped mmap_lock and waits. It sees changes of the area when it tries again.
/// </summary>
/// <remarks>Immutable but for the reply, which the turn guards. Made and owned by the machine.</remarks>
public sealed class ServedFault
{
    internal ServedFault(ulong number, AddressSpace space, ulong address, ulong page, bool isWrite, object source)
    {
        Number = number;
        Space = space.Id;
        Address = address;
        Page = page;
        IsWrite = isWrite;
        Source = source;
        Owner = source is Device device ? FaultOwner.Of(device.Id) : FaultOwner.Of(((Userfaultfd)source).Id);
    }

    /// <summary>Counts up from 1 in a machine.</summary>
    public ulong Number { get; }

    /// <summary>The address space of the program that faulted.</summary>
    public SpaceId Space { get; }

    /// <summary>Of the page, in bytes.</summary>
    public ulong Address { get; }

    /// <summary>vmf->pgoff: index of the page in the device, or in the mapping for a userfaultfd.</summary>
    public ulong Page { get; }

    public bool IsWrite { get; }

    /// <summary>The device or the userfaultfd whose handler is asked.</summary>
    public FaultOwner Owner { get; }

    /// <summary>The <see cref="Device"/> or the <see cref="Userfaultfd"/> itself.</summary>
    internal object Source { get; }

    internal FaultReply? Reply { get; set; }

    /// <summary>With InsertPfn and Page: index in the device.</summary>
    internal ulong ReplyPage { get; set; }

    /// <summary>Nobody has answered yet.</summary>
    internal bool IsOpen => Reply is null;
}

/// <summary>
/// Questions to handlers outside, until the program that faulted has taken the reply. Under the turn.
/// </summary>
internal sealed class ServedFaults
{
    /// <summary>Questions at once; past that a fault is out of memory.</summary>
    public const int Most = 4096;

    private readonly List<ServedFault> _faults = [];
    private readonly HashSet<object> _owners = [];
    private ulong _next;

    /// <summary>Told about each new question, under the turn: it must only take note.</summary>
    public Action<ServedFault>? Asked { get; set; }

    /// <summary>A handler serves the owner from now on, or no longer: then all its questions are dropped.</summary>
    public void Serve(object owner, bool isServed)
    {
        if (isServed)
        {
            _owners.Add(owner);
            return;
        }

        _owners.Remove(owner);
        _faults.RemoveAll(fault => fault.Source == owner);
    }

    public bool IsServed(object owner) => _owners.Contains(owner);

    /// <summary>The question about this fault that still has no reply; null for none.</summary>
    public ServedFault? Open(AddressSpace space, ulong address)
    {
        address &= PageGeometry.PageMask;
        foreach (var fault in _faults)
            if (fault.IsOpen && fault.Space == space.Id && fault.Address == address) return fault;
        return null;
    }

    /// <summary>The question with a number, until its reply is taken; null for none.</summary>
    public ServedFault? Find(ulong number) => _faults.Find(fault => fault.Number == number);

    public void Drop(ServedFault fault) => _faults.Remove(fault);

    /// <summary>The address space is gone, and nobody in it waits any more.</summary>
    public void DropOf(AddressSpace space) => _faults.RemoveAll(fault => fault.Space == space.Id);

    /// <summary>
    /// The reply to a fault of <paramref name="owner"/>, taken. Without one the handler is asked, or was already: null,
    /// and the fault has to wait. Where it may not (mmap_lock cannot be dropped), or nobody serves the owner, SIGBUS.
    /// </summary>
    public ServedFault? TakeOrAsk(
        AddressSpace space, ulong address, bool isWrite, bool mayRetry, object owner, ulong page, out VmFault result)
    {
        result = VmFault.SigBus;
        if (!IsServed(owner)) return null;
        address &= PageGeometry.PageMask;
        ServedFault? known = null;
        foreach (var fault in _faults)
        {
            var isSame = fault.Source == owner && fault.Space == space.Id && fault.Address == address
                && fault.Page == page;
            if (isSame && fault.IsWrite == isWrite) known = fault;
        }

        if (known is { IsOpen: false })
        {
            _faults.Remove(known);
            return known;
        }

        if (!mayRetry) return null;
        result = VmFault.Retry | VmFault.Waits;
        if (known is not null) return null;
        // Replies that nobody came back for make room.
        if (_faults.Count >= Most && _faults.FindIndex(fault => !fault.IsOpen) is var stale and >= 0)
            _faults.RemoveAt(stale);
        if (_faults.Count >= Most)
        {
            result = VmFault.Oom;
            return null;
        }

        known = new ServedFault(++_next, space, address, page, isWrite, owner);
        _faults.Add(known);
        Asked?.Invoke(known);
        return null;
    }
}
