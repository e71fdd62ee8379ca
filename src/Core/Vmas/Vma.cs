using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;

namespace FramePin.Core.Vmas;

/// <summary>
/// A virtual memory area (vm_area_struct). Guarded by the turn; pins do not look at it on the fast path.
/// </summary>
internal sealed class Vma : IMapping
{
    private AddressSpace? _space;

    /// <summary>
    /// The address space that the area is part of (vm_mm). Throws for an area that is part of none.
    /// </summary>
    public AddressSpace Space => _space ?? throw new InvalidOperationException($"{this} is part of no address space");

    SpaceId IMapping.SpaceId => Space.Id;

    public required ulong Start { get; set; }

    /// <summary>First byte behind the area.</summary>
    public required ulong End { get; set; }

    public required VmFlags Flags { get; set; }

    /// <summary>Offset in pages: into the file, or of the address where an anonymous area was first made.</summary>
    public required ulong PageOffset { get; set; }

    /// <summary>The mapped file; null for private anonymous memory and devices.</summary>
    public MemoryFile? File { get; init; }

    public Device? Device { get; init; }

    /// <summary>Which opening of the file was mapped (struct file): areas of two openings do not merge.</summary>
    public int Opening { get; init; }

    /// <summary>The anon_vma of the area's new anonymous pages; null before the first of them.</summary>
    public AnonVma? AnonVma { get; private set; }

    /// <summary>The anon_vmas whose pages the area may map, its own among them; null without any.</summary>
    public AnonChain? AnonChain { get; private set; }

    /// <summary>The area came through a fork and may share pages with a parent (anon_vma_chain not singular).</summary>
    public bool HasForkedAnon => AnonChain?.Older is not null;

    /// <summary>Shown by maps in place of a file name: [vdso], [vvar] and their like.</summary>
    public string? SpecialName { get; init; }

    /// <summary>log2 of the frames of a huge page for hugetlb areas; 0 otherwise.</summary>
    public int HugeOrder { get; init; }

    /// <summary>
    /// What a private hugetlb area was promised when it was mapped; null for one that came by fork (HPAGE_RESV_OWNER).
    /// </summary>
    public HugeReservation? Reserve { get; set; }

    /// <summary>The owner of the reservation took a page away from this area (HPAGE_RESV_UNMAPPED).</summary>
    public bool LostHugePage { get; set; }

    /// <summary>The userfaultfd that the area is registered with; null for none.</summary>
    public Userfaultfd? Uffd { get; set; }

    /// <summary>Memory-deny and special mappings refuse to be split (vm_ops->may_split).</summary>
    public bool NeverSplit => SpecialName is "[vdso]" or "[vvar]" or "[vvar_vclock]" or "[vsyscall]";

    public AddressRange Range => new(Start, End);

    public ulong Length => End - Start;

    public ulong Pages => Length >> PageGeometry.PageShift;

    /// <summary>
    /// The task neither owns the file nor may write it (inode_owner_or_capable, file_permission): what is cached of it
    /// is not told to the task, and not paged out for it. An anonymous inode is root's.
    /// </summary>
    public bool IsClosedTo(TaskState task) =>
        (File is { OthersMayWrite: false } && !task.OwnsFiles)
        || (Device is { IsAnonymousInode: true } && !task.IsAdmin);

    /// <summary>vma_is_anonymous: private anonymous memory.</summary>
    public bool IsAnonymous => File is null && Device is null && SpecialName is null;

    /// <summary>Executable and nothing else: with protection keys such memory cannot be read.</summary>
    public bool IsExecuteOnly => (Flags & VmFlags.AccessMask) == VmFlags.Exec;

    /// <summary>is_cow_mapping: private and may become writable.</summary>
    public bool IsCow => (Flags & (VmFlags.Shared | VmFlags.MayWrite)) == VmFlags.MayWrite;

    public bool IsHugeTlb => (Flags & VmFlags.HugeTlb) != 0;

    public bool Has(VmFlags flags) => (Flags & flags) == flags;

    public bool HasAny(VmFlags flags) => (Flags & flags) != 0;

    /// <summary>vm_ops->close is there, so that a merge must not swallow the area.</summary>
    public bool HasClose => Device is { HasClose: true } || IsHugeTlb;

    /// <summary>Page index in the file (or in linear anonymous numbering) of <paramref name="address"/>.</summary>
    public ulong IndexOf(ulong address) => PageOffset + ((address - Start) >> PageGeometry.PageShift);

    /// <summary>
    /// The addresses at which the area maps pages [<paramref name="first"/>, <paramref name="last"/>).
    /// </summary>
    public AddressRange AddressesOf(ulong first, ulong last)
    {
        var from = Math.Max(first, PageOffset);
        var to = Math.Min(last, PageOffset + Pages);
        return from >= to
            ? new AddressRange(Start, Start)
            : new AddressRange(AddressOf(from), AddressOf(to));
    }

    /// <summary>The area becomes part of an address space: what it maps gains a mapping (vm_ops->open).</summary>
    public void Open(AddressSpace space)
    {
        _space = space;
        File?.Mappings.Add(this);
        if (Device is { } device) device.MappingCount++;
        for (var link = AnonChain; link is not null; link = link.Older) link.AnonVma.Add(this);
    }

    /// <summary>The area leaves its address space: what it mapped loses a mapping (vm_ops->close).</summary>
    public void Close()
    {
        File?.Mappings.Remove(this);
        if (Device is { } device) device.MappingCount--;
        for (var link = AnonChain; link is not null; link = link.Older) link.AnonVma.Remove(this);
        Reserve?.Release(PageOffset >> HugeOrder, (PageOffset + Pages) >> HugeOrder);
        _space = null;
    }

    /// <summary>Number of the huge page at an address, in the file (vma_hugecache_offset).</summary>
    public ulong HugePageOf(ulong address) => IndexOf(address) >> HugeOrder;

    /// <summary>Takes over another area's anon_vmas (anon_vma_clone).</summary>
    public void TakeAnon(Vma from) => TakeAnon(from.AnonVma, from.AnonChain);

    /// <summary>Changes the area's own anon_vma and those whose pages it may map.</summary>
    public void TakeAnon(AnonVma? own, AnonChain? chain)
    {
        if (ReferenceEquals(own, AnonVma) && ReferenceEquals(chain, AnonChain)) return;
        if (_space is not null)
            for (var link = AnonChain; link is not null; link = link.Older) link.AnonVma.Remove(this);
        (AnonVma, AnonChain) = (own, chain);
        if (_space is not null)
            for (var link = AnonChain; link is not null; link = link.Older) link.AnonVma.Add(this);
    }

    private ulong AddressOf(ulong index) => Start + ((index - PageOffset) << PageGeometry.PageShift);

    /// <summary>A copy that covers [<paramref name="start"/>, <paramref name="end"/>) of the same backing.</summary>
    public Vma Slice(ulong start, ulong end) => new()
    {
        Start = start,
        End = end,
        Flags = Flags,
        PageOffset = IndexOf(start),
        File = File,
        Device = Device,
        Opening = Opening,
        Uffd = Uffd,
        AnonVma = AnonVma,
        AnonChain = AnonChain,
        Reserve = Reserve,
        LostHugePage = LostHugePage,
        SpecialName = SpecialName,
        HugeOrder = HugeOrder,
    };

    public override string ToString() => $"{Range} {Flags}";
}
