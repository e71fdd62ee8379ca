using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>mlock, mlock2, munlock, mlockall, munlockall and populate (mm/mlock.c; Semantics 4.8).</summary>
internal static class MlockCalls
{
    private const uint MlockOnFault = 1;
    private const uint MclCurrent = 1;
    private const uint MclFuture = 2;
    private const uint MclOnFault = 4;

    /// <summary>can_do_mlock and mlock_future_ok for a new mapping.</summary>
    public static Errno CheckNewMapping(
        AddressSpace space, VmFlags flags, ulong length, bool isAsked, TaskState? actor = null)
    {
        var task = actor ?? space.Task;
        if (isAsked && !task.CanLockMemory && task.RlimitMemlock == 0) return Errno.EPERM;
        if ((flags & VmFlags.Locked) == 0 || task.CanLockMemory) return Errno.None;
        var locked = space.LockedPages << PageGeometry.PageShift;
        return locked + length > task.RlimitMemlock ? Errno.EAGAIN : Errno.None;
    }

    /// <summary>mlock2: flags 0, or MLOCK_ONFAULT.</summary>
    public static SyscallResult Lock(KernelState kernel, AddressSpace space, ulong start, ulong length, uint flags)
    {
        if ((flags & ~MlockOnFault) != 0) return Errno.EINVAL;
        var task = space.Task;
        if (!task.CanLockMemory && task.RlimitMemlock == 0) return Errno.EPERM;
        var range = Round(start, length);
        // The limit comes before the range is looked at, and counts its pages without their sum in bytes.
        if (!task.CanLockMemory)
        {
            var pages = space.LockedPages + range.Pages;
            var counted = range.End < range.Start ? range with { End = ulong.MaxValue } : range;
            foreach (var vma in space.Vmas.Overlapping(counted))
                if (vma.Has(VmFlags.Locked)) pages -= vma.Range.Intersect(counted).Pages;
            if (pages > task.RlimitMemlock >> PageGeometry.PageShift) return Errno.ENOMEM;
        }

        if (range.End < range.Start) return Errno.EINVAL;
        var onFault = (flags & MlockOnFault) != 0 ? VmFlags.LockOnFault : 0;
        var error = Apply(kernel, space, range, VmFlags.Locked | onFault, out var isPartial);
        if (error != Errno.None) return SyscallResult.Fail(error, isPartial);
        return Populate(kernel, space, range, CallRestKind.Mlock);
    }

    /// <summary>__mlock_posix_error_return.</summary>
    private static Errno ErrnoOfMlock(Errno populated) => populated switch
    {
        Errno.EFAULT => Errno.ENOMEM,
        Errno.ENOMEM => Errno.EAGAIN,
        _ => populated,
    };

    public static SyscallResult Unlock(KernelState kernel, AddressSpace space, ulong start, ulong length)
    {
        var range = Round(start, length);
        if (range.End < range.Start) return Errno.EINVAL;
        var error = Apply(kernel, space, range, VmFlags.None, out var isPartial);
        return error == Errno.None ? SyscallResult.Ok() : SyscallResult.Fail(error, isPartial);
    }

    public static SyscallResult LockAll(KernelState kernel, AddressSpace space, uint flags)
    {
        if (flags == 0 || (flags & ~(MclCurrent | MclFuture | MclOnFault)) != 0 || flags == MclOnFault)
            return Errno.EINVAL;
        var task = space.Task;
        if (!task.CanLockMemory && task.RlimitMemlock == 0) return Errno.EPERM;
        var isCurrent = (flags & MclCurrent) != 0;
        if (isCurrent && !task.CanLockMemory && space.CountPages() << PageGeometry.PageShift > task.RlimitMemlock)
            return Errno.ENOMEM;
        space.LocksFuture = (flags & MclFuture) != 0;
        space.LocksFutureOnFault = (flags & MclOnFault) != 0;
        if (!isCurrent) return SyscallResult.Ok();
        var onFault = (flags & MclOnFault) != 0 ? VmFlags.LockOnFault : 0;
        foreach (var vma in space.Vmas.All.ToList()) LockOne(kernel, space, vma, vma.Range, VmFlags.Locked | onFault);
        return Populate(kernel, space, new AddressRange(0, space.TaskSize), CallRestKind.Populate);
    }

    public static SyscallResult UnlockAll(KernelState kernel, AddressSpace space)
    {
        space.LocksFuture = false;
        space.LocksFutureOnFault = false;
        foreach (var vma in space.Vmas.All.ToList()) LockOne(kernel, space, vma, vma.Range, VmFlags.None);
        return SyscallResult.Ok();
    }

    /// <summary>
    /// __mm_populate: faults pages in as they will be used. The caller has let mmap_lock go, and waits for a handler
    /// outside.
    /// </summary>
    /// <param name="kernel">The machine's memory.</param>
    /// <param name="space">Whose pages.</param>
    /// <param name="range">The range; holes are passed over.</param>
    /// <param name="kind">mlock, which the first area that fails ends, or mm_populate, which goes on behind it.</param>
    /// <param name="value">The answer when it is done.</param>
    public static SyscallResult Populate(
        KernelState kernel, AddressSpace space, AddressRange range, CallRestKind kind, ulong value = 0)
    {
        foreach (var vma in space.Vmas.Overlapping(range))
        {
            var part = vma.Range.Intersect(range);
            var walked = PopulateArea(kernel, space, vma, part, mayUnlock: true);
            if (walked.Parks)
            {
                var at = part.Start + ((ulong)walked.Pages << PageGeometry.PageShift);
                return SyscallResult.Wait(new CallRest(at, range.End, kind, value));
            }

            if (walked.Error != Errno.None && kind == CallRestKind.Mlock)
                return SyscallResult.Fail(ErrnoOfMlock(walked.Error), isPartial: true);
        }

        return SyscallResult.Ok(value);
    }

    /// <summary>populate_vma_page_range.</summary>
    /// <param name="kernel">The machine's memory.</param>
    /// <param name="space">Whose pages.</param>
    /// <param name="vma">The area.</param>
    /// <param name="part">A part of it.</param>
    /// <param name="mayUnlock">The caller can let mmap_lock go.</param>
    public static WalkEnd PopulateArea(
        KernelState kernel, AddressSpace space, Vma vma, AddressRange part, bool mayUnlock)
    {
        if (vma.HasAny(VmFlags.Io | VmFlags.PfnMap | VmFlags.LockOnFault)) return default;
        var flags = GupFlags.Touch;
        if ((vma.Flags & (VmFlags.Write | VmFlags.Shared)) == VmFlags.Write) flags |= GupFlags.Write;
        if (vma.HasAny(VmFlags.AccessMask)) flags |= GupFlags.Force;
        return GupWalk.Populate(
            kernel, space, part.Start, (long)(part.Length >> PageGeometry.PageShift), flags, mayUnlock);
    }

    private static AddressRange Round(ulong start, ulong length)
    {
        length = PageGeometry.AlignUp(length + (start & ~PageGeometry.PageMask), PageGeometry.PageSize);
        start &= PageGeometry.PageMask;
        return new AddressRange(start, start + length);
    }

    /// <summary>apply_vma_lock_flags: a hole ends it with -ENOMEM, what came before stays changed.</summary>
    private static Errno Apply(
        KernelState kernel, AddressSpace space, AddressRange range, VmFlags lockFlags, out bool isPartial)
    {
        isPartial = false;
        if (range.IsEmpty) return Errno.None;
        for (var at = range.Start; at < range.End;)
        {
            if (space.Vmas.Find(at) is not { } vma) return Errno.ENOMEM;
            var part = new AddressRange(at, Math.Min(range.End, vma.End));
            var error = LockOne(kernel, space, vma, part, lockFlags);
            if (error != Errno.None) return error;
            isPartial = true;
            at = part.End;
        }

        return Errno.None;
    }

    /// <summary>
    /// mlock_fixup: special, hugetlb, secret and droppable areas are passed over in silence (row 129).
    /// </summary>
    private static Errno LockOne(KernelState kernel, AddressSpace space, Vma vma, AddressRange part, VmFlags lockFlags)
    {
        if (vma.HasAny(VmFlags.Special | VmFlags.HugeTlb | VmFlags.Droppable)) return Errno.None;
        if (vma.File is { Kind: FileKind.Secret or FileKind.FsDax }) return Errno.None;
        var flags = (vma.Flags & ~(VmFlags.Locked | VmFlags.LockOnFault)) | lockFlags;
        var changes = ((vma.Flags ^ flags) & VmFlags.Locked) != 0;
        var error = VmaFlagChange.Apply(space, ref vma, part.Start, part.End, flags);
        // Locking twice would count twice.
        if (error == Errno.None && changes) Mlock.Walk(kernel, space, part, locks: (flags & VmFlags.Locked) != 0);
        return error;
    }
}
