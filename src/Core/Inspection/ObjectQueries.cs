using FramePin.Core.Addressing;
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
