using FramePin.Core.Abi;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// Gives a part of an area other flags: split where needed, merged where possible (mm/vma.c: vma_modify_flags).
/// </summary>
internal static class VmaFlagChange
{
    /// <summary>
    /// On return <paramref name="vma"/> is the area that covers [start, end). -ENOMEM at the map limit, -EINVAL
    /// unsplittable.
    /// </summary>
    public static Errno Apply(AddressSpace space, ref Vma vma, ulong start, ulong end, VmFlags flags) =>
        flags == vma.Flags ? Errno.None : Apply(space, ref vma, start, end, flags, vma.Uffd);

    /// <summary>The same, with another userfaultfd or none.</summary>
    public static Errno Apply(AddressSpace space, ref Vma vma, ulong start, ulong end, VmFlags flags, Userfaultfd? uffd)
    {
        if (start > vma.Start)
        {
            var error = VmaMerge.Split(space, vma, start, out var upper);
            if (error != Errno.None) return error;
            vma = upper;
        }

        if (end < vma.End)
        {
            var error = VmaMerge.Split(space, vma, end, out _);
            if (error != Errno.None) return error;
        }

        vma.Flags = flags;
        vma.Uffd = uffd;
        vma = VmaMerge.MergeChanged(space, vma);
        return Errno.None;
    }
}
