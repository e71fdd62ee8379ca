using FramePin.Core.Abi;

namespace FramePin.Core.Kernel;

/// <summary>
/// Frames whose last reference went beside the turn go to the allocator. The machine runs it by itself before it does
/// anything else under the turn.
/// </summary>
public readonly record struct DrainCall : ISyscall<DrainCall>
{
    public SyscallResult Run(in Turn turn)
    {
        turn.Kernel.Memory.DrainPending();
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => ArgumentNullException.ThrowIfNull(writer);

    public static DrainCall Read(ref CommandReader reader) => default;
}
