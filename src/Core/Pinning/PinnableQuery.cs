using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;

namespace FramePin.Core.Pinning;

/// <summary>
/// How many pages a long-term pin would be allowed to take, before anything is faulted in: by the areas, the ends of
/// their files and guard markers. Eras C and D; the older ones answer <paramref name="Count"/>. Faults may still fail.
/// </summary>
/// <remarks>
/// The first pages are those of the fast path, which looks at no area: it takes a present page of a write-only one
/// (mm/gup.c: gup_fast).
/// </remarks>
/// <param name="Space">The address space.</param>
/// <param name="Start">Address in bytes.</param>
/// <param name="Count">Pages.</param>
/// <param name="Flags">FOLL_* flags from outside.</param>
public readonly record struct PinnableQuery(SpaceId Space, ulong Start, long Count, GupFlags Flags)
    : IQuery<(long Pages, StopReason Reason)>
{
    public (long Pages, StopReason Reason) Run(in Turn turn)
    {
        var kernel = turn.Kernel;
        if (kernel.Profile.Era < HelperEra.C) return (Count, StopReason.None);
        var space = kernel.Space(Space);
        var full = Flags | GupFlags.Pin | GupFlags.LongTerm;
        if (kernel.Profile.Era == HelperEra.C) full |= GupFlags.Write | GupFlags.Force;
        var address = Start & PageGeometry.PageMask;
        var isFast = true;
        for (var page = 0L; page < Count; page++, address += PageGeometry.PageSize)
        {
            if (space.Exited || address >= space.TaskSize || space.Vmas.Find(address) is not { } vma)
                return (page, StopReason.Hole);
            var entry = space.PageTable.Read(address);
            isFast = isFast && GupFast.Takes(kernel, entry, full);
            if (isFast) continue;
            if (VmaCheck.Check(kernel, vma, full, out var reason) != Errno.None) return (page, reason);
            if ((entry & Pte.Marker) != 0)
                return (page, entry == Pte.GuardMarker ? StopReason.GuardRegion : StopReason.Poisoned);
            var isBehindEnd = vma.File is { } file && vma.IndexOf(address) >= PageGeometry.PagesOf(file.Size);
            if (isBehindEnd && !Pte.IsMapped(entry)) return (page, StopReason.FileEnd);
        }

        return (Count, StopReason.None);
    }
}
