using System.Globalization;
using System.Text;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;

namespace FramePin.Core.Inspection;

/// <summary>A VMA as /proc/PID/maps shows it, and what smaps adds. Sizes in bytes.</summary>
public sealed record MapsEntry
{
    public required AddressRange Range { get; init; }

    public required VmFlags Flags { get; init; }

    /// <summary>Byte offset in the file; 0 without one.</summary>
    public required ulong Offset { get; init; }

    public required string DeviceNumber { get; init; }

    public required ulong Inode { get; init; }

    /// <summary>Path or name in brackets; empty for plain anonymous memory.</summary>
    public required string Name { get; init; }

    public ulong Rss { get; init; }

    public ulong Anonymous { get; init; }

    /// <summary>Bytes of private memory that are in swap.</summary>
    public ulong Swap { get; init; }

    /// <summary>Bytes mapped by 2 MiB leaves of anonymous memory.</summary>
    public ulong AnonHuge { get; init; }

    public ulong KernelPageSize { get; init; } = PageGeometry.PageSize;

    /// <summary>The four letters of maps.</summary>
    public string Permissions => string.Create(4, Flags, static (span, flags) =>
    {
        span[0] = (flags & VmFlags.Read) != 0 ? 'r' : '-';
        span[1] = (flags & VmFlags.Write) != 0 ? 'w' : '-';
        span[2] = (flags & VmFlags.Exec) != 0 ? 'x' : '-';
        span[3] = (flags & VmFlags.MayShare) != 0 ? 's' : 'p';
    });

    /// <summary>The line of /proc/PID/maps, without its newline (fs/proc/task_mmu.c: show_map_vma).</summary>
    public string ToMapsLine()
    {
        const int nameColumn = 73;
        var line = string.Create(
            CultureInfo.InvariantCulture,
            $"{Range.Start:x8}-{Range.End:x8} {Permissions} {Offset:x8} {DeviceNumber} {Inode} ");
        return Name.Length == 0 ? line : line.PadRight(nameColumn) + Name;
    }

    /// <summary>The VmFlags line of smaps: two letters a flag.</summary>
    public string VmFlagLetters()
    {
        var text = new StringBuilder();
        foreach (var (flag, letters) in Letters)
            if ((Flags & flag) != 0) text.Append(letters).Append(' ');
        return text.ToString();
    }

    private static readonly (VmFlags Flag, string Letters)[] Letters =
    [
        (VmFlags.Read, "rd"), (VmFlags.Write, "wr"), (VmFlags.Exec, "ex"), (VmFlags.Shared, "sh"),
        (VmFlags.MayRead, "mr"),
        (VmFlags.MayWrite, "mw"), (VmFlags.MayExec, "me"), (VmFlags.MayShare, "ms"), (VmFlags.GrowsDown, "gd"),
        (VmFlags.UffdMissing, "um"), (VmFlags.PfnMap, "pf"), (VmFlags.MaybeGuard, "gu"), (VmFlags.UffdWp, "uw"),
        (VmFlags.Locked, "lo"), (VmFlags.Io, "io"), (VmFlags.SeqRead, "sr"),
        (VmFlags.RandRead, "rr"), (VmFlags.DontCopy, "dc"), (VmFlags.DontExpand, "de"), (VmFlags.LockOnFault, "lf"),
        (VmFlags.Account, "ac"), (VmFlags.NoReserve, "nr"), (VmFlags.HugeTlb, "ht"), (VmFlags.Sync, "sf"),
        (VmFlags.Arch, "ar"),
        (VmFlags.WipeOnFork, "wf"),
        (VmFlags.DontDump, "dd"), (VmFlags.SoftDirty, "sd"), (VmFlags.MixedMap, "mm"), (VmFlags.HugePage, "hg"),
        (VmFlags.NoHugePage, "nh"), (VmFlags.Mergeable, "mg"), (VmFlags.Droppable, "dp"), (VmFlags.Sealed, "sl"),
    ];
}
