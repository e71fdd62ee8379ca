using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// A program's own loads and stores: permission checks, stack growth, faults, signals. Under the turn.
/// </summary>
internal static class UserAccess
{
    private const int RetryLimit = 64;

    /// <summary>
    /// Makes the page at <paramref name="address"/> accessible as a load or store would and returns its frame; the
    /// signal says why not.
    /// </summary>
    public static UserSignal Touch(KernelState kernel, AddressSpace space, ulong address, bool isWrite, out Pfn pfn)
    {
        pfn = Pfn.Invalid;
        if (address >= space.TaskSize)
        {
            return PageGeometry.IsCanonical(address, kernel.PageTableLevels)
                ? UserSignal.SigSegvMapErr
                : UserSignal.SigSegvNonCanonical;
        }

        var vma = space.Vmas.FindFrom(address);
        if (vma is null) return UserSignal.SigSegvMapErr;
        if (vma.Start > address && (!vma.Has(VmFlags.GrowsDown) || !StackGrowth.Expand(kernel, space, vma, address)))
            return UserSignal.SigSegvMapErr;
        if (kernel.HasProtectionKeys && vma.IsExecuteOnly) return UserSignal.SigSegvKey;
        // A load needs any access at all on x86; a store needs VM_WRITE.
        if (isWrite ? !vma.Has(VmFlags.Write) : !vma.HasAny(VmFlags.AccessMask)) return UserSignal.SigSegvAccErr;
        for (var attempt = 0; attempt < RetryLimit; attempt++)
        {
            var slot = space.PageTable.Find(address);
            var entry = slot.Exists ? space.PageTable[slot] : 0;
            if ((entry & Pte.Present) != 0 && (!isWrite || (entry & Pte.Write) != 0))
            {
                space.PageTable[slot] |= Pte.Accessed | (isWrite ? Pte.Dirty : 0);
                var offset = (address >> PageGeometry.PageShift) & ((1UL << slot.Order) - 1);
                pfn = Pte.PfnOf(entry) + offset;
                return UserSignal.None;
            }

            var flags = FaultFlags.User | FaultFlags.AllowRetry | FaultFlags.Killable
                | (isWrite ? FaultFlags.Write : 0);
            var request = new FaultRequest(space, vma, address, flags, AllocationContext.Movable);
            var result = FaultHandler.Handle(kernel, request, out var parks);
            if ((result & VmFault.ErrorMask) != 0) return SignalOf(kernel, result);
            // A plan's park is over at once for a program's own access; a handler outside takes its time.
            if (parks && kernel.Served.Open(space, address) is not null) return UserSignal.WaitsForHandler;
        }

        return UserSignal.OutOfMemory;
    }

    /// <summary>
    /// Copies between the address space and a buffer, page by page. Returns the bytes done; fewer than asked for came
    /// with a signal. MMIO without memory behind it reads as ones and swallows stores.
    /// </summary>
    public static int Copy(
        KernelState kernel, AddressSpace space, ulong address, Span<byte> buffer, bool isWrite, out UserSignal signal)
    {
        signal = UserSignal.None;
        var done = 0;
        while (done < buffer.Length)
        {
            var at = address + (ulong)done;
            signal = Touch(kernel, space, at, isWrite, out var pfn);
            if (signal != UserSignal.None) return done;
            var within = (int)(at & ~PageGeometry.PageMask);
            var part = buffer.Slice(done, Math.Min(buffer.Length - done, (int)PageGeometry.PageSize - within));
            if (kernel.Memory.Frames.IsValid(pfn))
            {
                var bytes = kernel.Memory.Bytes.Of(pfn).Slice(within, part.Length);
                if (isWrite) part.CopyTo(bytes);
                else bytes.CopyTo(part);
            }
            else if (!isWrite)
            {
                part.Fill(0xff);
            }

            done += part.Length;
        }

        return done;
    }

    /// <summary>A store at <paramref name="address"/> would need no fault.</summary>
    public static bool CanWriteWithoutFault(AddressSpace space, ulong address) =>
        Pte.Has(space.PageTable.Read(address), Pte.Present | Pte.Write);

    /// <summary>
    /// fixup_user_fault (mm/gup.c; Semantics 3.5): faults one page in for somebody who holds mmap_lock and holds
    /// it again afterwards. Grows no stack.
    /// </summary>
    /// <param name="kernel">The machine's memory.</param>
    /// <param name="space">Whose page.</param>
    /// <param name="address">Any byte of the page.</param>
    /// <param name="isWrite">Whether it is to be writable.</param>
    /// <param name="wasUnlocked">A fault before has dropped the lock.</param>
    /// <param name="mayDropLock">The caller can do without the lock; if not, a handler outside is not asked.</param>
    /// <returns>1 when the lock was dropped, else 0; it waits where a handler outside is asked.</returns>
    public static SyscallResult FixupFault(
        KernelState kernel, AddressSpace space, ulong address, bool isWrite, bool wasUnlocked = false,
        bool mayDropLock = true)
    {
        var unlocked = wasUnlocked;
        var flags = (isWrite ? FaultFlags.Write : 0) | (mayDropLock ? FaultFlags.AllowRetry | FaultFlags.Killable : 0)
            | (wasUnlocked ? FaultFlags.Tried : 0);
        while (true)
        {
            if (space.Vmas.Find(address) is not { } vma) return SyscallResult.Fail(Errno.EFAULT, unlocked);
            if (!vma.Has(isWrite ? VmFlags.Write : VmFlags.Read)) return SyscallResult.Fail(Errno.EFAULT, unlocked);
            if (mayDropLock && space.Task.Pending == PendingSignal.Fatal)
                return SyscallResult.Fail(Errno.EINTR, unlocked);
            var result = FaultHandler.Handle(
                kernel, new FaultRequest(space, vma, address, flags, AllocationContext.Movable), out var parks);
            if ((result & VmFault.ErrorMask) != 0)
            {
                var error = (result & VmFault.Oom) != 0 ? Errno.ENOMEM : Errno.EFAULT;
                return SyscallResult.Fail(error, unlocked);
            }

            if ((result & VmFault.Retry) == 0) return SyscallResult.Ok(unlocked ? 1UL : 0);
            unlocked = true;
            if (parks && kernel.Served.Open(space, address) is not null)
            {
                var kind = isWrite ? CallRestKind.FixupWrite : CallRestKind.FixupRead;
                return SyscallResult.Wait(new CallRest(address, address, kind, 1));
            }

            flags |= FaultFlags.Tried;
        }
    }

    private static UserSignal SignalOf(KernelState kernel, VmFault fault)
    {
        if ((fault & VmFault.Oom) != 0) return UserSignal.OutOfMemory;
        if ((fault & VmFault.SigSegv) != 0) return UserSignal.SigSegvMapErr;
        return kernel.HandlesMemoryFailure && (fault & (VmFault.HwPoison | VmFault.HwPoisonLarge)) != 0
            ? UserSignal.SigBusPoison
            : UserSignal.SigBus;
    }
}

/// <summary>
/// Growth of a VM_GROWSDOWN area by a user fault (mm/vma.c: expand_downwards; Semantics 4.8). The limits are
/// those of who touches it, which through /proc/PID/mem is another process.
/// </summary>
internal static class StackGrowth
{
    public static bool Expand(KernelState kernel, AddressSpace space, Vma vma, ulong address, TaskState? actor = null)
    {
        address &= PageGeometry.PageMask;
        if (address < PageGeometry.MmapMinAddress) return false;
        var below = space.Vmas.Before(vma.Start);
        if (below is not null && !below.Has(VmFlags.GrowsDown) && below.HasAny(VmFlags.AccessMask)
            && address - Math.Min(address, below.End) < PageGeometry.StackGuardGap)
            return false;
        if (below is not null && address < below.End) return false;
        // Before the limits are asked: it stays when they refuse.
        FaultHandler.PrepareAnonVma(kernel, space, vma);
        var task = actor ?? space.Task;
        if (task.RlimitStack != TaskState.Unlimited && vma.End - address > task.RlimitStack) return false;
        var growth = vma.Start - address;
        if (growth >> PageGeometry.PageShift > vma.PageOffset) return false;
        if (MlockCalls.CheckNewMapping(space, vma.Flags, growth, isAsked: false, task) != Errno.None) return false;
        if (Limits.CheckExpansion(space, vma.Flags, growth, actor: task) != Errno.None) return false;
        vma.PageOffset -= growth >> PageGeometry.PageShift;
        vma.Start = address;
        return true;
    }
}
