using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// madvise (mm/madvise.c; Semantics 4.7). A hole is reported as -ENOMEM after the rest was done.
/// </summary>
public readonly partial record struct MadviseCall(SpaceId Space, ulong Start, ulong Length, Advice Advice)
    : ISyscall<MadviseCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Space(Space) is { Exited: false } space
        ? Run(turn.Kernel, space, Start, Length, Advice)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Start).Add(Length).Add((int)Advice);

    public static MadviseCall Read(ref CommandReader reader) =>
        new(reader.Space(), reader.U64(), reader.U64(), (Advice)reader.I32());

    internal static SyscallResult Run(KernelState kernel, AddressSpace space, ulong start, ulong length, Advice advice)
    {
        if (!IsKnown(kernel, advice) || !PageGeometry.IsAligned(start, PageGeometry.PageSize)) return Errno.EINVAL;
        var rounded = PageGeometry.AlignUp(length, PageGeometry.PageSize);
        if (length != 0 && rounded == 0) return Errno.EINVAL;
        var end = start + rounded;
        if (end < start) return Errno.EINVAL;
        if (end == start) return SyscallResult.Ok();
        if (advice == Advice.HwPoison) return Poison(kernel, space, start, end);
        if (advice is Advice.PopulateRead or Advice.PopulateWrite) return Populate(kernel, space, start, end, advice);
        return ForEach(kernel, space, new AddressRange(start, end), advice);
    }

    private static bool IsKnown(KernelState kernel, Advice advice) => advice switch
    {
        Advice.GuardInstall or Advice.GuardRemove => kernel.Profile.HasGuardRegions,
        Advice.HwPoison => kernel.HandlesMemoryFailure,
        Advice.Collapse => false,
        _ => Enum.IsDefined(advice),
    };

    /// <summary>madvise_walk_vmas.</summary>
    private static SyscallResult ForEach(KernelState kernel, AddressSpace space, AddressRange range, Advice advice)
    {
        var unmapped = Errno.None;
        var at = range.Start;
        var isPartial = false;
        while (at < range.End)
        {
            var vma = space.Vmas.FindFrom(at);
            if (vma is null || vma.Start >= range.End) return SyscallResult.Fail(Errno.ENOMEM, isPartial);
            if (vma.Start > at)
            {
                unmapped = Errno.ENOMEM;
                at = vma.Start;
            }

            var part = new AddressRange(at, Math.Min(range.End, vma.End));
            var error = One(kernel, space, vma, part, advice);
            if (error != Errno.None) return SyscallResult.Fail(error, isPartial);
            isPartial = true;
            at = part.End;
        }

        return unmapped == Errno.None ? SyscallResult.Ok() : SyscallResult.Fail(unmapped, isPartial);
    }

    private static Errno One(KernelState kernel, AddressSpace space, Vma vma, AddressRange part, Advice advice)
    {
        if (IsRefusedBySeal(vma, advice)) return Errno.EPERM;
        switch (advice)
        {
            case Advice.WillNeed:
                if (vma.File is { Kind: FileKind.Disk } file)
                    FaultHandler.CacheRange(
                        kernel, file, vma.IndexOf(part.Start), part.Length >> PageGeometry.PageShift);
                else Reclaim.ReadBack(kernel, space, vma, part);
                return Errno.None;
            case Advice.DontNeed or Advice.DontNeedLocked or Advice.Free:
                return Discard(kernel, space, vma, part, advice);
            case Advice.Remove:
                return Remove(kernel, vma, part);
            case Advice.Cold or Advice.PageOut:
                if (vma.HasAny(VmFlags.Locked | VmFlags.PfnMap | VmFlags.HugeTlb)) return Errno.EINVAL;
                if (advice == Advice.PageOut) Reclaim.PageOut(kernel, space, vma, part);
                else Reclaim.Cool(kernel, space, part);
                return Errno.None;
            case Advice.GuardInstall or Advice.GuardRemove:
                return Guard(kernel, space, vma, part, advice == Advice.GuardInstall);
            default:
                var flags = NewFlags(vma, advice, out var error);
                if (error != Errno.None) return error;
                error = VmaFlagChange.Apply(space, ref vma, part.Start, part.End, flags);
                return error == Errno.ENOMEM ? Errno.EAGAIN : error;
        }
    }

    /// <summary>
    /// can_madvise_modify: anonymous memory that a program could not overwrite, because it is sealed and not writable,
    /// it may not discard either. File mappings it may.
    /// </summary>
    private static bool IsRefusedBySeal(Vma vma, Advice advice) =>
        vma.Has(VmFlags.Sealed) && !vma.Has(VmFlags.Write) && vma.IsAnonymous
        && (advice is Advice.DontNeed or Advice.DontNeedLocked or Advice.Free or Advice.Remove or Advice.DontFork
            or Advice.WipeOnFork or Advice.GuardInstall);

    private static VmFlags NewFlags(Vma vma, Advice advice, out Errno error)
    {
        error = Errno.None;
        var flags = vma.Flags;
        switch (advice)
        {
            case Advice.Normal: return flags & ~(VmFlags.RandRead | VmFlags.SeqRead);
            case Advice.Sequential: return (flags & ~VmFlags.RandRead) | VmFlags.SeqRead;
            case Advice.Random: return (flags & ~VmFlags.SeqRead) | VmFlags.RandRead;
            case Advice.DontFork: return flags | VmFlags.DontCopy;
            case Advice.DoFork:
                if (vma.Has(VmFlags.Io)) error = Errno.EINVAL;
                return flags & ~VmFlags.DontCopy;
            case Advice.WipeOnFork:
                if (!vma.IsAnonymous || vma.HasAny(VmFlags.Shared)) error = Errno.EINVAL;
                return flags | VmFlags.WipeOnFork;
            case Advice.KeepOnFork:
                if (vma.Has(VmFlags.Droppable)) error = Errno.EINVAL;
                return flags & ~VmFlags.WipeOnFork;
            case Advice.DontDump: return flags | VmFlags.DontDump;
            case Advice.DoDump:
                if ((!vma.IsHugeTlb && vma.HasAny(VmFlags.Special)) || vma.Has(VmFlags.Droppable))
                    error = Errno.EINVAL;
                return flags & ~VmFlags.DontDump;
            case Advice.Mergeable:
                return vma.HasAny(
                    VmFlags.Special | VmFlags.Shared | VmFlags.MayShare | VmFlags.HugeTlb | VmFlags.Droppable)
                ? flags : flags | VmFlags.Mergeable;
            case Advice.Unmergeable: return flags & ~VmFlags.Mergeable;
            case Advice.HugePage:
                return (flags & ~VmFlags.NoHugePage) | VmFlags.HugePage;
            case Advice.NoHugePage:
                return (flags & ~VmFlags.HugePage) | VmFlags.NoHugePage;
            default:
                error = Errno.EINVAL;
                return flags;
        }
    }

    /// <summary>DONTNEED, DONTNEED_LOCKED and FREE.</summary>
    private static Errno Discard(KernelState kernel, AddressSpace space, Vma vma, AddressRange part, Advice advice)
    {
        var forbidden = advice == Advice.DontNeedLocked ? VmFlags.PfnMap : VmFlags.PfnMap | VmFlags.Locked;
        if (vma.IsHugeTlb)
        {
            if (advice == Advice.Free || vma.HasAny(forbidden & ~VmFlags.PfnMap)) return Errno.EINVAL;
            var size = PageGeometry.PageSize << vma.HugeOrder;
            if (!PageGeometry.IsAligned(part.Start, size)) return Errno.EINVAL;
            part = part with { End = PageGeometry.AlignDown(part.End, size) };
            if (part.IsEmpty) return Errno.None;
        }
        else if (vma.HasAny(forbidden))
        {
            return Errno.EINVAL;
        }

        if (advice != Advice.Free)
        {
            if (!Mapping.Zap(kernel, space, vma, part.Start, part.End, keepMarkers: true)) return Errno.ENOMEM;
            // Tables whose whole reach was discarded go (CONFIG_PT_RECLAIM).
            space.PageTable.Prune(part.Start, part.End);
            return Errno.None;
        }

        if (!vma.IsAnonymous) return Errno.EINVAL;
        Reclaim.MarkLazyFree(kernel, space, vma, part);
        return Errno.None;
    }

    /// <summary>MADV_REMOVE: a hole in the file under a shared mapping that may be written.</summary>
    private static Errno Remove(KernelState kernel, Vma vma, AddressRange part)
    {
        if (vma.Has(VmFlags.Locked) || (vma.File is null && vma.Device is null)) return Errno.EINVAL;
        if (!vma.Has(VmFlags.Shared | VmFlags.MayWrite)) return Errno.EACCES;
        // vfs_fallocate: a device is no regular file.
        if (vma.File is not { } file) return Errno.ENODEV;
        if (file.Kind == FileKind.Secret) return Errno.EOPNOTSUPP;
        FileCalls.PunchHole(kernel, file, vma.IndexOf(part.Start) << PageGeometry.PageShift, part.Length);
        return Errno.None;
    }

    private static Errno Guard(KernelState kernel, AddressSpace space, Vma vma, AddressRange part, bool install)
    {
        var refused = VmFlags.Special | VmFlags.HugeTlb | (install ? VmFlags.Locked : 0);
        if (vma.HasAny(refused)) return Errno.EINVAL;
        if (!install)
        {
            var leaf = space.PageTable.Leaves(part);
            while (leaf.MoveNext())
                if (leaf.Entry == Pte.GuardMarker) leaf.Entry = 0;
            return Errno.None;
        }

        if (!Mapping.Zap(kernel, space, vma, part.Start, part.End)) return Errno.ENOMEM;
        // Anonymous memory with page tables ought to have its anon_vma.
        if (vma.IsAnonymous) FaultHandler.PrepareAnonVma(kernel, space, vma);
        vma.Flags |= VmFlags.MaybeGuard;
        for (var address = part.Start; address < part.End; address += PageGeometry.PageSize)
        {
            var slot = space.PageTable.Ensure(address, 0);
            if (!slot.Exists) return Errno.ENOMEM;
            space.PageTable[slot] = Pte.GuardMarker;
        }

        return Errno.None;
    }

    private static SyscallResult Populate(KernelState kernel, AddressSpace space, ulong start, ulong end, Advice advice)
    {
        var flags = GupFlags.Touch | GupFlags.HwPoison | GupFlags.MadvPopulate
            | (advice == Advice.PopulateWrite ? GupFlags.Write : 0);
        var walked = GupWalk.Populate(kernel, space, start, (long)((end - start) >> PageGeometry.PageShift), flags);
        if (walked.Parks)
        {
            var kind = advice == Advice.PopulateWrite ? CallRestKind.PopulateWrite : CallRestKind.PopulateRead;
            var at = start + ((ulong)walked.Pages << PageGeometry.PageShift);
            return SyscallResult.Wait(new CallRest(at, end, kind, 0));
        }

        return walked.Error == Errno.None ? SyscallResult.Ok() : SyscallResult.Fail(walked.Error, walked.Pages > 0);
    }

    /// <summary>
    /// MADV_HWPOISON (madvise_inject_error): faults each page in and declares it broken. A huge page counts as one.
    /// </summary>
    private static SyscallResult Poison(KernelState kernel, AddressSpace space, ulong start, ulong end)
    {
        if (!space.Task.IsAdmin) return Errno.EPERM;
        for (var address = start; address < end;)
        {
            var walked = GupWalk.Populate(kernel, space, address, 1, GupFlags.Touch);
            if (walked.Parks) return SyscallResult.Wait(new CallRest(address, end, CallRestKind.HwPoison, 0));
            if (walked.Error != Errno.None) return SyscallResult.Fail(walked.Error, address > start);
            var slot = space.PageTable.Find(address);
            var entry = space.PageTable[slot];
            if ((entry & Pte.Special) != 0) return SyscallResult.Fail(Errno.EBUSY, isPartial: true);
            var pfn = Pte.PfnOf(entry) + ((address >> PageGeometry.PageShift) & ((1UL << slot.Order) - 1));
            var folio = PageGeometry.PageSize << kernel.Memory.Frames.OrderOf(kernel.Memory.Frames.HeadOf(pfn));
            var error = MemoryFailure.Run(kernel, pfn);
            if (error != Errno.None) return SyscallResult.Fail(error, isPartial: true);
            address += folio;
        }

        return SyscallResult.Ok();
    }
}
