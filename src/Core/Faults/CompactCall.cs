using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;

namespace FramePin.Core.Faults;

/// <summary>
/// Memory compaction (mm/compaction.c: compact_zone): small movable folios from the bottom of a zone go to free frames
/// at its top, until the two meet. A folio that is pinned, or referenced otherwise, stays.
/// </summary>
/// <returns>The folios moved.</returns>
public readonly record struct CompactCall : ISyscall<CompactCall>, IInvalidating
{
    /// <summary>Every mapped small page that may move: the target decides which of them do.</summary>
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        foreach (var space in turn.Kernel.Spaces)
        {
            var leaves = space.PageTable.Leaves(0, space.TaskSize);
            while (leaves.MoveNext())
            {
                var entry = leaves.Entry;
                if (!Pte.IsMapped(entry) || (entry & (Pte.Special | Pte.Compound)) != 0 || leaves.Slot.Order > 0)
                    continue;
                if (!IsCandidate(turn.Kernel, Pte.PfnOf(entry))) continue;
                taken.Add(new TakenRange(
                    space.Id, new AddressRange(leaves.Address, leaves.End), TakeCause.Migration));
            }
        }
    }

    public SyscallResult Run(in Turn turn) => SyscallResult.Ok((ulong)Run(turn.Kernel));

    public void Write(CommandWriter writer) => ArgumentNullException.ThrowIfNull(writer);

    public static CompactCall Read(ref CommandReader reader) => default;

    /// <summary>Compacts both zones; the folios moved.</summary>
    internal static long Run(KernelState kernel) =>
        Run(kernel, kernel.Memory.Normal) + Run(kernel, kernel.Memory.Movable);

    private static long Run(KernelState kernel, Zone zone)
    {
        var moved = 0L;
        using var free = zone.FreeFramesDownwards().GetEnumerator();
        var target = free.MoveNext() ? free.Current : 0;
        for (var pfn = zone.Start; pfn < Math.Min(zone.Watermark, target); pfn++)
        {
            var head = new Pfn(pfn);
            if (!IsCandidate(kernel, head)) continue;
            var fresh = kernel.Memory.AllocateAt(zone, new Pfn(target));
            if (Migration.Move(kernel, head, fresh)) moved++;
            else kernel.Memory.Put(fresh);
            if (!free.MoveNext()) break;
            target = free.Current;
        }

        return moved;
    }

    private static bool IsCandidate(KernelState kernel, Pfn head)
    {
        const FrameFlags movable = FrameFlags.Anon | FrameFlags.InCache;
        var info = kernel.Memory.Frames[head];
        return (info.Flags & FrameFlags.Head) != 0 && info.Order == 0 && (info.Flags & movable) != 0
            && (info.Flags & (FrameFlags.HugeTlb | FrameFlags.Secret)) == 0 && Migration.IsMovable(kernel, head);
    }
}
