using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Kernel;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;

namespace FramePin.Core.Inspection;

/// <summary>An address space at one moment.</summary>
/// <param name="Id">Its number.</param>
/// <param name="Name">Last segment of the resource name.</param>
/// <param name="Layout">Where it keeps its fixed parts.</param>
/// <param name="Task">Limits, capabilities and signals of its task.</param>
/// <param name="Brk">The present break, in bytes.</param>
/// <param name="MapCount">Areas.</param>
/// <param name="PinnedPages">pinned_vm, in pages.</param>
public sealed record SpaceView(
    SpaceId Id, string Name, AddressSpaceLayout Layout, TaskState Task, ulong Brk, int MapCount, long PinnedPages);

/// <summary>An address space; null for one that has exited.</summary>
public readonly record struct SpaceQuery(SpaceId Space) : IQuery<SpaceView?>
{
    public SpaceView? Run(in Turn turn) => turn.Kernel.Space(Space) is { Exited: false } space
        ? new SpaceView(
            space.Id, space.Name, space.Layout, space.Task, space.Brk, space.MapCount, space.PinnedPages)
        : null;
}

/// <summary>A memory file at one moment.</summary>
/// <param name="Id">Its number.</param>
/// <param name="Path">Path in /proc/PID/maps.</param>
/// <param name="Kind">Where its pages live.</param>
/// <param name="Size">Bytes.</param>
/// <param name="Order">log2 of the frames of a page.</param>
/// <param name="DeviceNumber">"major:minor" in /proc/PID/maps.</param>
/// <param name="Inode">Inode number.</param>
/// <param name="Mappings">Areas that map it, in all address spaces.</param>
/// <param name="CachedFrames">Frames of its page cache.</param>
public sealed record FileView(
    FileId Id, string Path, FileKind Kind, ulong Size, int Order, string DeviceNumber, ulong Inode, int Mappings,
    ulong CachedFrames);

/// <summary>A memory file; null where there is none.</summary>
public readonly record struct FileQuery(FileId File) : IQuery<FileView?>
{
    public FileView? Run(in Turn turn) => turn.Kernel.File(File) is { } file
        ? new FileView(
            File, file.Name, file.Kind, file.Size, file.Order, file.DeviceNumber, file.Inode, file.MappingCount,
            file.CachedFrames)
        : null;
}

/// <summary>A device.</summary>
/// <param name="Id">Its number.</param>
/// <param name="Path">Path in /proc/PID/maps.</param>
/// <param name="Mapping">Kind of its mmap method.</param>
/// <param name="Frames">Frames of its range.</param>
/// <param name="IsRam">Its range is RAM, which has pages.</param>
/// <param name="First">First frame of the range.</param>
/// <param name="Mappings">Areas that map it.</param>
public sealed record DeviceView(
    DeviceId Id, string Path, DeviceMapping Mapping, ulong Frames, bool IsRam, Pfn First, int Mappings);

/// <summary>A device; null where there is none.</summary>
public readonly record struct DeviceQuery(DeviceId Device) : IQuery<DeviceView?>
{
    public DeviceView? Run(in Turn turn) => turn.Kernel.Device(Device) is { } device
        ? new DeviceView(
            Device, device.Name, device.Mapping, device.Frames, device.IsRam, device.First, device.MappingCount)
        : null;
}

/// <summary>The pins of every address space that wait, oldest first.</summary>
public readonly record struct ParkedPinsQuery : IQuery<IReadOnlyList<ParkedPin>>
{
    public IReadOnlyList<ParkedPin> Run(in Turn turn) => [.. PinTable.Of(turn.Kernel).Parked];
}

/// <summary>The pins that wait at a page.</summary>
public readonly record struct ParkedAtQuery(SpaceId Space, ulong Address) : IQuery<IReadOnlyList<ParkedPin>>
{
    public IReadOnlyList<ParkedPin> Run(in Turn turn)
    {
        var (space, page) = (Space, Address & PageGeometry.PageMask);
        return [.. PinTable.Of(turn.Kernel).Parked.Where(
            parked => parked.Space == space && (parked.Address & PageGeometry.PageMask) == page)];
    }
}

/// <summary>The fault at an address that waits for a handler's answer; null for none.</summary>
public readonly record struct WaitingFaultQuery(SpaceId Space, ulong Address) : IQuery<ServedFault?>
{
    public ServedFault? Run(in Turn turn) => turn.Kernel.Served.Open(turn.Kernel.Space(Space), Address);
}
