using FramePin.Core.Addressing;

namespace FramePin.Core.Vmas;

/// <summary>
/// A userfaultfd: the ranges of one address space that are registered with it answer missing and write-protect faults
/// with SIGBUS, as with UFFD_FEATURE_SIGBUS. One that a handler serves (ServeUffdCall) is asked about missing small
/// pages instead.
/// </summary>
/// <remarks>Made by CreateUffdCall. Areas refer to it; guarded by the turn.</remarks>
internal sealed class Userfaultfd
{
    internal Userfaultfd(UffdId id, AddressSpace space)
    {
        Id = id;
        Space = space;
    }

    public UffdId Id { get; }

    /// <summary>Whose memory it can register: that of the process that made it.</summary>
    public AddressSpace Space { get; }
}
