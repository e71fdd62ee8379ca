using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;

namespace FramePin.Core.Access;

public readonly partial record struct HoldRangeCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (!IsWrite || Pages <= 0) return;
        var start = Start & PageGeometry.PageMask;
        var range = new AddressRange(start, start + ((ulong)Pages << PageGeometry.PageShift));
        Unsharing.AddTaken(turn.Kernel, turn.Kernel.Space(Space), range, taken);
    }
}
