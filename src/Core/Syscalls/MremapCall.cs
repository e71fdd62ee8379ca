using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>mremap (mm/mremap.c; Semantics 4.6). Addresses and lengths in bytes.</summary>
public readonly partial record struct MremapCall(
    SpaceId Space, ulong Address, ulong OldLength, ulong NewLength, MremapFlags Flags, ulong NewAddress = 0)
    : ISyscall<MremapCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Space(Space) is { Exited: false } space
        ? Run(turn.Kernel, space, Address, OldLength, NewLength, Flags, NewAddress)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) =>
        writer.Add(Space).Add(Address).Add(OldLength).Add(NewLength).Add((uint)Flags).Add(NewAddress);

    public static MremapCall Read(ref CommandReader reader) =>
        new(
            reader.Space(), reader.U64(), reader.U64(), reader.U64(), (MremapFlags)reader.U32(), reader.U64());

    private const int HeadRoom = 3;

    private readonly record struct Request(
        ulong Address, ulong OldLength, ulong NewLength, MremapFlags Flags, ulong NewAddress)
    {
        public bool IsFixed => (Flags & MremapFlags.Fixed) != 0;

        public bool MayMove => (Flags & MremapFlags.MayMove) != 0;

        public bool KeepsOld => (Flags & MremapFlags.DontUnmap) != 0;

        public AddressRange Old => new(Address, Address + OldLength);
    }

    internal static SyscallResult Run(
        KernelState kernel, AddressSpace space, ulong address, ulong oldLength, ulong newLength, MremapFlags flags,
        ulong newAddress)
    {
        if ((flags & ~MremapFlags.Known) != 0 || !IsPageAligned(address)) return Errno.EINVAL;
        oldLength = PageGeometry.AlignUp(oldLength, PageGeometry.PageSize);
        newLength = PageGeometry.AlignUp(newLength, PageGeometry.PageSize);
        var request = new Request(address, oldLength, newLength, flags, newAddress);
        var error = CheckArguments(space, request);
        if (error != Errno.None) return error;

        if (kernel.Profile.MovesSeveralAreas && request.IsFixed && oldLength == newLength)
            return MoveAll(kernel, space, request);
        return space.Vmas.Find(address) is { } vma ? RunOn(kernel, space, vma, request) : Errno.EFAULT;
    }

    /// <summary>
    /// remap_move: every area of the range moves, with the gaps between them; a gap at the start is -EFAULT. Areas
    /// moved before an error stay moved.
    /// </summary>
    private static SyscallResult MoveAll(KernelState kernel, AddressSpace space, Request request)
    {
        var (from, end) = (request.Address, request.Old.End);
        if (end < from) return Errno.EFAULT;
        var result = (SyscallResult)Errno.EFAULT;
        var isFirst = true;
        // The area behind may be the one that was moved, which its copy has joined.
        for (var vma = space.Vmas.FindFrom(from); from < end && vma is not null
            && vma.Start < end; vma = space.Vmas.FindFrom(from))
        {
            var address = Math.Max(vma.Start, request.Address);
            if (isFirst && address > request.Address) return Errno.EFAULT;
            from = vma.End;
            // vma_multi_allowed. No device here has a get_unmapped_area of its own.
            if (vma.Uffd is not null && (!isFirst || vma.End < end))
                return SyscallResult.Fail(Errno.EFAULT, !isFirst);
            var length = Math.Min(end, vma.End) - address;
            var moved = RunOn(kernel, space, vma, request with
            {
                Address = address,
                OldLength = length,
                NewLength = length,
                NewAddress = request.NewAddress + (address - request.Address),
            });
            if (!moved.IsOk) return SyscallResult.Fail(moved.Error, !isFirst || moved.IsPartial);
            if (isFirst) result = moved;
            isFirst = false;
        }

        return result;
    }

    private static SyscallResult RunOn(KernelState kernel, AddressSpace space, Vma vma, Request request)
    {
        if (vma.Has(VmFlags.Sealed)) return Errno.EPERM;
        var rounded = RoundToHugePages(vma, ref request);
        if (rounded != Errno.None) return rounded;

        if (!request.IsFixed && !request.KeepsOld)
        {
            if (request.OldLength == request.NewLength) return SyscallResult.Ok(request.Address);
            if (request.NewLength < request.OldLength) return ShrinkInPlace(kernel, space, request);
        }

        var error = CheckVma(space, vma, request);
        if (error != Errno.None) return error;
        if (request.IsFixed || request.KeepsOld) return MoveTo(kernel, space, vma, request);
        return Expand(kernel, space, vma, request);
    }

    /// <summary>mremap of hugetlbfs works on whole huge pages, and does not grow.</summary>
    private static Errno RoundToHugePages(Vma vma, ref Request request)
    {
        if (!vma.IsHugeTlb) return Errno.None;
        var size = PageGeometry.PageSize << vma.HugeOrder;
        request = request with
        {
            OldLength = PageGeometry.AlignUp(request.OldLength, size),
            NewLength = PageGeometry.AlignUp(request.NewLength, size),
        };
        var isAligned = PageGeometry.IsAligned(request.Address, size)
            && (!request.IsFixed || PageGeometry.IsAligned(request.NewAddress, size));
        return !isAligned || request.NewLength > request.OldLength ? Errno.EINVAL : Errno.None;
    }

    private static bool IsPageAligned(ulong value) => PageGeometry.IsAligned(value, PageGeometry.PageSize);

    private static Errno CheckArguments(AddressSpace space, Request request)
    {
        if (request.NewLength == 0 || request.NewLength > space.TaskSize) return Errno.EINVAL;
        if (!request.IsFixed && !request.KeepsOld) return Errno.None;
        if (!IsPageAligned(request.NewAddress)) return Errno.EINVAL;
        if (request.NewAddress > space.TaskSize - request.NewLength) return Errno.EINVAL;
        if (!request.MayMove) return Errno.EINVAL;
        if (request.KeepsOld && request.OldLength != request.NewLength) return Errno.EINVAL;
        var target = new AddressRange(request.NewAddress, request.NewAddress + request.NewLength);
        if (target.Overlaps(request.Old)) return Errno.EINVAL;
        // The worst case splits three areas.
        return space.MapCount + 2 >= PageGeometry.MaxMapCount - HeadRoom ? Errno.ENOMEM : Errno.None;
    }

    /// <summary>check_prep_vma.</summary>
    private static Errno CheckVma(AddressSpace space, Vma vma, Request request)
    {
        if (request.OldLength == 0 && !vma.HasAny(VmFlags.Shared | VmFlags.MayShare)) return Errno.EINVAL;
        if (request.KeepsOld && vma.HasAny(VmFlags.DontExpand | VmFlags.PfnMap)) return Errno.EINVAL;
        // A shrinking move unmaps the tail first, over whatever lies there.
        if (Math.Min(request.OldLength, request.NewLength) > vma.End - request.Address) return Errno.EFAULT;
        if (request.NewLength <= request.OldLength) return Errno.None;
        var offset = vma.IndexOf(request.Address);
        if (offset + (request.NewLength >> PageGeometry.PageShift) < offset) return Errno.EINVAL;
        if (vma.HasAny(VmFlags.DontExpand | VmFlags.PfnMap)) return Errno.EFAULT;
        var growth = request.NewLength - request.OldLength;
        var locked = MlockCalls.CheckNewMapping(space, vma.Flags, growth, isAsked: false);
        return locked != Errno.None ? locked : Limits.CheckExpansion(space, vma.Flags, growth);
    }

    private static SyscallResult ShrinkInPlace(KernelState kernel, AddressSpace space, Request request)
    {
        var cut = CutTail(kernel, space, request);
        return cut.IsOk ? SyscallResult.Ok(request.Address) : cut;
    }

    /// <summary>
    /// shrink_vma, by the checks of munmap itself: the old length is the caller's word and may run past the end of user
    /// space, or wrap.
    /// </summary>
    private static SyscallResult CutTail(KernelState kernel, AddressSpace space, Request request) => MunmapCall.Run(
        kernel, space, request.Address + request.NewLength, request.OldLength - request.NewLength);

    private static SyscallResult Expand(KernelState kernel, AddressSpace space, Vma vma, Request request)
    {
        var growth = request.NewLength - request.OldLength;
        if (request.Old.End == vma.End && CanGrow(space, vma, growth))
        {
            var end = vma.End;
            // vma_merge_extend: the new part joins the area, and the next one where that fits; never the one before.
            var extension = vma.Slice(vma.Start, vma.End);
            extension.PageOffset = vma.IndexOf(end);
            (extension.Start, extension.End) = (end, end + growth);
            if (VmaMerge.CanJoin(vma, extension)) VmaMerge.InsertOrMerge(space, extension);
            else vma.End += growth;
            return vma.Has(VmFlags.Locked)
                ? MlockCalls.Populate(
                    kernel, space, new AddressRange(end, end + growth), CallRestKind.Populate, request.Address)
                : SyscallResult.Ok(request.Address);
        }

        if (!request.MayMove) return Errno.ENOMEM;
        var placed = Place(kernel, space, vma, request, hint: 0);
        return placed.IsOk ? Move(kernel, space, vma, request, placed.Value) : placed;
    }

    private static SyscallResult Place(
        KernelState kernel, AddressSpace space, Vma vma, Request request, ulong hint) =>
        Placement.Choose(space, kernel.Profile, new PlacementRequest(hint, request.NewLength)
        {
            File = vma.File,
            PageOffset = vma.IndexOf(request.Address),
            HugeOrder = vma.HugeOrder,
            IsMove = vma.Device is not null,
        });

    /// <summary>
    /// vma_expandable: the bytes behind the area are free and below the end of user space; a stack's guard gap does not
    /// count.
    /// </summary>
    private static bool CanGrow(AddressSpace space, Vma vma, ulong growth)
    {
        var end = vma.End + growth;
        if (end < vma.End || end > space.TaskSize) return false;
        return space.Vmas.FindFrom(vma.End) is not { } next || end <= next.Start;
    }

    private static SyscallResult MoveTo(KernelState kernel, AddressSpace space, Vma vma, Request request)
    {
        var target = request.NewAddress;
        var isPartial = false;
        if (request.IsFixed)
        {
            isPartial = space.Vmas.Intersects(new AddressRange(target, target + request.NewLength));
            var error = MunmapCall.Unmap(kernel, space, new AddressRange(target, target + request.NewLength));
            if (error != Errno.None) return error;
        }

        if (request.NewLength < request.OldLength)
        {
            var cut = CutTail(kernel, space, request);
            if (!cut.IsOk) return SyscallResult.Fail(cut.Error, isPartial || cut.IsPartial);
            isPartial = true;
            request = request with { OldLength = request.NewLength };
            vma = space.Vmas.Find(request.Address)!;
        }

        // The unmapped range may have held the area to move.
        if (space.Vmas.Find(request.Address) is not { } still) return SyscallResult.Fail(Errno.EFAULT, isPartial);
        vma = still;
        if (request.KeepsOld && Limits.CheckExpansion(space, vma.Flags, request.OldLength) != Errno.None)
            return SyscallResult.Fail(Errno.ENOMEM, isPartial);
        if (!request.IsFixed)
        {
            var placed = Place(kernel, space, vma, request, request.NewAddress);
            if (!placed.IsOk) return SyscallResult.Fail(placed.Error, isPartial);
            target = placed.Value;
        }

        var moved = Move(kernel, space, vma, request, target);
        return moved.IsOk ? moved : SyscallResult.Fail(moved.Error, isPartial);
    }

    /// <summary>move_vma: copies the area, moves its entries, removes the old one.</summary>
    private static SyscallResult Move(KernelState kernel, AddressSpace space, Vma vma, Request request, ulong target)
    {
        if (space.MapCount >= PageGeometry.MaxMapCount - HeadRoom) return Errno.ENOMEM;
        if (!Mapping.SplitAt(kernel, space, request.Address) || !Mapping.SplitAt(kernel, space, request.Old.End))
            return Errno.ENOMEM;
        var offset = vma.IndexOf(request.Address);
        // An anonymous area that was never touched is numbered anew, so that it can merge at its new place.
        if (vma.IsAnonymous && vma.AnonVma is null) offset = target >> PageGeometry.PageShift;
        var copy = new Vma
        {
            Start = target,
            End = target + request.NewLength,
            Flags = vma.Flags | kernel.NewArea,
            Uffd = vma.Uffd,
            PageOffset = offset,
            File = vma.File,
            Device = vma.Device,
            Opening = vma.Opening,
            Reserve = vma.Reserve,
            LostHugePage = vma.LostHugePage,
            SpecialName = vma.SpecialName,
            HugeOrder = vma.HugeOrder,
        };
        copy.TakeAnon(vma);
        var merged = VmaMerge.InsertOrMerge(space, copy);
        // Nobody asked to hear of moves (UFFD_FEATURE_EVENT_REMAP): the area that the copy has become is registered no
        // more, all of it.
        merged.Flags &= ~(VmFlags.UffdMissing | VmFlags.UffdWp);
        merged.Uffd = null;
        if (!MoveEntries(kernel, space, request, target))
        {
            Mapping.Zap(kernel, space, copy, copy.Start, copy.End);
            MunmapCall.Unmap(kernel, space, new AddressRange(target, target + request.NewLength));
            return Errno.ENOMEM;
        }

        if (vma.Reserve is not null)
        {
            // clear_vma_resv_huge_pages: the promise has gone along. Only the part that moved lets it go.
            MunmapCall.Gather(space, request.Old);
            foreach (var old in space.Vmas.Overlapping(request.Old)) old.Reserve = null;
        }

        if (vma.Uffd is null)
            DropMovedTables(
                space, vma, merged, request.Address, target, Math.Min(request.OldLength, request.NewLength));
        if (request.KeepsOld) LeaveOld(space, request);
        else if (request.OldLength > 0) MunmapCall.Unmap(kernel, space, request.Old);
        // Only what the move added is filled.
        if (!merged.Has(VmFlags.Locked) || request.NewLength <= request.OldLength) return SyscallResult.Ok(target);
        var added = new AddressRange(target + request.OldLength, target + request.NewLength);
        return MlockCalls.Populate(kernel, space, added, CallRestKind.Populate, target);
    }

    /// <summary>MREMAP_DONTUNMAP: the old area stays, empty, unlocked, and may be faulted anew.</summary>
    private static void LeaveOld(AddressSpace space, Request request)
    {
        foreach (var old in space.Vmas.Overlapping(request.Old))
        {
            // The pages of the part that was not moved stay locked.
            if (old.Has(VmFlags.Locked)) space.UncountedUnlocks += old.Pages;
            old.Flags &= ~(VmFlags.Locked | VmFlags.LockOnFault);
            if (old.Range == request.Old) old.TakeAnon(null, null);
        }
    }

    /// <summary>
    /// move_normal_pmd: where both ends of the move lie alike over whole tables, these themselves go along, and nothing
    /// is left in their place. The first may begin before the areas do, where nothing else is in it (try_realign_addr).
    /// </summary>
    private static void DropMovedTables(AddressSpace space, Vma from, Vma to, ulong address, ulong target, ulong length)
    {
        var within = address % PageGeometry.PmdSize;
        if (within != target % PageGeometry.PmdSize) return;
        var mayBeginBefore = from.Start == address && to.Start == target && length >= PageGeometry.PmdSize - within
            && !space.Vmas.Intersects(new AddressRange(address - within, address))
            && !space.Vmas.Intersects(new AddressRange(target - within, target));
        var start = mayBeginBefore ? address - within : PageGeometry.AlignUp(address, PageGeometry.PmdSize);
        var end = PageGeometry.AlignDown(address + length, PageGeometry.PmdSize);
        if (start < end) space.PageTable.Prune(start, end);
    }

    /// <summary>
    /// A page table goes along wherever there is one, though nothing in it may be moved (move_page_tables: pte_alloc).
    /// </summary>
    private static bool MakeTables(PageTable table, ulong start, ulong end, ulong target)
    {
        for (var at = start; at < end;)
        {
            var to = target + (at - start);
            if (table.Find(at) is { Exists: true, Order: 0 } && !table.Ensure(to, 0).Exists) return false;
            at += Math.Min(
                PageGeometry.PmdSize - (at % PageGeometry.PmdSize), PageGeometry.PmdSize - (to % PageGeometry.PmdSize));
        }

        return true;
    }

    /// <summary>
    /// move_page_tables: the same entries at the new address; pins on the frames stay valid. False: no table left.
    /// </summary>
    private static bool MoveEntries(KernelState kernel, AddressSpace space, Request request, ulong target)
    {
        var table = space.PageTable;
        var length = Math.Min(request.OldLength, request.NewLength);
        var end = request.Address + length;
        if (!MakeTables(table, request.Address, end, target)) return false;
        var leaf = table.Leaves(request.Address, end);
        while (leaf.MoveNext())
        {
            var slot = leaf.Slot;
            var to = target + (leaf.Address - request.Address);
            if (slot.Order > 0 && !PageGeometry.IsAligned(to, slot.Size))
            {
                if (!Mapping.SplitLeaf(kernel, space, leaf.Address, slot)) return false;
                leaf.Again();
                continue;
            }

            var into = table.Ensure(to, slot.Order);
            if (!into.Exists) return false;
            if (slot.Order > 0 && table[into] != 0)
            {
                // A table of small entries is there already, empty: a huge leaf does not go in its place
                // (move_huge_pmd).
                if (!Mapping.SplitLeaf(kernel, space, leaf.Address, slot)) return false;
                leaf.Again();
                continue;
            }

            // move_soft_dirty_pte
            table[into] = (leaf.Entry & ~Pte.UffdWp) | ((leaf.Entry & Pte.Marker) == 0 ? kernel.SoftDirty : 0);
            leaf.Entry = 0;
        }

        return true;
    }
}
