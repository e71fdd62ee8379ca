using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// brk (mm/mmap.c: brk; Semantics 4.8): the answer is the new break, or the old one when it cannot be had.
/// </summary>
public readonly partial record struct BrkCall(SpaceId Space, ulong Wanted) : ISyscall<BrkCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Space(Space) is { Exited: false } space
        ? Run(turn.Kernel, space, Wanted)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Wanted);

    public static BrkCall Read(ref CommandReader reader) =>
        new(reader.Space(), reader.U64());

    private static SyscallResult Run(KernelState kernel, AddressSpace space, ulong wanted)
    {
        if (wanted < space.Layout.StartBrk) return SyscallResult.Ok(space.Brk);
        var old = space.Brk;
        var task = space.Task;
        if (task.RlimitData != TaskState.Unlimited
            && wanted - space.Layout.StartBrk + space.Layout.DataSize > task.RlimitData)
            return SyscallResult.Ok(old);
        var from = PageGeometry.AlignUp(old, PageGeometry.PageSize);
        var to = PageGeometry.AlignUp(wanted, PageGeometry.PageSize);
        if (from != to && !(wanted <= old ? Shrink(kernel, space, from, to) : Grow(kernel, space, from, to)))
            return SyscallResult.Ok(old);
        space.Brk = wanted;
        return space.LocksFuture && to > from
            ? MlockCalls.Populate(kernel, space, new AddressRange(from, to), CallRestKind.Populate, wanted)
            : SyscallResult.Ok(wanted);
    }

    private static bool Shrink(KernelState kernel, AddressSpace space, ulong from, ulong to)
    {
        var range = new AddressRange(to, from);
        return space.Vmas.Intersects(range) && MunmapCall.Unmap(kernel, space, range) == Errno.None;
    }

    private static bool Grow(KernelState kernel, AddressSpace space, ulong from, ulong to)
    {
        // check_brk_limits. A break on one of the last 4095 addresses is rounded to 0, and to - from is past any limit.
        if (to - from > space.TaskSize || to > space.TaskSize) return false;
        var next = space.Vmas.FindFrom(from);
        if (next is not null && to + PageGeometry.PageSize > Placement.GuardedStart(next)) return false;
        const VmFlags flags = VmFlags.Read | VmFlags.Write | VmFlags.MayRead | VmFlags.MayWrite | VmFlags.MayExec
            | VmFlags.Account;
        var locked = !space.LocksFuture ? 0 : space.LocksFutureOnFault
            ? VmFlags.Locked | VmFlags.LockOnFault
            : VmFlags.Locked;
        if (MlockCalls.CheckNewMapping(space, flags | locked, to - from, isAsked: false) != Errno.None) return false;
        if (Limits.CheckExpansion(space, flags, to - from) != Errno.None) return false;
        if (space.MapCount > PageGeometry.MaxMapCount) return false;
        VmaMerge.InsertOrMerge(space, new Vma
        {
            Start = from,
            End = to,
            Flags = flags | locked | kernel.NewArea,
            PageOffset = from >> PageGeometry.PageShift,
        });
        return true;
    }
}

/// <summary>mseal (mm/mseal.c; Semantics 4.8): all of the range or nothing.</summary>
public readonly record struct MsealCall(SpaceId Space, ulong Start, ulong Length, ulong Flags) : ISyscall<MsealCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Space(Space) is { Exited: false } space
        ? Run(turn.Kernel, space, Start, Length, Flags)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Start).Add(Length).Add(Flags);

    public static MsealCall Read(ref CommandReader reader) =>
        new(reader.Space(), reader.U64(), reader.U64(), reader.U64());

    internal static SyscallResult Run(KernelState kernel, AddressSpace space, ulong start, ulong length, ulong flags)
    {
        if (!kernel.Profile.HasMseal) return Errno.ENOSYS;
        if (flags != 0 || !PageGeometry.IsAligned(start, PageGeometry.PageSize)) return Errno.EINVAL;
        var rounded = PageGeometry.AlignUp(length, PageGeometry.PageSize);
        if (length != 0 && rounded == 0) return Errno.EINVAL;
        var range = new AddressRange(start, start + rounded);
        if (range.End < start) return Errno.EINVAL;
        if (range.End == start) return SyscallResult.Ok();
        if (Limits.MappedBytes(space, range) != range.Length) return Errno.ENOMEM;
        for (var at = range.Start; at < range.End;)
        {
            var vma = space.Vmas.Find(at)!;
            var end = Math.Min(range.End, vma.End);
            var error = VmaFlagChange.Apply(space, ref vma, at, end, vma.Flags | VmFlags.Sealed);
            if (error != Errno.None) return error;
            at = end;
        }

        return SyscallResult.Ok();
    }
}

/// <summary>
/// msync (mm/msync.c): a hole is -ENOMEM after the rest was done; MS_INVALIDATE on locked memory is -EBUSY.
/// </summary>
public readonly record struct MsyncCall(SpaceId Space, ulong Start, ulong Length, MsyncFlags Flags)
    : ISyscall<MsyncCall>, IInvalidating
{
    /// <summary>Write-back takes the write right of the file's pages in every shared mapping.</summary>
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        var range = TakenRanges.Reachable(turn.Kernel.TaskSize, Start, Length);
        if ((Flags & MsyncFlags.Sync) == 0 || turn.Kernel.Space(Space) is not { Exited: false } space) return;
        foreach (var vma in space.Vmas.Overlapping(range))
        {
            if (!vma.Has(VmFlags.Shared) || vma.File is not { TracksDirty: true } file) continue;
            var part = vma.Range.Intersect(range);
            TakenRanges.AddWriteBack(file, vma.IndexOf(part.Start), part.Pages, taken);
        }
    }

    public SyscallResult Run(in Turn turn) => turn.Kernel.Space(Space) is { Exited: false } space
        ? Run(turn.Kernel, space, Start, Length, Flags)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Start).Add(Length).Add((uint)Flags);

    public static MsyncCall Read(ref CommandReader reader) =>
        new(reader.Space(), reader.U64(), reader.U64(), (MsyncFlags)reader.U32());

    internal static SyscallResult Run(
        KernelState kernel, AddressSpace space, ulong start, ulong length, MsyncFlags flags)
    {
        const MsyncFlags known = MsyncFlags.Async | MsyncFlags.Invalidate | MsyncFlags.Sync;
        if ((flags & ~known) != 0 || !PageGeometry.IsAligned(start, PageGeometry.PageSize)) return Errno.EINVAL;
        if ((flags & (MsyncFlags.Async | MsyncFlags.Sync)) == (MsyncFlags.Async | MsyncFlags.Sync)) return Errno.EINVAL;
        var range = new AddressRange(start, start + PageGeometry.AlignUp(length, PageGeometry.PageSize));
        if (range.End < start) return Errno.ENOMEM;
        if (range.IsEmpty) return SyscallResult.Ok();
        var mapped = 0UL;
        var isPartial = false;
        foreach (var vma in space.Vmas.Overlapping(range))
        {
            if ((flags & MsyncFlags.Invalidate) != 0 && vma.Has(VmFlags.Locked))
                return SyscallResult.Fail(Errno.EBUSY, isPartial);
            var part = vma.Range.Intersect(range);
            mapped += part.Length;
            if ((flags & MsyncFlags.Sync) == 0 || !vma.Has(VmFlags.Shared)) continue;
            if (!HasFsync(vma)) return SyscallResult.Fail(Errno.EINVAL, isPartial);
            if (vma.File is not { TracksDirty: true } file) continue;
            Clean(kernel, file, vma.IndexOf(part.Start), part.Length >> PageGeometry.PageShift);
            isPartial = true;
        }

        return mapped == range.Length ? SyscallResult.Ok() : SyscallResult.Fail(Errno.ENOMEM, isPartial);
    }

    /// <summary>vfs_fsync_range: the file behind the area has an fsync method. Devices and secret memory have none.
    /// </summary>
    private static bool HasFsync(Vma vma) => vma.Device is null && vma.File is not { HasFsync: false };

    /// <summary>
    /// Write-back of a part of a file: its dirty pages become clean and, in every shared mapping, write-protected, so
    /// that the next store is noticed (folio_mkclean).
    /// </summary>
    internal static void Clean(KernelState kernel, MemoryFile file, ulong first, ulong pages)
    {
        for (var index = first; index < first + pages; index++)
        {
            if (file.Lookup(index) is not { } pfn) continue;
            var info = kernel.Memory.Frames[pfn];
            if (info.MapCount > 0) ProtectMappings(file, index);
            info.Flags &= ~(FrameFlags.Dirty | FrameFlags.Reclaim);
        }
    }

    private static void ProtectMappings(MemoryFile file, ulong index)
    {
        foreach (var vma in file.Mappings.Over<Vma>(index, index + 1))
        {
            if (!vma.Has(VmFlags.Shared)) continue;
            var table = vma.Space.PageTable;
            var slot = table.Find(vma.AddressesOf(index, index + 1).Start);
            if (slot.Exists && Pte.IsMapped(table[slot])) table[slot] &= ~(Pte.Dirty | Pte.Write);
        }
    }
}

/// <summary>mincore (mm/mincore.c): one byte a page, 1 where it is resident; -ENOMEM for a hole.</summary>
/// <param name="space">Whose memory.</param>
/// <param name="start">Address in bytes, page-aligned.</param>
/// <param name="length">Bytes.</param>
/// <param name="residency">Gets a byte for each page.</param>
public readonly ref struct MincoreQuery(SpaceId space, ulong start, ulong length, Span<byte> residency)
    : IQuery<SyscallResult>
{
    private readonly Span<byte> _residency = residency;

    public SyscallResult Run(in Turn turn) => turn.Kernel.Space(space) is { Exited: false } living
        ? Run(turn.Kernel, living, start, length, _residency)
        : Errno.ESRCH;

    internal static SyscallResult Run(
        KernelState kernel, AddressSpace space, ulong start, ulong length, Span<byte> residency)
    {
        if (!PageGeometry.IsAligned(start, PageGeometry.PageSize)) return Errno.EINVAL;
        if (start > space.TaskSize || length > space.TaskSize - start) return Errno.ENOMEM;
        var pages = PageGeometry.PagesOf(length);
        for (var page = 0UL; page < pages; page++)
        {
            var address = start + (page << PageGeometry.PageShift);
            if (space.Vmas.Find(address) is not { } vma) return Errno.ENOMEM;
            // access_ok of the vector: the buffer is the caller's word.
            if (page >= (ulong)residency.Length) return Errno.EFAULT;
            var i = (int)page;
            // can_do_mincore: of the kernel's own pages, and of files of others, all count as there.
            if (vma.SpecialName is not null || vma.IsClosedTo(space.Task))
            {
                residency[i] = 1;
                continue;
            }

            // Frames without pages are not looked at.
            if (vma.Has(VmFlags.PfnMap))
            {
                residency[i] = 0;
                continue;
            }

            var entry = space.PageTable.Read(address);
            // Markers are looked through to the page cache; hugetlb counts what is mapped
            // only, where there is a table at all.
            if ((entry & Pte.Swap) != 0)
            {
                residency[i] = kernel.Swap!.Cached(Pte.SlotOf(entry)) is not null ? (byte)1 : (byte)0;
                continue;
            }

            var isResident = entry is not (0 or Pte.GuardMarker or Pte.UffdPoisonMarker)
                || (vma.File is { } file && (!vma.IsHugeTlb || !space.PageTable.HasPmdTable(address))
                    && file.IsResident(vma.IndexOf(address)));
            residency[i] = isResident ? (byte)1 : (byte)0;
        }

        return SyscallResult.Ok();
    }
}
