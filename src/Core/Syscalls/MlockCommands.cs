using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;

namespace FramePin.Core.Syscalls;

/// <summary>mlock2 of a range in bytes: flags 0, or 1 for MLOCK_ONFAULT (mm/mlock.c: do_mlock).</summary>
public readonly partial record struct MlockCall(SpaceId Space, ulong Start, ulong Length, uint Flags)
    : ISyscall<MlockCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Space(Space) is { Exited: false } space
        ? MlockCalls.Lock(turn.Kernel, space, Start, Length, Flags)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Start).Add(Length).Add(Flags);

    public static MlockCall Read(ref CommandReader reader) =>
        new(reader.Space(), reader.U64(), reader.U64(), reader.U32());
}

/// <summary>munlock of a range in bytes.</summary>
public readonly record struct MunlockCall(SpaceId Space, ulong Start, ulong Length) : ISyscall<MunlockCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Space(Space) is { Exited: false } space
        ? MlockCalls.Unlock(turn.Kernel, space, Start, Length)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Start).Add(Length);

    public static MunlockCall Read(ref CommandReader reader) => new(reader.Space(), reader.U64(), reader.U64());
}

/// <summary>mlockall with MCL_CURRENT, MCL_FUTURE and MCL_ONFAULT.</summary>
public readonly partial record struct MlockAllCall(SpaceId Space, uint Flags) : ISyscall<MlockAllCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Space(Space) is { Exited: false } space
        ? MlockCalls.LockAll(turn.Kernel, space, Flags)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Flags);

    public static MlockAllCall Read(ref CommandReader reader) => new(reader.Space(), reader.U32());
}

/// <summary>munlockall.</summary>
public readonly record struct MunlockAllCall(SpaceId Space) : ISyscall<MunlockAllCall>
{
    public SyscallResult Run(in Turn turn) => turn.Kernel.Space(Space) is { Exited: false } space
        ? MlockCalls.UnlockAll(turn.Kernel, space)
        : Errno.ESRCH;

    public void Write(CommandWriter writer) => writer.Add(Space);

    public static MunlockAllCall Read(ref CommandReader reader) => new(reader.Space());
}
