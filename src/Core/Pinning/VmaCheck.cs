using FramePin.Core.Abi;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Pinning;

/// <summary>
/// check_vma_flags: may this VMA be walked with these flags (mm/gup.c; Semantics 3.3). Order matters.
/// </summary>
internal static class VmaCheck
{
    public static Errno Check(KernelState kernel, Vma vma, GupFlags flags, out StopReason reason)
    {
        var isWrite = (flags & GupFlags.Write) != 0;
        var isForced = (flags & GupFlags.Force) != 0;
        var isLongTerm = (flags & GupFlags.LongTerm) != 0;
        reason = StopReason.PfnMapping;
        if (vma.HasAny(VmFlags.Io | VmFlags.PfnMap)) return Errno.EFAULT;
        reason = StopReason.Permission;
        // arch_vma_access_permitted: another process's keys are not asked.
        if (kernel.HasProtectionKeys && (flags & GupFlags.Remote) == 0 && vma.IsExecuteOnly) return Errno.EFAULT;
        reason = StopReason.NotAnonymous;
        if ((flags & GupFlags.Anon) != 0 && !vma.IsAnonymous) return Errno.EFAULT;
        reason = StopReason.DirectAccess;
        if (isLongTerm && vma.File is { Kind: FileKind.FsDax }) return Errno.EOPNOTSUPP;
        reason = StopReason.BadArguments;
        if ((flags & GupFlags.SplitPmd) != 0 && vma.IsHugeTlb) return Errno.EOPNOTSUPP;
        reason = StopReason.Secret;
        if (vma.File is { Kind: FileKind.Secret }) return Errno.EFAULT;
        if (isWrite)
        {
            reason = StopReason.DirtyTrackedFile;
            if (!vma.IsAnonymous && isLongTerm && (flags & GupFlags.Pin) != 0
                && kernel.Profile.RefusesDirtyTrackedLongTerm
                && NeedsDirtyTracking(vma))
                return Errno.EFAULT;
            reason = StopReason.Permission;
            if (vma.Has(VmFlags.Write)) return Errno.None;
            if (!isForced || !vma.IsCow) return Errno.EFAULT;
            return vma.IsHugeTlb && !kernel.Profile.ForcesHugeTlbWrites ? Errno.EFAULT : Errno.None;
        }

        reason = StopReason.Permission;
        if (vma.Has(VmFlags.Read)) return Errno.None;
        return isForced && vma.Has(VmFlags.MayRead) ? Errno.None : Errno.EFAULT;
    }

    /// <summary>vma_needs_dirty_tracking: a shared writable mapping of a file that is written back.</summary>
    private static bool NeedsDirtyTracking(Vma vma) =>
        vma.Has(VmFlags.Shared | VmFlags.Write) && vma.File is { TracksDirty: true };
}
