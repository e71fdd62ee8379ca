using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// mprotect (mm/mprotect.c: do_mprotect_pkey; Semantics 4.5): what was changed before an error stays changed.
/// </summary>
public readonly partial record struct MprotectCall(SpaceId Space, ulong Start, ulong Length, Prot Prot)
    : ISyscall<MprotectCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Space(Space) is { Exited: false } space
        ? Run(turn.Kernel, space, Start, Length, Prot)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Start).Add(Length).Add((uint)Prot);

    public static MprotectCall Read(ref CommandReader reader) =>
        new(reader.Space(), reader.U64(), reader.U64(), (Prot)reader.U32());

    internal static SyscallResult Run(KernelState kernel, AddressSpace space, ulong start, ulong length, Prot prot)
    {
        var grows = prot & (Prot.GrowsDown | Prot.GrowsUp);
        prot &= ~(Prot.GrowsDown | Prot.GrowsUp);
        if (grows == (Prot.GrowsDown | Prot.GrowsUp)) return Errno.EINVAL;
        if (!PageGeometry.IsAligned(start, PageGeometry.PageSize)) return Errno.EINVAL;
        if (length == 0) return SyscallResult.Ok();
        length = PageGeometry.AlignUp(length, PageGeometry.PageSize);
        var end = start + length;
        if (end <= start) return Errno.ENOMEM;
        if ((prot & ~(Prot.AccessMask | Prot.Sem)) != 0) return Errno.EINVAL;
        var vma = space.Vmas.FindFrom(start);
        if (vma is null) return Errno.ENOMEM;
        if (grows == Prot.GrowsDown)
        {
            if (vma.Start >= end) return Errno.ENOMEM;
            if (!vma.Has(VmFlags.GrowsDown)) return Errno.EINVAL;
            start = vma.Start;
        }
        else if (vma.Start > start)
        {
            return Errno.ENOMEM;
        }

        if (grows == Prot.GrowsUp) return Errno.EINVAL;
        var first = start;
        while (start < end)
        {
            var isPartial = start > first;
            if (space.Vmas.Find(start) is not { } area) return SyscallResult.Fail(Errno.ENOMEM, isPartial);
            var upTo = Math.Min(end, area.End);
            var flags = (area.Flags & ~VmFlags.AccessMask) | (VmFlags)(prot & Prot.AccessMask);
            // Each access bit has its MAY bit four places higher.
            if ((flags & (VmFlags)~((ulong)flags >> 4) & VmFlags.AccessMask) != 0)
                return SyscallResult.Fail(Errno.EACCES, isPartial);
            if (space.DeniesWriteExec(area.Flags, flags)) return SyscallResult.Fail(Errno.EACCES, isPartial);
            var error = Change(kernel, space, area, start, upTo, flags);
            if (error != Errno.None) return SyscallResult.Fail(error, isPartial);
            start = upTo;
        }

        return SyscallResult.Ok();
    }

    /// <summary>mprotect_fixup for one area.</summary>
    private static Errno Change(KernelState kernel, AddressSpace space, Vma vma, ulong start, ulong end, VmFlags flags)
    {
        if (vma.Has(VmFlags.Sealed)) return Errno.EPERM;
        if (flags == vma.Flags) return Errno.None;
        var becomesWritable = (flags & VmFlags.Write) != 0 && !vma.Has(VmFlags.Write);
        if (becomesWritable)
        {
            // May not become data, although the range would be allowed as what it is.
            if (Limits.CheckExpansion(space, flags, end - start) != Errno.None
                && Limits.CheckExpansion(space, vma.Flags, end - start) == Errno.None)
                return Errno.ENOMEM;

            const VmFlags accounted = VmFlags.Account | VmFlags.Write | VmFlags.HugeTlb | VmFlags.Shared
                | VmFlags.NoReserve;
            if (!vma.HasAny(accounted)) flags |= VmFlags.Account;
        }
        else if (kernel.Profile.MprotectUnaccounts && (flags & VmFlags.Write) == 0 && vma.Has(VmFlags.Account)
            && vma.IsAnonymous
            && vma.AnonVma is null)
        {
            flags &= ~VmFlags.Account;
        }

        var wasLockedPrivate =
            (vma.Flags & (VmFlags.Write | VmFlags.Shared | VmFlags.Locked | VmFlags.LockOnFault)) == VmFlags.Locked;
        var error = VmaFlagChange.Apply(space, ref vma, start, end, flags);
        if (error != Errno.None) return error;
        if (!Mapping.ChangeProtection(kernel, space, vma, start, end)) return Errno.ENOMEM;
        // Locked private memory that becomes writable is copied now rather than at a later fault.
        if (wasLockedPrivate && (flags & VmFlags.Write) != 0)
            MlockCalls.PopulateArea(kernel, space, vma, new AddressRange(start, end), mayUnlock: false);
        return Errno.None;
    }
}
