using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Pinning;

/// <summary>How one walk under the lock ended.</summary>
/// <param name="Pages">Pages taken by it.</param>
/// <param name="Error">Set only when it took none.</param>
/// <param name="IsLockDropped">A fault dropped mmap_lock: the caller decides whether to go on.</param>
/// <param name="Parks">The fault waits for a handler or a plan; the walk goes on only when it is resumed.</param>
internal readonly record struct WalkEnd(long Pages, Errno Error, bool IsLockDropped, bool Parks);

/// <summary>
/// The slow walk, __get_user_pages: page by page, faulting in what is missing (Semantics 3.4). Under the turn.
/// </summary>
internal static class GupWalk
{
    /// <summary>A pages array is wanted, and with it a reference on each page.</summary>
    private const GupFlags TakingFlags = GupFlags.Get | GupFlags.Pin;

    private enum Found
    {
        Page,
        /// <summary>Absent, or not writable and a write is wanted.</summary>
        Absent,
        MustUnshare,
        Error,
    }

    private readonly record struct LookUp(Found Kind, Errno Error, Pfn Pfn, ulong Pages, bool IsLarge)
    {
        public StopReason Reason { get; private init; }

        public static LookUp Fail(Errno error, StopReason reason) =>
            new(Found.Error, error, default, 0, false) { Reason = reason };

        public static LookUp Missing(Found kind) => new(kind, Errno.None, default, 0, false);
    }

    /// <summary>
    /// Walks up to <paramref name="count"/> pages from <paramref name="start"/> and appends them to the vector.
    /// </summary>
    /// <param name="kernel">The machine's memory.</param>
    /// <param name="space">Whose pages.</param>
    /// <param name="start">First byte; its page is the first page.</param>
    /// <param name="count">Pages wanted.</param>
    /// <param name="flags">GUP flags, the internal ones included.</param>
    /// <param name="vector">Where the frames go.</param>
    /// <param name="reason">Why the walk stopped, when it did before the end.</param>
    public static WalkEnd Walk(
        KernelState kernel, AddressSpace space, ulong start, long count, GupFlags flags, FrameVector vector,
        out StopReason reason)
    {
        var writer = new RunWriter(vector);
        var end = Walk(kernel, space, start, ref count, flags, ref writer, out reason, out var taken);
        writer.Finish();
        if (taken > 0) vector.Hold();
        return end with { Pages = taken, Error = taken > 0 ? Errno.None : end.Error };
    }

    /// <summary>
    /// Faults the pages of a range in without taking them (pages == NULL): populate, mlock. A fault may drop the lock;
    /// the walk then goes on from its page at once, since nothing else runs in between here. A fault of a handler
    /// outside ends the walk, which <see cref="WalkEnd.Parks"/> at the page behind those that it has.
    /// </summary>
    /// <param name="kernel">The machine's memory.</param>
    /// <param name="space">Whose pages.</param>
    /// <param name="start">First byte; its page is the first page.</param>
    /// <param name="count">Pages.</param>
    /// <param name="flags">GUP flags.</param>
    /// <param name="mayUnlock">The caller can let mmap_lock go; if not, a handler outside is not asked.</param>
    public static WalkEnd Populate(
        KernelState kernel, AddressSpace space, ulong start, long count, GupFlags flags, bool mayUnlock = true)
    {
        const int retryLimit = 64;
        var nothing = default(RunWriter);
        var total = 0L;
        for (var attempt = 0; ; attempt++)
        {
            var unlockable = mayUnlock && attempt < retryLimit ? GupFlags.Unlockable : GupFlags.None;
            var from = start + ((ulong)total << PageGeometry.PageShift);
            var end = Walk(kernel, space, from, ref count, flags | unlockable, ref nothing, out _, out var taken);
            total += taken;
            if (count == 0 || end.Error != Errno.None || !end.IsLockDropped) return end with { Pages = total };
            var at = start + ((ulong)total << PageGeometry.PageShift);
            if (end.Parks && kernel.Served.Open(space, at) is not null) return end with { Pages = total };
        }
    }

    private static WalkEnd Walk(
        KernelState kernel, AddressSpace space, ulong start, ref long count, GupFlags flags, ref RunWriter writer,
        out StopReason reason, out long taken)
    {
        Vma? vma = null;
        taken = 0;
        var address = start & PageGeometry.PageMask;
        while (count > 0)
        {
            if (vma is null || !vma.Range.Contains(address))
            {
                var error = EnterVma(kernel, space, address, flags, out vma, out reason);
                if (error != Errno.None) return new WalkEnd(0, error, false, false);
            }

            reason = StopReason.Signal;
            if (space.Task.Pending == PendingSignal.Fatal) return new WalkEnd(0, Errno.EINTR, false, false);
            var found = Follow(kernel, space, vma!, address, (ulong)count, flags);
            switch (found.Kind)
            {
                case Found.Page:
                    if ((flags & TakingFlags) != 0) writer.Append(found.Pfn.Value, found.Pages, found.IsLarge);
                    taken += (long)found.Pages;
                    address += found.Pages << PageGeometry.PageShift;
                    count -= (long)found.Pages;
                    continue;
                case Found.Error:
                    reason = found.Reason;
                    return new WalkEnd(0, found.Error, false, false);
            }

            var fault = FaultIn(
                kernel, space, vma!, address, flags, found.Kind == Found.MustUnshare, out var end, out reason);
            if (!fault) return end;
        }

        reason = StopReason.None;
        return default;
    }

    /// <summary>gup_vma_lookup and check_vma_flags.</summary>
    private static Errno EnterVma(
        KernelState kernel, AddressSpace space, ulong address, GupFlags flags, out Vma? vma, out StopReason reason)
    {
        var isPopulate = (flags & GupFlags.MadvPopulate) != 0;
        vma = space.Vmas.Find(address);
        reason = address >= space.TaskSize ? StopReason.AddressLimit : StopReason.Hole;
        if (vma is null) return isPopulate ? Errno.ENOMEM : Errno.EFAULT;
        var error = VmaCheck.Check(kernel, vma, flags, out reason);
        return error == Errno.None || !isPopulate ? error : Errno.EINVAL;
    }

    /// <summary>follow_page_mask: what the page table has at an address, taken when it is good.</summary>
    private static LookUp Follow(
        KernelState kernel, AddressSpace space, Vma vma, ulong address, ulong wanted, GupFlags flags)
    {
        var slot = space.PageTable.Find(address);
        var entry = slot.Exists ? space.PageTable[slot] : 0;
        if (!Pte.IsMapped(entry))
        {
            return (flags & GupFlags.Dump) != 0 && entry == 0 && IsHoleOfDump(vma, address)
                ? LookUp.Fail(Errno.EFAULT, StopReason.NotPresent)
                : LookUp.Missing(Found.Absent);
        }

        if ((flags & GupFlags.SplitPmd) != 0 && slot.Order > 0)
        {
            if (!Mapping.SplitLeaf(kernel, space, address, slot))
                return LookUp.Fail(Errno.ENOMEM, StopReason.OutOfMemory);
            return Follow(kernel, space, vma, address, wanted, flags);
        }

        if ((flags & GupFlags.Write) != 0 && !CanFollowWrite(kernel, vma, entry, flags))
            return LookUp.Missing(Found.Absent);
        var pfn = Pte.PfnOf(entry);
        if ((entry & Pte.Special) != 0)
        {
            if ((flags & GupFlags.Dump) != 0) return LookUp.Fail(Errno.EFAULT, StopReason.NotPresent);
            if (pfn != kernel.Memory.ZeroPage && pfn != kernel.HugeZero)
                return (flags & TakingFlags) != 0
                    ? LookUp.Fail(Errno.EEXIST, StopReason.NoStructPage)
                    : new LookUp(Found.Page, Errno.None, pfn, 1, false);
        }

        if ((entry & Pte.Write) == 0 && MustUnshare(kernel.Profile, vma, entry, flags))
            return LookUp.Missing(Found.MustUnshare);
        return Grab(
            kernel, space, slot, address, Math.Min(wanted, (vma.End - address) >> PageGeometry.PageShift), flags);
    }

    /// <summary>
    /// no_page_table: a core dump leaves a hole where a fault could only give zeroes. A page in the cache of a hugetlb
    /// file, and what a ->fault method gives, are dumped.
    /// </summary>
    private static bool IsHoleOfDump(Vma vma, ulong address)
    {
        if (vma.IsHugeTlb) return vma.File!.Lookup(vma.IndexOf(address)) is null;
        return vma.IsAnonymous || vma.Device is { HasFault: false };
    }

    /// <summary>can_follow_write_pte: FORCE reads through to a page that a write fault has already copied.</summary>
    private static bool CanFollowWrite(KernelState kernel, Vma vma, ulong entry, GupFlags flags)
    {
        if ((entry & Pte.Write) != 0) return true;
        // A userfaultfd has a say before FORCE.
        if ((entry & Pte.UffdWp) != 0 && vma.Has(VmFlags.UffdWp)) return false;
        if (Mapping.WatchesStores(kernel, vma) && (entry & Pte.SoftDirty) == 0) return false;
        return (flags & GupFlags.Force) != 0 && vma.IsCow && !vma.Has(VmFlags.Write)
            && Pte.Has(entry, Pte.Anon | Pte.Exclusive);
    }

    /// <summary>gup_must_unshare (Semantics 3.6): only a read-only PIN can need it.</summary>
    private static bool MustUnshare(KernelProfile profile, Vma vma, ulong entry, GupFlags flags)
    {
        if ((flags & (GupFlags.Write | GupFlags.Pin)) != GupFlags.Pin) return false;
        if ((entry & Pte.Anon) != 0) return (entry & Pte.Exclusive) == 0;
        return (flags & GupFlags.LongTerm) != 0 && profile.LongTermUnsharesFilePages && vma.IsCow;
    }

    /// <summary>try_grab_folio for as many pages of a leaf as are wanted.</summary>
    private static LookUp Grab(
        KernelState kernel, AddressSpace space, LeafSlot slot, ulong address, ulong wanted, GupFlags flags)
    {
        var frames = kernel.Memory.Frames;
        ref var entry = ref space.PageTable[slot];
        var offset = slot.Order == 0 ? 0 : (address >> PageGeometry.PageShift) & ((1UL << slot.Order) - 1);
        var pages = Math.Min(wanted, (1UL << slot.Order) - offset);
        var pfn = Pte.PfnOf(entry) + offset;
        var head = frames.HeadOf(pfn);
        var isPin = (flags & GupFlags.Pin) != 0;
        if ((frames[head].Flags & FrameFlags.P2PDma) != 0 && (flags & GupFlags.PciP2PDma) == 0)
            return LookUp.Fail(Errno.EREMOTEIO, StopReason.PeerToPeer);
        if ((frames[pfn].Flags & FrameFlags.HwPoison) != 0)
            return LookUp.Fail(
                (flags & GupFlags.HwPoison) != 0 ? Errno.EHWPOISON : Errno.EFAULT, StopReason.Poisoned);
        if (frames.RefCount(head) <= 0) return LookUp.Fail(Errno.ENOMEM, StopReason.OutOfMemory);
        var order = frames.OrderOf(head);
        if ((flags & GupFlags.Touch) != 0)
        {
            if ((flags & GupFlags.Write) != 0 && (entry & Pte.Dirty) == 0) kernel.Memory.MarkDirty(head);
            entry |= Pte.Accessed;
        }

        if ((flags & TakingFlags) == 0) return new LookUp(Found.Page, Errno.None, pfn, pages, order > 0);
        if (isPin)
        {
            space.HasPinned = true;
            // The zero page is not going anywhere: no count is taken, and none reported.
            if (pfn != kernel.Memory.ZeroPage)
            {
                frames.Counts[head.Value] += FrameTable.PinDelta(order, (long)pages);
                kernel.Memory.Statistics.Acquire((long)pages);
            }
        }
        else
        {
            frames.Counts[head.Value] += (long)pages;
        }

        return new LookUp(Found.Page, Errno.None, pfn, pages, order > 0);
    }

    /// <summary>faultin_page. True: look again. False: the walk ends as <paramref name="end"/> says.</summary>
    private static bool FaultIn(
        KernelState kernel, AddressSpace space, Vma vma, ulong address, GupFlags flags, bool unshare,
        out WalkEnd end, out StopReason reason)
    {
        end = default;
        reason = StopReason.NotPresent;
        if ((flags & GupFlags.NoFault) != 0)
        {
            end = new WalkEnd(0, Errno.EFAULT, false, false);
            return false;
        }

        var context = (flags & GupFlags.LongTerm) != 0 ? AllocationContext.Unmovable : AllocationContext.Movable;
        var request = new FaultRequest(space, vma, address, FlagsOf(flags, unshare), context);
        var result = FaultHandler.Handle(kernel, request, out var parks);
        if ((result & VmFault.ErrorMask) != 0)
        {
            var error = ErrnoOf(result, flags);
            reason = ReasonOf(kernel, vma, address, result);
            end = new WalkEnd(0, error, false, false);
            return false;
        }

        if ((result & VmFault.Retry) == 0) return true;
        // NOWAIT keeps the lock and gives up with what it has (row 44); everybody else has lost it.
        var keepsLock = (flags & GupFlags.NoWait) != 0;
        end = new WalkEnd(0, Errno.None, !keepsLock, parks && !keepsLock);
        return false;
    }

    private static FaultFlags FlagsOf(GupFlags flags, bool unshare)
    {
        var result = FaultFlags.None;
        if ((flags & GupFlags.Write) != 0) result |= FaultFlags.Write;
        if ((flags & GupFlags.Remote) != 0) result |= FaultFlags.Remote;
        if ((flags & GupFlags.Unlockable) != 0)
        {
            result |= FaultFlags.AllowRetry | FaultFlags.Killable;
            if ((flags & GupFlags.Interruptible) != 0) result |= FaultFlags.Interruptible;
        }

        if ((flags & GupFlags.NoWait) != 0) result |= FaultFlags.AllowRetry | FaultFlags.RetryNoWait;
        if ((flags & GupFlags.Tried) != 0) result |= FaultFlags.Tried;
        if (unshare) result = (result & ~FaultFlags.Write) | FaultFlags.Unshare;
        return result;
    }

    /// <summary>vm_fault_to_errno.</summary>
    private static Errno ErrnoOf(VmFault fault, GupFlags flags)
    {
        if ((fault & VmFault.Oom) != 0) return Errno.ENOMEM;
        if ((fault & (VmFault.HwPoison | VmFault.HwPoisonLarge)) != 0)
            return (flags & (GupFlags.HwPoison | GupFlags.MadvPopulate)) != 0 ? Errno.EHWPOISON : Errno.EFAULT;
        return Errno.EFAULT;
    }

    /// <summary>Why a fault failed: its result, and what lies at the address.</summary>
    private static StopReason ReasonOf(KernelState kernel, Vma vma, ulong address, VmFault fault)
    {
        if ((fault & VmFault.Oom) != 0) return StopReason.OutOfMemory;
        if ((fault & (VmFault.HwPoison | VmFault.HwPoisonLarge)) != 0) return StopReason.Poisoned;
        if (vma.Space.PageTable.Read(address) == Pte.GuardMarker) return StopReason.GuardRegion;
        if ((fault & VmFault.SigBus) == 0 || vma.File is not { } file) return StopReason.FaultFailed;
        if (vma.IndexOf(address) >= PageGeometry.PagesOf(file.Size)) return StopReason.FileEnd;
        return vma.IsHugeTlb && (vma.LostHugePage || !kernel.HasHuge(vma.HugeOrder))
            ? StopReason.HugePoolEmpty
            : StopReason.FaultFailed;
    }
}
