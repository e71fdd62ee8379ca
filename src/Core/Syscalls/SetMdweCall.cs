using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;

namespace FramePin.Core.Syscalls;

/// <summary>
/// prctl(PR_SET_MDWE): refuses from now on mappings that are writable and executable, and mappings that become
/// executable. fork inherits it unless NO_INHERIT is given.
/// </summary>
/// <remarks>
/// -EINVAL before 6.3 and for other bits; -EPERM to take it back. Source: kernel/sys.c: prctl_set_mdwe.
/// </remarks>
public readonly record struct SetMdweCall(SpaceId Space, MdweFlags Flags) : ISyscall<SetMdweCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Space(Space) is not { Exited: false } space) return Errno.ESRCH;
        if (!turn.Kernel.Profile.HasMdwe) return Errno.EINVAL;
        if ((Flags & ~(MdweFlags.RefuseExecGain | MdweFlags.NoInherit)) != 0) return Errno.EINVAL;
        if (Flags == MdweFlags.NoInherit) return Errno.EINVAL;
        if (space.Mdwe != MdweFlags.None && space.Mdwe != Flags) return Errno.EPERM;
        space.Mdwe = Flags;
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Space).Add((uint)Flags);

    public static SetMdweCall Read(ref CommandReader reader) => new(reader.Space(), (MdweFlags)reader.U32());
}
