using Grpc.Core;

namespace FramePin.Server.Machines;

/// <summary>The use that a call makes of a machine.</summary>
internal enum Right
{
    /// <summary>The call looks and changes nothing.</summary>
    Read,

    /// <summary>The call changes memory, pins, leases and files of the machine.</summary>
    Use,

    /// <summary>The call makes or deletes the machine, plans its faults, or serves its devices.</summary>
    Manage,
}

/// <summary>Decides which caller may use which machine.</summary>
internal interface IAccessPolicy
{
    /// <summary>Throws PERMISSION_DENIED for a caller that does not have the right. Any thread.</summary>
    /// <param name="caller">The call, with its peer and its credentials.</param>
    /// <param name="machine">Last segment of the machine's name, which may not exist.</param>
    /// <param name="right">The use that the call makes of it.</param>
    void Check(ServerCallContext caller, string machine, Right right);
}

/// <summary>Every caller that reaches the daemon has every right: the rights of its sockets are the rights.</summary>
internal sealed class OpenAccess : IAccessPolicy
{
    public void Check(ServerCallContext caller, string machine, Right right)
    {
    }
}
