using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// Writing 4 to /proc/PID/clear_refs: forgets which pages were stored to (fs/proc/task_mmu.c: clear_refs_write). Under
/// the turn.
/// </summary>
public readonly record struct ClearSoftDirtyCall(SpaceId Space) : ISyscall<ClearSoftDirtyCall>, IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (turn.Kernel.SoftDirty == 0 || turn.Kernel.Space(Space) is not { Exited: false } space) return;
        foreach (var vma in space.Vmas.All)
            if (!vma.HasAny(VmFlags.PfnMap | VmFlags.HugeTlb)) TakenRanges.AddWritable(space, vma.Range, taken);
    }

    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Space(Space) is not { Exited: false } space) return Errno.ESRCH;
        ClearSoftDirty(turn.Kernel, space);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Space);

    public static ClearSoftDirtyCall Read(ref CommandReader reader) => new(reader.Space());

    /// <summary>
    /// Takes the soft-dirty bits off areas and entries and write-protects these, so that the next store sets them
    /// again. Writable pinned pages keep both (pte_is_pinned): a device may store to them unseen. Huge pages of
    /// hugetlbfs and raw frames are passed over.
    /// </summary>
    internal static void ClearSoftDirty(KernelState kernel, AddressSpace space)
    {
        if (kernel.SoftDirty == 0) return;
        foreach (var vma in space.Vmas.All)
        {
            vma.Flags &= ~VmFlags.SoftDirty;
            if (vma.HasAny(VmFlags.PfnMap | VmFlags.HugeTlb)) continue;
            var leaf = space.PageTable.Leaves(vma.Range);
            while (leaf.MoveNext())
            {
                ref var entry = ref leaf.Entry;
                if (!IsPinned(kernel, space, vma, entry))
                    entry &= ~(Pte.SoftDirty | (Pte.IsMapped(entry) ? Pte.Write : 0));
            }
        }
    }

    private static bool IsPinned(KernelState kernel, AddressSpace space, Vma vma, ulong entry) =>
        Pte.Has(entry, Pte.Present | Pte.Write) && (entry & Pte.Special) == 0 && vma.IsCow && space.HasPinned
        && kernel.Memory.Frames.MaybeDmaPinned(Pte.PfnOf(entry));
}
