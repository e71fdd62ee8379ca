using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>fork's dup_mmap and copy_page_range (kernel/fork.c, mm/memory.c; Semantics 3.7).</summary>
/// <param name="Space">The parent.</param>
/// <param name="ChildName">Last segment of the child's resource name.</param>
/// <returns>The child's number.</returns>
public readonly partial record struct ForkCall(SpaceId Space, string ChildName) : ISyscall<ForkCall>
{
    /// <summary>
    /// Most frames of pinned pages whose bytes are copied in the turn of this command; 0 for all. For the rest the
    /// caller runs <see cref="CopyForkedCall"/> until nothing is left, before it lets anybody reach the child.
    /// </summary>
    public long CopiesAtOnce { get; init; }

    public SyscallResult Run(in Turn turn)
    {
        var kernel = turn.Kernel;
        if (kernel.Space(Space) is not { Exited: false } parent) return Errno.ESRCH;
        var task = parent.Task with { Pending = default };
        if (CreateSpaceCall.Make(kernel, ChildName, parent.Layout, task) is not { } child) return Errno.ENOMEM;
        var error = Run(kernel, parent, child);
        if (error != Errno.None) return error;
        kernel.Part<ForkCopies>().Copy(kernel, child.Id, (ulong)Math.Max(CopiesAtOnce, 0));
        foreach (var hook in kernel.Forked) hook(parent, child);
        return SyscallResult.Ok((ulong)child.Id.Value);
    }

    public void Write(CommandWriter writer) => writer.Add(Space).Add(ChildName).Add(CopiesAtOnce);

    public static ForkCall Read(ref CommandReader reader) =>
        new(reader.Space(), reader.Name()) { CopiesAtOnce = reader.I64() };

    /// <summary>
    /// Fills the empty <paramref name="child"/> from <paramref name="parent"/>. On -ENOMEM the child is torn down again
    /// and the parent unchanged, but that its pages may have become copy-on-write.
    /// </summary>
    internal static Errno Run(KernelState kernel, AddressSpace parent, AddressSpace child)
    {
        child.Brk = parent.Brk;
        child.StackStart = parent.StackStart;
        child.HasVsyscall = parent.HasVsyscall;
        if ((parent.Mdwe & MdweFlags.NoInherit) == 0) child.Mdwe = parent.Mdwe;
        foreach (var vma in parent.Vmas.All)
        {
            if (vma.Has(VmFlags.DontCopy)) continue;
            var copy = vma.Slice(vma.Start, vma.End);
            copy.Flags &= ~(VmFlags.Locked | VmFlags.LockOnFault);
            copy.Reserve = null;
            // Nobody asked to hear of forks (UFFD_FEATURE_EVENT_FORK).
            copy.Flags &= ~(VmFlags.UffdMissing | VmFlags.UffdWp);
            copy.Uffd = null;
            copy.TakeAnon(null, null);
            if (!vma.Has(VmFlags.WipeOnFork)) kernel.AnonVmas.Inherit(copy, vma);
            child.Link(copy);
            if (vma.Has(VmFlags.WipeOnFork) || !NeedsCopy(vma)) continue;
            var error = CopyRange(kernel, parent, child, vma, copy);
            if (error == Errno.None) continue;
            ExitCall.Run(kernel, child);
            return error;
        }

        return Errno.None;
    }

    /// <summary>vma_needs_copy: what faults can fill again is left to them.</summary>
    private static bool NeedsCopy(Vma vma) =>
        vma.AnonVma is not null
        || vma.HasAny(VmFlags.PfnMap | VmFlags.MixedMap | VmFlags.MaybeGuard | VmFlags.Io);

    private static Errno CopyRange(KernelState kernel, AddressSpace parent, AddressSpace child, Vma vma, Vma copy)
    {
        var table = parent.PageTable;
        // copy_pte_range makes a table wherever the parent has one, though nothing in it may be copied.
        if (!child.PageTable.MirrorTables(table, vma.Start, vma.End)) return Errno.ENOMEM;
        var leaf = table.Leaves(vma.Range);
        while (leaf.MoveNext())
        {
            var error = CopyLeaf(kernel, parent, child, vma, copy, leaf.Address, leaf.Slot, out var again);
            if (error != Errno.None) return error;
            if (again) leaf.Again();
        }

        return Errno.None;
    }

    private static Errno CopyLeaf(
        KernelState kernel, AddressSpace parent, AddressSpace child, Vma vma, Vma copy, ulong address, LeafSlot slot,
        out bool again)
    {
        again = false;
        ref var entry = ref parent.PageTable[slot];
        var isOwnPinned = Pte.IsMapped(entry)
            && (entry & Pte.Exclusive) != 0 && parent.HasPinned
            && kernel.Memory.Frames.MaybeDmaPinned(Pte.PfnOf(entry));
        if (isOwnPinned && slot.Order > 0 && !vma.IsHugeTlb)
        {
            // copy_huge_pmd: a pinned huge page is split so that each part can be copied.
            again = true;
            return Mapping.SplitLeaf(kernel, parent, address, slot) ? Errno.None : Errno.ENOMEM;
        }

        var into = child.PageTable.Ensure(address, slot.Order);
        if (!into.Exists) return Errno.ENOMEM;
        if (isOwnPinned) return CopyPinned(kernel, child, copy, address, entry, slot.Order, into);
        if ((entry & Pte.Swap) != 0)
        {
            entry &= ~Pte.Exclusive;
            kernel.Swap!.Duplicate(Pte.SlotOf(entry));
        }

        if (vma.IsCow && Pte.IsMapped(entry)) entry &= ~(Pte.Write | Pte.Exclusive);
        var shared = vma.IsCow ? entry : entry & ~(Pte.Dirty | Pte.Accessed);
        child.PageTable[into] = shared & ~Pte.UffdWp;
        if (!Pte.IsMapped(entry) || (entry & Pte.Special) != 0) return Errno.None;
        var head = kernel.Memory.Frames.HeadOf(Pte.PfnOf(entry));
        kernel.Memory.Frames.AddRefs(head, 1);
        LargeFolio.AddMaps(kernel, child, head, 1);
        return Errno.None;
    }

    /// <summary>
    /// copy_present_page: the child gets its own page at once, the parent keeps the pinned one. The bytes come behind
    /// the walk.
    /// </summary>
    private static Errno CopyPinned(
        KernelState kernel, AddressSpace child, Vma copy, ulong address, ulong entry, int order, LeafSlot into)
    {
        var fresh = copy.IsHugeTlb
            ? kernel.TakeHuge(order, fromReserve: false, isOverwritten: true)
            : kernel.AllocatePage(
                child, address, AllocationContext.Movable, FrameFlags.Anon, isOverwritten: true);
        if (fresh is not { } pfn) return Errno.ENOMEM;
        // copy_mc_user_highpage: a copy that meets broken memory fails the fork.
        if ((kernel.Memory.Frames[Pte.PfnOf(entry)].Flags & FrameFlags.HwPoison) != 0)
        {
            kernel.Memory.Put(pfn);
            return Errno.ENOMEM;
        }

        kernel.Part<ForkCopies>().Add(kernel, child.Id, Pte.PfnOf(entry), pfn, order);
        kernel.Memory.Frames[pfn].Flags |= FrameFlags.Anon;
        kernel.Memory.Frames[pfn].MapCount = 1;
        Rmap.AddNewAnon(kernel, copy, address, pfn);
        var bits = Pte.Anon | Pte.Exclusive | Pte.Dirty | kernel.SoftDirty | Mapping.AccessBits(copy, true)
            | (order > 0 ? Pte.Huge : 0);
        child.PageTable[into] = Pte.Leaf(pfn, bits);
        return Errno.None;
    }
}

/// <summary>The end of an address space (mm/mmap.c: exit_mmap). Pins on its frames stay with their holders.</summary>
public readonly partial record struct ExitCall(SpaceId Space) : ISyscall<ExitCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Space(Space) is not { Exited: false } space) return Errno.ESRCH;
        Run(turn.Kernel, space);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Space);

    public static ExitCall Read(ref CommandReader reader) => new(reader.Space());

    internal static void Run(KernelState kernel, AddressSpace space)
    {
        kernel.Part<ForkCopies>().Drop(kernel, space.Id);
        foreach (var vma in space.Vmas.All) Mapping.Zap(kernel, space, vma, vma.Start, vma.End);
        foreach (var vma in space.Vmas.TakeAll())
        {
            vma.Close();
            kernel.DropIfUnused(vma.File);
            kernel.DropIfUnused(vma.Device);
        }

        space.PageTable.Destroy();
        kernel.Served.DropOf(space);
        kernel.RemoveSpace(space);
    }
}
