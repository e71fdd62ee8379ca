using FramePin.V1;

namespace FramePin.Client;

/// <summary>What a new address space is to have beyond the defaults. Immutable.</summary>
public sealed record AddressSpaceOptions
{
    /// <summary>Last segment of its name; the daemon counts when null.</summary>
    public string? Id { get; init; }

    /// <summary>Addresses of its mappings, heap and stack; the kernel's defaults when null.</summary>
    public Layout? Layout { get; init; }

    /// <summary>Limits, capabilities and pending signals of its task; the kernel's defaults when null.</summary>
    public TaskSpec? Task { get; init; }

    /// <summary>Lease that it exits with, as a process that dies; null: it lives until it exits.</summary>
    public LeaseName? Lease { get; init; }
}

/// <summary>What a new memory file is to have beyond the defaults. Immutable.</summary>
public sealed record MemoryFileOptions
{
    /// <summary>Last segment of its name; the daemon counts when null.</summary>
    public string? Id { get; init; }

    /// <summary>Path that maps shows; "/" and the id when null.</summary>
    public string? Path { get; init; }

    /// <summary>Device number that maps shows, such as "00:01"; one that fits the kind when null.</summary>
    public string? Device { get; init; }

    /// <summary>Inode number that maps shows; the machine counts when 0.</summary>
    public ulong Inode { get; init; }

    /// <summary>Bytes of a page of hugetlbfs: 2 MiB or 1 GiB; 0 means 2 MiB.</summary>
    public ulong HugePageBytes { get; init; }
}

/// <summary>What a new device is to have beyond the defaults. Immutable.</summary>
public sealed record DeviceOptions
{
    /// <summary>Last segment of its name; the daemon counts when null.</summary>
    public string? Id { get; init; }

    /// <summary>
    /// The range lies in the machine's RAM; otherwise it is MMIO without struct pages. The mappings of pages need RAM.
    /// </summary>
    public bool IsRam { get; init; }

    /// <summary>Path that maps shows; "/dev/" and the id when null.</summary>
    public string? Path { get; init; }

    /// <summary>Its mappings have a close method, as those of videobuf2, and so never merge.</summary>
    public bool HasClose { get; init; }

    /// <summary>Its node cannot be opened for writing.</summary>
    public bool IsReadOnly { get; init; }

    /// <summary>Its mmap method remaps page by page, which private writable mappings refuse with EINVAL.</summary>
    public bool RemapsInParts { get; init; }

    /// <summary>
    /// Its file is an anonymous inode, as of perf_event_open: root's, on a mount that refuses PROT_EXEC with EPERM.
    /// </summary>
    public bool IsAnonymousInode { get; init; }

    /// <summary>Its mappings have no access method: /proc/PID/mem does not reach memory without pages (EIO).</summary>
    public bool HasNoAccess { get; init; }

    /// <summary>Lease that it is deleted with; null: it lives until it is deleted.</summary>
    public LeaseName? Lease { get; init; }
}

/// <summary>What an mmap is to have beyond the defaults. Immutable.</summary>
public sealed record MmapOptions
{
    /// <summary>Hint, or with <see cref="MmapFlags.Fixed"/> the address, in bytes; 0: the kernel chooses.</summary>
    public ulong Address { get; init; }

    /// <summary>PROT_*; readable and writable unless it is set.</summary>
    public MemoryProtection Protection { get; init; } = MemoryProtection.ReadWrite;

    /// <summary>
    /// MAP_*. Null means MAP_PRIVATE and MAP_ANONYMOUS without a target, and MAP_SHARED with one.
    /// </summary>
    public MmapFlags? Flags { get; init; }

    /// <summary>The file to map; null for none.</summary>
    public MemoryFileName? File { get; init; }

    /// <summary>The device to map; null for none. Not together with <see cref="File"/>.</summary>
    public DeviceName? Device { get; init; }

    /// <summary>Offset in the file or the device in bytes.</summary>
    public ulong Offset { get; init; }

    /// <summary>How the file or the device was opened; for reading and writing unless it is set.</summary>
    public OpenMode OpenMode { get; init; }
}

/// <summary>What a pin is to have beyond the defaults. Immutable.</summary>
public sealed record PinOptions
{
    /// <summary>The device writes.</summary>
    public bool Write { get; init; }

    /// <summary>FOLL_FORCE; heeded by profiles 4.3 to 5.8.</summary>
    public bool Force { get; init; }

    /// <summary>
    /// Refuses a short answer with the reason "PARTIAL_PIN", and holds nothing then. Otherwise a pin of fewer pages
    /// succeeds, and <see cref="Pin.StopReason"/> tells where it ended.
    /// </summary>
    public bool AllOrNothing { get; init; }

    /// <summary>Leaves the frames out of the answer: <see cref="Pin.Runs"/> is empty.</summary>
    public bool OmitFrames { get; init; }

    /// <summary>Lease that owns the pin; null: the machine owns it until it is unpinned.</summary>
    public LeaseName? Lease { get; init; }

    /// <summary>
    /// Attachment of this process, which is about to map the frames: they are held for it in the same call.
    /// <see cref="Pin.Map"/> maps them. Null for none.
    /// </summary>
    public LocalMachine? LocalMachine { get; init; }
}
