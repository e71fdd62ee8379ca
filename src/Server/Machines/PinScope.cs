using System.Diagnostics;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Pinning;
using FramePin.Server.Sessions;

namespace FramePin.Server.Machines;

/// <summary>Holds a vector's frames for a process that has them mapped.</summary>
internal interface IFrameHolder
{
    /// <summary>Holds the frames; the hold's number. NOT_FOUND when the holder has ended.</summary>
    ulong Hold(VectorRecord record);

    /// <summary>Gives a hold back. False: there is none under the number.</summary>
    bool Release(ulong number);
}

/// <summary>Where a pin's vector lives, and the owners of its frames.</summary>
/// <param name="Host">Machine of the vector.</param>
/// <param name="Lease">Gives the vector back at its end; null: the vector lives as long as the machine.</param>
/// <param name="Holder">Maps the frames; null: nobody does.</param>
internal readonly record struct PinScope(MachineHost Host, Lease? Lease, IFrameHolder? Holder);

/// <summary>The arguments of a pin.</summary>
/// <param name="Space">Address space of the range; null for the pages of a device.</param>
/// <param name="Start">Address in bytes; need not be aligned.</param>
/// <param name="Pages">Pages.</param>
/// <param name="Flags">FOLL_* flags.</param>
/// <param name="Trace">Span that the pin belongs to; the unpin will point at it.</param>
/// <param name="Gup">A raw call of mm/gup.c; null: get_vaddr_frames.</param>
internal readonly record struct PinRange(
    Named<SpaceId>? Space, ulong Start, ulong Pages, GupFlags Flags, ActivityContext Trace, GupCall? Gup = null)
{
    /// <summary>Name of the kernel's call, for refusals.</summary>
    public string Call => Gup?.ToString() ?? "get_vaddr_frames";
}
