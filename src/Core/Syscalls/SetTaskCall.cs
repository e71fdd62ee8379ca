using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// Replaces the task state behind an address space: limits, capabilities, pending signal (prlimit, kill).
/// </summary>
public readonly record struct SetTaskCall(SpaceId Space, TaskState Task) : ISyscall<SetTaskCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Space(Space) is not { Exited: false } space) return Errno.ESRCH;
        space.Task = Task;
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => Write(writer.Add(Space), Task);

    public static SetTaskCall Read(ref CommandReader reader) => new(reader.Space(), ReadTask(ref reader));

    internal static void Write(CommandWriter writer, TaskState task) => writer
        .Add(task.RlimitAddressSpace).Add(task.RlimitData).Add(task.RlimitStack).Add(task.RlimitMemlock)
        .Add(task.CanLockMemory).Add(task.CanMapLow).Add(task.IsAdmin).Add(task.OwnsFiles).Add(task.User)
        .Add((int)task.Pending);

    internal static TaskState ReadTask(ref CommandReader reader) => new()
    {
        RlimitAddressSpace = reader.U64(),
        RlimitData = reader.U64(),
        RlimitStack = reader.U64(),
        RlimitMemlock = reader.U64(),
        CanLockMemory = reader.Bool(),
        CanMapLow = reader.Bool(),
        IsAdmin = reader.Bool(),
        OwnsFiles = reader.Bool(),
        User = reader.I32(),
        Pending = (PendingSignal)reader.I32(),
    };
}
