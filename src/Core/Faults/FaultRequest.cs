using FramePin.Core.Abi;
using FramePin.Core.Frames;
using FramePin.Core.Vmas;

namespace FramePin.Core.Faults;

/// <summary>One page fault: where, how, and from which memory new pages come.</summary>
/// <param name="Space">Whose page table.</param>
/// <param name="Vma">The area that contains the address.</param>
/// <param name="Address">The address, not necessarily aligned.</param>
/// <param name="Flags">FAULT_FLAG_*.</param>
/// <param name="Context">Where new pages come from.</param>
internal readonly record struct FaultRequest(
    AddressSpace Space, Vma Vma, ulong Address, FaultFlags Flags, AllocationContext Context)
{
    public bool IsWrite => (Flags & FaultFlags.Write) != 0;

    public bool IsUnshare => (Flags & FaultFlags.Unshare) != 0;

    /// <summary>The fault asks for a page that may be stored to: a store, or the unsharing for a pin.</summary>
    public bool WantsOwnPage => IsWrite || IsUnshare;

    public bool MayRetry => (Flags & FaultFlags.AllowRetry) != 0;
}
