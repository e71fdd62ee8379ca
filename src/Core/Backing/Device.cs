using FramePin.Core.Addressing;

namespace FramePin.Core.Backing;

/// <summary>How a device's mmap method builds a mapping.</summary>
public enum DeviceMapping
{
    /// <summary>remap_pfn_range at mmap time: VM_IO, VM_PFNMAP, DONTEXPAND, DONTDUMP; no fault method.</summary>
    PfnMap,
    /// <summary>VM_PFNMAP whose entries appear at the first touch (vmf_insert_pfn from ->fault).</summary>
    PfnMapLazy,
    /// <summary>VM_IO without VM_PFNMAP; entries map RAM pages.</summary>
    IoPages,
    /// <summary>vm_insert_page at mmap time: VM_MIXEDMAP, DONTEXPAND, DONTDUMP; real pages without mapping.</summary>
    MixedPages,
    /// <summary>vmf_insert_mixed of raw PFNs: VM_MIXEDMAP with special entries.</summary>
    MixedPfns,
    /// <summary>Pages served by ->fault, one at a time, from the device's RAM.</summary>
    FaultPages,
    /// <summary>
    /// Peer-to-peer memory of a PCI device: pages inserted at mmap time, pinned only by who says PCI_P2PDMA.
    /// </summary>
    P2PPages,
    /// <summary>VM_PFNMAP whose ->fault is a handler outside, which inserts PFNs (vmf_insert_pfn).</summary>
    ServedPfns,
    /// <summary>Pages of RAM that a handler outside gives out at each fault (vmf->page).</summary>
    ServedPages,
}

/// <summary>
/// Owner of a PFN range and of mappings over it. Over RAM the range lies in the machine's memory and has struct pages;
/// over MMIO it lies beyond it and has none.
/// </summary>
/// <remarks>Immutable but for <see cref="MappingCount"/>, which the turn guards. Owned by the machine.</remarks>
internal sealed class Device
{
    internal Device(DeviceId id, string name, DeviceMapping mapping, Pfn first, ulong frames, bool isRam)
    {
        Id = id;
        Name = name;
        Mapping = mapping;
        First = first;
        Frames = frames;
        IsRam = isRam;
    }

    public DeviceId Id { get; }

    /// <summary>Path as maps shows it.</summary>
    public string Name { get; }

    public DeviceMapping Mapping { get; }

    public Pfn First { get; }

    public ulong Frames { get; }

    public bool IsRam { get; }

    /// <summary>The mmap method counts references in open and close, so its VMAs never merge (vb2).</summary>
    public bool HasClose { get; init; }

    /// <summary>Opened read-write; a shared writable mapping of a read-only device is -EACCES.</summary>
    public bool Writable { get; init; } = true;

    /// <summary>
    /// The mmap method calls remap_pfn_range once for each page and not once for the whole area, which a private
    /// writable mapping refuses (row 137).
    /// </summary>
    public bool RemapsInParts { get; init; }

    /// <summary>
    /// Its file is an anonymous inode (fs/anon_inodes.c): on a mount with noexec, and root's with mode 0600.
    /// </summary>
    public bool IsAnonymousInode { get; init; }

    /// <summary>
    /// Its mappings have an access method (generic_access_phys), by which /proc/PID/mem reaches memory without pages.
    /// </summary>
    public bool HasAccess { get; init; } = true;

    /// <summary>The mapping has a ->fault method: an empty entry is filled at a touch.</summary>
    public bool HasFault => Mapping is DeviceMapping.PfnMapLazy or DeviceMapping.FaultPages
        or DeviceMapping.ServedPfns or DeviceMapping.ServedPages;

    public int MappingCount { get; internal set; }

    /// <summary>Destroyed by its owner: its memory goes with the last mapping. Guarded by the turn.</summary>
    public bool IsOrphan { get; internal set; }
}
