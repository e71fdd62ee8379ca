using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// Which ranges the memory calls take away, whatever RPC, packet or lease sends the call. Commands of other rooms and
/// some of this one say it in a file of their own, beside the command.
/// </summary>
internal static class TakenRanges
{
    /// <summary>
    /// The parts of a range that are mapped, unless an area in it is sealed: then the call is refused.
    /// </summary>
    public static void AddMapped(
        AddressSpace space, AddressRange range, TakeCause cause, ICollection<TakenRange> taken)
    {
        if (range.IsEmpty) return;
        var areas = space.Vmas.Overlapping(range);
        if (areas.Exists(vma => vma.Has(VmFlags.Sealed) || CutsHugePage(vma, range))) return;
        foreach (var vma in areas) taken.Add(new TakenRange(space.Id, vma.Range.Intersect(range), cause));
    }

    /// <summary>A huge page of hugetlbfs cannot be split: the call is refused.</summary>
    public static bool CutsHugePage(Vma vma, AddressRange range)
    {
        if (!vma.IsHugeTlb) return false;
        var size = PageGeometry.PageSize << vma.HugeOrder;
        return (range.Start > vma.Start && !PageGeometry.IsAligned(range.Start, size))
            || (range.End < vma.End && !PageGeometry.IsAligned(range.End, size));
    }

    /// <summary>The places where pages of a file are mapped, in any address space. Pages of 4 KiB.</summary>
    /// <param name="file">The file.</param>
    /// <param name="first">First page.</param>
    /// <param name="end">Page behind the last one.</param>
    /// <param name="cause">Why they are taken.</param>
    /// <param name="taken">Gets the ranges.</param>
    public static void AddMappings(
        MemoryFile file, ulong first, ulong end, TakeCause cause, ICollection<TakenRange> taken)
    {
        if (first >= end) return;
        foreach (var vma in file.Mappings.Over<Vma>(first, end))
            taken.Add(new TakenRange(vma.Space.Id, vma.AddressesOf(first, end), cause));
    }

    /// <summary>The pages of a range that are mapped writable and lose that right.</summary>
    public static void AddWritable(AddressSpace space, AddressRange range, ICollection<TakenRange> taken)
    {
        var leaves = space.PageTable.Leaves(range);
        while (leaves.MoveNext())
            if (Pte.IsMapped(leaves.Entry) && (leaves.Entry & Pte.Write) != 0)
            {
                var start = PageGeometry.AlignDown(leaves.Address, leaves.Slot.Size);
                taken.Add(new TakenRange(space.Id, new AddressRange(start, leaves.End), TakeCause.WriteProtect));
            }
    }

    /// <summary>The shared mappings of pages of a file that are written back (folio_mkclean).</summary>
    public static void AddWriteBack(MemoryFile file, ulong first, ulong pages, ICollection<TakenRange> taken)
    {
        foreach (var vma in file.Mappings.Over<Vma>(first, first + pages))
            if (vma.Has(VmFlags.Shared)) AddWritable(vma.Space, vma.AddressesOf(first, first + pages), taken);
    }

    /// <summary>Pages that stores of a program would replace.</summary>
    /// <param name="kernel">The machine's kernel.</param>
    /// <param name="id">The address space.</param>
    /// <param name="start">An address in the first page.</param>
    /// <param name="pages">Pages of 4 KiB.</param>
    /// <param name="taken">Gets the ranges.</param>
    public static void AddStores(
        KernelState kernel, SpaceId id, ulong start, long pages, ICollection<TakenRange> taken)
    {
        start &= PageGeometry.PageMask;
        if (pages <= 0 || start >= kernel.TaskSize) return;
        var most = (kernel.TaskSize - start) >> PageGeometry.PageShift;
        var end = start + (Math.Min((ulong)pages, most) << PageGeometry.PageShift);
        var space = kernel.Space(id);
        // The program ends at the first page that it may not store to. A store below a stack makes the stack grow.
        var reach = start;
        while (reach < end && space.Vmas.FindFrom(reach) is { } vma && vma.Has(VmFlags.Write)
            && (vma.Start <= reach || vma.Has(VmFlags.GrowsDown)))
            reach = vma.End;
        var range = new AddressRange(start, Math.Min(reach, end));
        if (!range.IsEmpty) Unsharing.AddTaken(kernel, space, range, Unsharing.Access.Store, taken);
    }

    /// <summary>A range that a call populates: writable private memory is faulted in for writing.</summary>
    public static void AddPopulated(
        KernelState kernel, AddressSpace space, AddressRange range, ICollection<TakenRange> taken)
    {
        foreach (var vma in space.Vmas.Overlapping(range))
        {
            if (vma.HasAny(VmFlags.Io | VmFlags.PfnMap)) continue;
            Unsharing.AddTaken(kernel, space, vma.Range.Intersect(range), Unsharing.Access.Store, taken);
        }
    }

    /// <summary>A page-aligned range of a call; empty where the kernel refuses it.</summary>
    public static AddressRange Aligned(ulong taskSize, ulong start, ulong length)
    {
        if (!PageGeometry.IsAligned(start, PageGeometry.PageSize) || start > taskSize) return default;
        if (length > taskSize - start) return default;
        return new AddressRange(start, start + PageGeometry.AlignUp(length, PageGeometry.PageSize));
    }

    /// <summary>
    /// A page-aligned range of a call that does what it can before it meets a hole; empty where the kernel refuses it
    /// at once. Nothing is mapped above the user address space.
    /// </summary>
    public static AddressRange Reachable(ulong taskSize, ulong start, ulong length)
    {
        if (!PageGeometry.IsAligned(start, PageGeometry.PageSize) || start >= taskSize) return default;
        var end = start + PageGeometry.AlignUp(length, PageGeometry.PageSize);
        return end <= start ? default : new AddressRange(start, Math.Min(end, taskSize));
    }
}

public readonly partial record struct MunmapCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken) => TakenRanges.AddMapped(
        turn.Kernel.Space(Space), TakenRanges.Aligned(turn.Kernel.TaskSize, Start, Length), TakeCause.Munmap, taken);
}

public readonly partial record struct MmapCall : IInvalidating, IMemoryMapping
{
    public AddressRange MappedAt(ulong value) =>
        new(value, PageGeometry.AlignUp(value + Length, PageGeometry.PageSize));

    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if ((Flags & MapFlags.Fixed) == 0 || (Flags & MapFlags.FixedNoReplace) != 0) return;
        var kernel = turn.Kernel;
        if (kernel.Space(Space) is not { Exited: false } space || IsRefused(kernel, space)) return;
        var size = PageGeometry.PageSize << HugeOrder(kernel);
        var range = TakenRanges.Aligned(kernel.TaskSize, Address, PageGeometry.AlignUp(Length, size));
        TakenRanges.AddMapped(space, range, TakeCause.Mmap, taken);
    }

    /// <summary>log2 of the frames of a page of the mapping.</summary>
    private int HugeOrder(KernelState kernel)
    {
        if (Mapped(kernel).File is { } file) return file.Order;
        return (Flags & MapFlags.HugeTlb) == 0 ? 0 : OrderOf(Flags);
    }

    /// <summary>The checks that come before the old areas go, but for the limits of the process.</summary>
    private bool IsRefused(KernelState kernel, AddressSpace space)
    {
        var (file, device) = Mapped(kernel);
        if ((file is null && NamesFile) || (device is null && NamesDevice)) return true;
        var order = HugeOrder(kernel);
        if (order is not (0 or PageGeometry.PmdOrder or PageGeometry.PudOrder)) return true;
        if (Length == 0 || !PageGeometry.IsAligned(Offset, PageGeometry.PageSize)) return true;
        if (!PageGeometry.IsAligned(Address, PageGeometry.PageSize << order)) return true;
        if (Address < PageGeometry.MmapMinAddress && !space.Task.CanMapLow) return true;
        var vmFlags = FlagsOf(kernel, space, Prot, Flags);
        var length = PageGeometry.AlignUp(Length, PageGeometry.PageSize << order);
        var error = file is null && device is null && order == 0
            ? ApplyAnonymous(kernel, Flags, ref vmFlags)
            : ApplyFile(kernel, RequestOf(file, device), length, Flags, ref vmFlags);
        return error != Errno.None || space.DeniesWriteExec(vmFlags, vmFlags);
    }
}

public readonly partial record struct MprotectCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        var space = turn.Kernel.Space(Space);
        if ((Prot & ~(Prot.AccessMask | Prot.Sem | Prot.GrowsDown)) != 0) return;
        var range = TakenRanges.Reachable(space.TaskSize, Start, Length);
        if ((Prot & Prot.GrowsDown) != 0)
        {
            if (space.Vmas.FindFrom(Start) is not { } stack || !stack.Has(VmFlags.GrowsDown)) return;
            range = range with { Start = stack.Start };
        }

        for (var at = range.Start; at < range.End;)
        {
            // The call stops at the first area that refuses; the areas before it have changed.
            if (space.Vmas.Find(at) is not { } vma || vma.Has(VmFlags.Sealed)) return;
            var flags = (vma.Flags & ~VmFlags.AccessMask) | (VmFlags)(Prot & Prot.AccessMask);
            if ((flags & (VmFlags)~((ulong)flags >> 4) & VmFlags.AccessMask) != 0) return;
            if (space.DeniesWriteExec(vma.Flags, flags) || TakenRanges.CutsHugePage(vma, range)) return;
            var part = new AddressRange(at, Math.Min(range.End, vma.End));
            if (flags != vma.Flags) taken.Add(new TakenRange(Space, part, TakeCause.Mprotect));
            at = part.End;
        }
    }
}

public readonly partial record struct BrkCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        var space = turn.Kernel.Space(Space);
        if (Wanted < space.Layout.StartBrk || Wanted >= space.Brk) return;
        var data = Wanted - space.Layout.StartBrk + space.Layout.DataSize;
        if (space.Task.RlimitData != TaskState.Unlimited && data > space.Task.RlimitData) return;
        var from = PageGeometry.AlignUp(Wanted, PageGeometry.PageSize);
        var to = PageGeometry.AlignUp(space.Brk, PageGeometry.PageSize);
        TakenRanges.AddMapped(space, new AddressRange(from, to), TakeCause.Brk, taken);
    }
}

public readonly partial record struct ForkCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        // Pages of private memory become copy-on-write; shared mappings stay what they are.
        foreach (var vma in turn.Kernel.Space(Space).Vmas.All)
            if (vma.IsCow && !vma.HasAny(VmFlags.DontCopy | VmFlags.WipeOnFork))
                taken.Add(new TakenRange(Space, vma.Range, TakeCause.Fork));
    }
}

public readonly partial record struct ExitCall : IInvalidating
{
    /// <summary>
    /// Every subscriber of the mm is told, whatever is mapped (mm/mmu_notifier.c: __mmu_notifier_release).
    /// </summary>
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (turn.Kernel.Space(Space).Exited) return;
        taken.Add(new TakenRange(Space, new AddressRange(0, turn.Kernel.TaskSize), TakeCause.Exit));
    }
}

public readonly partial record struct TruncateCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (turn.Kernel.File(File) is not { } file || Size >= file.Size) return;
        var isWhole = PageGeometry.IsAligned(Size, PageGeometry.PageSize << file.Order);
        if ((file.Kind == FileKind.HugeTlb && !isWhole) || file.Kind == FileKind.Secret) return;
        var first = PageGeometry.PagesOf(Size);
        TakenRanges.AddMappings(file, first, PageGeometry.PagesOf(file.Size), TakeCause.Truncate, taken);
    }
}

public readonly partial record struct PunchHoleCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (Length == 0 || !FileCalls.IsInOffsets(Offset, Length)) return;
        if (turn.Kernel.File(File) is not { WriteSealed: false } file || file.Kind == FileKind.Secret) return;
        // Parts of pages are zeroed in place.
        var (first, end) = (PageGeometry.PagesOf(Offset), (Offset + Length) >> PageGeometry.PageShift);
        TakenRanges.AddMappings(file, first, end, TakeCause.Truncate, taken);
    }
}

public readonly partial record struct TouchCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (IsWrite) TakenRanges.AddStores(turn.Kernel, Space, Start, Pages, taken);
    }
}

public readonly ref partial struct StoreCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (_bytes.IsEmpty) return;
        var pages = PageGeometry.PagesOf((address & ~PageGeometry.PageMask) + (ulong)_bytes.Length);
        TakenRanges.AddStores(turn.Kernel, space, address, (long)pages, taken);
    }
}

public readonly partial record struct MlockCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        var end = PageGeometry.AlignUp(Start + Length, PageGeometry.PageSize);
        if (Flags != 0 || end <= Start) return;
        var (space, range) = (turn.Kernel.Space(Space), new AddressRange(Start & PageGeometry.PageMask, end));
        // A hole ends the call before anything is populated.
        if (Limits.MappedBytes(space, range) == range.Length)
            TakenRanges.AddPopulated(turn.Kernel, space, range, taken);
    }
}

public readonly partial record struct MlockAllCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        const uint current = 1;
        const uint onFault = 4;
        if ((Flags & (current | onFault)) != current) return;
        var everything = new AddressRange(0, turn.Kernel.TaskSize);
        TakenRanges.AddPopulated(turn.Kernel, turn.Kernel.Space(Space), everything, taken);
    }
}
