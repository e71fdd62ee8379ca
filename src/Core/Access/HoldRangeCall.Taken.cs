using FramePin.Core.Kernel;
using FramePin.Core.Syscalls;

namespace FramePin.Core.Access;

public readonly partial record struct HoldRangeCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (!IsWrite) return;
        TakenRanges.AddStores(turn.Kernel, Space, Start, Pages, taken);
    }
}
