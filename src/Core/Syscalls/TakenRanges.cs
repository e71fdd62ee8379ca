using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// Which ranges the memory calls take away: the one place that decides it, whatever RPC, packet or lease sends the
/// call.
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
        if (areas.Exists(vma => vma.Has(VmFlags.Sealed))) return;
        foreach (var vma in areas) taken.Add(new TakenRange(space.Id, vma.Range.Intersect(range), cause));
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

    /// <summary>A page-aligned range of a call; empty where the kernel refuses it.</summary>
    public static AddressRange Aligned(ulong start, ulong length)
    {
        if (!PageGeometry.IsAligned(start, PageGeometry.PageSize) || start > PageGeometry.TaskSize) return default;
        if (length > PageGeometry.TaskSize - start) return default;
        return new AddressRange(start, start + PageGeometry.AlignUp(length, PageGeometry.PageSize));
    }
}

public readonly partial record struct MunmapCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken) => TakenRanges.AddMapped(
        turn.Kernel.Space(Space), TakenRanges.Aligned(Start, Length), TakeCause.Munmap, taken);
}

public readonly partial record struct MmapCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if ((Flags & MapFlags.Fixed) == 0 || (Flags & MapFlags.FixedNoReplace) != 0) return;
        var kernel = turn.Kernel;
        if (kernel.Space(Space) is not { Exited: false } space || IsRefused(kernel, space)) return;
        TakenRanges.AddMapped(space, TakenRanges.Aligned(Address, Length), TakeCause.Mmap, taken);
    }

    /// <summary>The checks that come before the old areas go, but for the limits of the process.</summary>
    private bool IsRefused(KernelState kernel, AddressSpace space)
    {
        var (file, device) = (kernel.File(File), kernel.Device(Device));
        if ((file is null && File != FileId.None) || (device is null && Device != DeviceId.None)) return true;
        var order = file?.Order ?? 0;
        if (Length == 0 || !PageGeometry.IsAligned(Offset, PageGeometry.PageSize)) return true;
        if (!PageGeometry.IsAligned(Address, PageGeometry.PageSize << order)) return true;
        if (Address < PageGeometry.MmapMinAddress && !space.Task.CanMapLow) return true;
        var vmFlags = FlagsOf(kernel, space, Prot, Flags);
        var error = file is null && device is null
            ? ApplyAnonymous(kernel, Flags, ref vmFlags)
            : ApplyFile(RequestOf(file, device), Flags, ref vmFlags);
        return error != Errno.None || space.DeniesWriteExec(vmFlags, vmFlags);
    }
}

public readonly partial record struct MprotectCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        var space = turn.Kernel.Space(Space);
        if ((Prot & ~(Prot.AccessMask | Prot.Sem)) != 0) return;
        var range = TakenRanges.Aligned(Start, Length);
        for (var at = range.Start; at < range.End;)
        {
            // The call stops at the first area that refuses; the areas before it have changed.
            if (space.Vmas.Find(at) is not { } vma || vma.Has(VmFlags.Sealed)) return;
            var flags = (vma.Flags & ~VmFlags.AccessMask) | (VmFlags)(Prot & Prot.AccessMask);
            if ((flags & (VmFlags)~((ulong)flags >> 4) & VmFlags.AccessMask) != 0) return;
            var part = new AddressRange(at, Math.Min(range.End, vma.End));
            if (flags != vma.Flags) taken.Add(new TakenRange(Space, part, TakeCause.Mprotect));
            at = part.End;
        }
    }
}

public readonly partial record struct MadviseCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        var kernel = turn.Kernel;
        var space = kernel.Space(Space);
        if (!IsKnown(kernel, Advice) || (Advice == Advice.HwPoison && !space.Task.IsAdmin)) return;
        foreach (var vma in space.Vmas.Overlapping(TakenRanges.Aligned(Start, Length)))
        {
            // The call stops at the first area that refuses; the areas before it have changed.
            var part = vma.Range.Intersect(TakenRanges.Aligned(Start, Length));
            if (IsRefusedBySeal(vma, Advice) || !TryAdd(kernel, space, vma, part, taken)) return;
        }
    }

    private bool TryAdd(
        KernelState kernel, AddressSpace space, Vma vma, AddressRange part, ICollection<TakenRange> taken)
    {
        switch (Advice)
        {
            case Advice.DontNeed or Advice.DontNeedLocked or Advice.Free:
                var locks = Advice == Advice.DontNeedLocked ? VmFlags.None : VmFlags.Locked;
                if (vma.HasAny(locks | (vma.IsHugeTlb ? 0 : VmFlags.PfnMap))) return false;
                if (Advice == Advice.Free && !vma.IsAnonymous) return false;
                break;
            case Advice.Remove:
                if (vma.Has(VmFlags.Locked) || vma.File is not { } file) return false;
                if (!vma.Has(VmFlags.Shared | VmFlags.MayWrite) || file.Kind == FileKind.Secret) return false;
                var first = vma.IndexOf(part.Start);
                TakenRanges.AddMappings(file, first, first + part.Pages, TakeCause.Madvise, taken);
                return true;
            case Advice.PageOut:
                if (vma.HasAny(VmFlags.Locked | VmFlags.PfnMap | VmFlags.HugeTlb)) return false;
                break;
            case Advice.GuardInstall:
                if (vma.HasAny(VmFlags.Special | VmFlags.HugeTlb | VmFlags.Locked)) return false;
                break;
            case Advice.HwPoison:
                break;
            default:
                return true;
        }

        taken.Add(new TakenRange(space.Id, part, TakeCause.Madvise));
        return true;
    }
}

public readonly partial record struct BrkCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        var space = turn.Kernel.Space(Space);
        if (Wanted < space.Layout.StartBrk || Wanted >= space.Brk) return;
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
            if (vma.IsCow) taken.Add(new TakenRange(Space, vma.Range, TakeCause.Fork));
    }
}

public readonly partial record struct ExitCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        foreach (var vma in turn.Kernel.Space(Space).Vmas.All)
            taken.Add(new TakenRange(Space, vma.Range, TakeCause.Exit));
    }
}

public readonly partial record struct TruncateCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (turn.Kernel.File(File) is not { } file || Size >= file.Size) return;
        var isWhole = PageGeometry.IsAligned(Size, PageGeometry.PageSize << file.Order);
        if (file.Kind == FileKind.HugeTlb && !isWhole) return;
        var first = PageGeometry.PagesOf(Size);
        TakenRanges.AddMappings(file, first, ulong.MaxValue, TakeCause.Truncate, taken);
    }
}

public readonly partial record struct PunchHoleCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (Length == 0 || Offset + Length < Offset) return;
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
        if (!IsWrite || Pages <= 0) return;
        var start = Start & PageGeometry.PageMask;
        var range = new AddressRange(start, start + ((ulong)Pages << PageGeometry.PageShift));
        Unsharing.AddTaken(turn.Kernel, turn.Kernel.Space(Space), range, taken);
    }
}

public readonly ref partial struct StoreCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (_bytes.IsEmpty) return;
        var end = PageGeometry.AlignUp(address + (ulong)_bytes.Length, PageGeometry.PageSize);
        var range = new AddressRange(address & PageGeometry.PageMask, end);
        Unsharing.AddTaken(turn.Kernel, turn.Kernel.Space(space), range, taken);
    }
}
