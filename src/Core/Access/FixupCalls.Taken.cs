using FramePin.Core.Kernel;
using FramePin.Core.Syscalls;

namespace FramePin.Core.Access;

public readonly partial record struct FutexWakeOpCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if ((Address & 3) == 0) TakenRanges.AddStores(turn.Kernel, Space, Address, 1, taken);
    }
}

public readonly partial record struct FixupUserFaultCall : IInvalidating
{
    public void AddTaken(in Turn turn, ICollection<TakenRange> taken)
    {
        if (IsWrite) TakenRanges.AddStores(turn.Kernel, Space, Address, 1, taken);
    }
}
