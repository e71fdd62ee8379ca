using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Inspection;

/// <summary>
/// /proc/PID/maps and smaps: the areas of an address space in order, the vsyscall page last. Empty for one that has
/// exited. Source: fs/proc/task_mmu.c.
/// </summary>
/// <param name="Space">The address space.</param>
/// <param name="WithUsage">Also counts resident memory, which walks the page table.</param>
public readonly record struct MapsQuery(SpaceId Space, bool WithUsage = false) : IQuery<IReadOnlyList<MapsEntry>>
{
    public IReadOnlyList<MapsEntry> Run(in Turn turn)
    {
        var space = turn.Kernel.Space(Space);
        var entries = new List<MapsEntry>(space.Vmas.Count + 1);
        if (space.Exited) return entries;
        foreach (var vma in space.Vmas.All) entries.Add(Describe(space, vma, WithUsage));
        if (!space.HasVsyscall) return entries;
        entries.Add(new MapsEntry
        {
            Range = new AddressRange(0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000),
            Flags = VmFlags.Exec,
            Offset = 0,
            DeviceNumber = "00:00",
            Inode = 0,
            Name = "[vsyscall]",
        });
        return entries;
    }

    private static MapsEntry Describe(AddressSpace space, Vma vma, bool withUsage)
    {
        var entry = new MapsEntry
        {
            Range = vma.Range,
            Flags = vma.Flags,
            Offset = vma.File is null && vma.Device is null ? 0 : vma.PageOffset << PageGeometry.PageShift,
            DeviceNumber = vma.File?.DeviceNumber ?? (vma.Device is null ? "00:00" : "00:05"),
            Inode = vma.File?.Inode ?? (ulong)(vma.Device?.Id.Value ?? 0),
            Name = NameOf(space, vma),
            KernelPageSize = PageGeometry.PageSize << vma.HugeOrder,
        };
        if (!withUsage) return entry;
        ulong rss = 0, anonymous = 0, huge = 0, swap = 0;
        var leaves = space.PageTable.Leaves(vma.Start, vma.End);
        while (leaves.MoveNext())
        {
            var (leaf, size) = (leaves.Entry, leaves.Slot.Size);
            if ((leaf & Pte.Swap) != 0) swap += size;
            if (Pte.IsMapped(leaf) && (leaf & Pte.Special) == 0)
            {
                rss += size;
                if ((leaf & Pte.Anon) != 0) anonymous += size;
                if ((leaf & (Pte.Anon | Pte.Huge)) == (Pte.Anon | Pte.Huge) && !vma.IsHugeTlb) huge += size;
            }
        }

        return entry with { Rss = rss, Anonymous = anonymous, AnonHuge = huge, Swap = swap };
    }

    private static string NameOf(AddressSpace space, Vma vma)
    {
        if (vma.File is { } file) return file.Name;
        if (vma.Device is { } device) return device.Name;
        if (vma.SpecialName is { } special) return special;
        if (vma.Start < space.Brk && vma.End > space.Layout.StartBrk) return "[heap]";
        return space.StackStart != 0 && vma.Range.Contains(space.StackStart) ? "[stack]" : "";
    }
}
