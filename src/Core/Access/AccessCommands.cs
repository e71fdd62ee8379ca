using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Core.Access;

/// <summary>
/// FUTEX_WAKE_OP of private futexes on which nothing waits, with an operation that adds nothing: the second word is
/// written under a lock, and its page is made writable first when it is not (kernel/futex/waitwake.c: futex_wake_op).
/// </summary>
public readonly partial record struct FutexWakeOpCall(SpaceId Space, ulong Address) : ISyscall<FutexWakeOpCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if ((Address & 3) != 0) return Errno.EINVAL;
        if (Address >= turn.Kernel.TaskSize) return Errno.EFAULT;
        if (turn.Kernel.Space(Space) is not { Exited: false } space) return Errno.ESRCH;
        while (!UserAccess.CanWriteWithoutFault(space, Address))
        {
            // fault_in_user_writeable holds mmap_lock on: a handler outside is not asked.
            var fixedUp = UserAccess.FixupFault(turn.Kernel, space, Address, isWrite: true, mayDropLock: false);
            if (!fixedUp.IsOk) return fixedUp.Error;
        }

        UserAccess.Touch(turn.Kernel, space, Address, isWrite: true, out _);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Address);

    public static FutexWakeOpCall Read(ref CommandReader reader) => new(reader.Space(), reader.U64());
}

/// <summary>
/// fixup_user_fault: makes a page accessible as a user's own access would, without taking it. -EFAULT where there is no
/// area or no permission, -EINTR behind a fatal signal.
/// </summary>
/// <param name="Space">The address space.</param>
/// <param name="Address">Any byte of the page.</param>
/// <param name="IsWrite">Whether it is to be writable.</param>
/// <returns>1 when the lock was dropped meanwhile, so that areas looked up before are stale; else 0.</returns>
/// <remarks>Source: mm/gup.c: fixup_user_fault; row 74.</remarks>
public readonly partial record struct FixupUserFaultCall(SpaceId Space, ulong Address, bool IsWrite)
    : ISyscall<FixupUserFaultCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Space(Space) is not { Exited: false } space) return Errno.EFAULT;
        return UserAccess.FixupFault(turn.Kernel, space, Address, IsWrite);
    }

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Address).Add(IsWrite);

    public static FixupUserFaultCall Read(ref CommandReader reader) => new(reader.Space(), reader.U64(), reader.Bool());
}

/// <summary>
/// An address between a stack and the area below it belongs to the stack, which grows. -EFAULT when it belongs to no
/// area.
/// </summary>
/// <param name="Space">The address space.</param>
/// <param name="Address">The address, in bytes.</param>
/// <param name="Actor">Limits of the process that reaches for it; null for the owner's own.</param>
public readonly record struct GrowStackCall(SpaceId Space, ulong Address, TaskState? Actor) : ISyscall<GrowStackCall>
{
    public SyscallResult Run(in Turn turn)
    {
        var space = turn.Kernel.Space(Space);
        if (space.Exited || Address >= space.TaskSize) return Errno.EFAULT;
        if (space.Vmas.FindFrom(Address) is not { } vma) return Errno.EFAULT;
        var isInside = vma.Start <= Address || (vma.Has(VmFlags.GrowsDown)
            && StackGrowth.Expand(turn.Kernel, space, vma, Address, Actor));
        return isInside ? SyscallResult.Ok() : Errno.EFAULT;
    }

    public void Write(CommandWriter writer)
    {
        writer.Add(Space).Add(Address).Add(Actor is not null);
        if (Actor is not null) SetTaskCall.Write(writer, Actor);
    }

    public static GrowStackCall Read(ref CommandReader reader)
    {
        var (space, address) = (reader.Space(), reader.U64());
        return new GrowStackCall(space, address, reader.Bool() ? SetTaskCall.ReadTask(ref reader) : null);
    }
}

/// <summary>
/// vm_ops->access of memory without pages (mm/memory.c: generic_access_phys): by physical address, as far as the entry
/// allows. -EFAULT for other memory.
/// </summary>
/// <param name="space">The address space.</param>
/// <param name="address">First byte; the bytes lie in one page.</param>
/// <param name="part">Receives the bytes, or holds them.</param>
/// <param name="isWrite">A store.</param>
public readonly ref struct AccessRawCall(SpaceId space, ulong address, Span<byte> part, bool isWrite)
    : ISyscall<AccessRawCall>
{
    private readonly Span<byte> _part = part;

    public SyscallResult Run(in Turn turn)
    {
        var living = turn.Kernel.Space(space);
        if (living.Vmas.Find(address) is not { Device.HasAccess: true } vma || !vma.Has(VmFlags.PfnMap))
            return Errno.EFAULT;
        var entry = living.PageTable.Read(address);
        if ((entry & Pte.RawPfn) == 0 || (isWrite && (entry & Pte.Write) == 0)) return Errno.EFAULT;
        var pfn = Pte.PfnOf(entry);
        var within = (int)(address & ~PageGeometry.PageMask);
        if (!turn.Kernel.Memory.Frames.IsValid(pfn))
        {
            if (!isWrite) _part.Fill(0xff);
            return SyscallResult.Ok();
        }

        var bytes = turn.Kernel.Memory.Bytes.Of(pfn).Slice(within, _part.Length);
        if (isWrite) _part.CopyTo(bytes);
        else bytes.CopyTo(_part);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer)
    {
        writer.Add(space).Add(address).Add(isWrite);
        if (isWrite) writer.Add(_part);
        else writer.Add(_part.Length);
    }

    public static AccessRawCall Read(ref CommandReader reader)
    {
        var (space, address, isWrite) = (reader.Space(), reader.U64(), reader.Bool());
        return new AccessRawCall(space, address, isWrite ? reader.Bytes().ToArray() : reader.Room(), isWrite);
    }
}

/// <summary>
/// move_pages without targets: for each page 0 (its node), -ENOENT when it is absent, -EFAULT outside every area or for
/// the zero page. Source: mm/migrate.c: do_pages_stat_array.
/// </summary>
/// <param name="Space">The address space.</param>
/// <param name="Start">Address in bytes.</param>
/// <param name="Pages">Pages.</param>
public readonly record struct NodesQuery(SpaceId Space, ulong Start, int Pages) : IQuery<Errno[]>
{
    public Errno[] Run(in Turn turn)
    {
        var space = turn.Kernel.Space(Space);
        var result = new Errno[Pages];
        for (var i = 0; i < Pages; i++)
        {
            var at = Start + ((ulong)i << PageGeometry.PageShift);
            result[i] = space.Vmas.Find(at) is { } vma ? NodeOf(turn.Kernel, space, vma, at) : Errno.EFAULT;
        }

        return result;
    }

    private static Errno NodeOf(KernelState kernel, AddressSpace space, Vma vma, ulong address)
    {
        var slot = space.PageTable.Find(address);
        var entry = slot.Exists ? space.PageTable[slot] : 0;
        if (kernel.Profile.NodeQueryDumps)
        {
            // FOLL_DUMP: memory that would only be filled with zeroes is an error; no access, no look.
            if (entry == 0) return vma.IsAnonymous || vma.Device is not null ? Errno.EFAULT : Errno.ENOENT;
            if (!vma.HasAny(VmFlags.AccessMask) || vma.File is { Kind: FileKind.Secret }) return Errno.ENOENT;
        }

        if (!Pte.IsMapped(entry)) return Errno.ENOENT;
        var isZero = Pte.PfnOf(entry) == kernel.Memory.ZeroPage || Pte.PfnOf(entry) == kernel.HugeZero;
        if (isZero && !vma.Has(VmFlags.PfnMap)) return Errno.EFAULT;
        if ((entry & Pte.Special) == 0) return Errno.None;
        return kernel.Profile.NodeQueryDumps ? Errno.EFAULT : Errno.ENOENT;
    }
}

/// <summary>The answer to <see cref="HoldRangeCall"/>.</summary>
/// <param name="Hold">The hold; null when a page could not be had.</param>
/// <param name="Signal">
/// How the touch of the page at <paramref name="FailedAt"/> ended; SigBus for a page that is no RAM.
/// </param>
/// <param name="FailedAt">Address of that page, in bytes.</param>
public readonly record struct HoldRangeResult(FrameHold? Hold, UserSignal Signal, ulong FailedAt);

/// <summary>
/// Touches each page of a range, by a store where <paramref name="IsWrite"/>, which makes the page the space's own, and
/// puts the frames mapped then into quarantine for a process on the host. A mapping that changes later leaves the hold
/// with the old frames.
/// </summary>
/// <param name="Space">The address space.</param>
/// <param name="Start">Address in bytes, page-aligned.</param>
/// <param name="Pages">At least one.</param>
/// <param name="IsWrite">The process is going to store.</param>
public readonly partial record struct HoldRangeCall(SpaceId Space, ulong Start, long Pages, bool IsWrite)
    : ICommand<HoldRangeCall, HoldRangeResult>
{
    public HoldRangeResult Run(in Turn turn)
    {
        var kernel = turn.Kernel;
        if (kernel.Space(Space) is not { Exited: false } space) return new(null, UserSignal.SigSegvMapErr, Start);
        var runs = new List<FrameRun>();
        for (var i = 0L; i < Pages; i++)
        {
            var address = Start + ((ulong)i << PageGeometry.PageShift);
            var signal = UserAccess.Touch(kernel, space, address, IsWrite, out var pfn);
            if (signal == UserSignal.None && !kernel.Memory.Frames.IsValid(pfn)) signal = UserSignal.SigBus;
            if (signal != UserSignal.None) return new(null, signal, address);
            Append(runs, pfn);
        }

        return new(PinTable.Of(kernel).Holds.Quarantine(kernel, runs), UserSignal.None, Start);
    }

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Start).Add(Pages).Add(IsWrite);

    public static HoldRangeCall Read(ref CommandReader reader) =>
        new(reader.Space(), reader.U64(), reader.I64(), reader.Bool());

    private static void Append(List<FrameRun> runs, Pfn pfn)
    {
        if (runs.Count > 0 && runs[^1] is var last && last.First + last.Count == pfn && last.Count < FrameRun.MaxCount)
            runs[^1] = FrameRun.FromPacked(FrameRun.Pack(last.First.Value, last.Count + 1, isLarge: false));
        else runs.Add(FrameRun.FromPacked(FrameRun.Pack(pfn.Value, 1, isLarge: false)));
    }
}
