using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>RLIMIT_AS and RLIMIT_DATA (mm/mmap.c: may_expand_vm).</summary>
internal static class Limits
{
    /// <summary>
    /// -ENOMEM when <paramref name="bytes"/> more would pass a limit; <paramref name="replaced"/> bytes go first.
    /// </summary>
    public static Errno CheckExpansion(
        AddressSpace space, VmFlags flags, ulong bytes, ulong replaced = 0, TaskState? actor = null)
    {
        var task = actor ?? space.Task;
        if (task.RlimitAddressSpace != TaskState.Unlimited)
        {
            var total = (space.CountPages() << PageGeometry.PageShift) - replaced + bytes;
            if (total > task.RlimitAddressSpace) return Errno.ENOMEM;
        }

        const VmFlags notData = VmFlags.Shared | VmFlags.GrowsDown;
        var isData = (flags & (VmFlags.Write | notData)) == VmFlags.Write;
        // A limit of 0 is taken for one that is not meant (some programs set it); the hard limit, unlimited here,
        // counts instead.
        if (!isData || task.RlimitData is TaskState.Unlimited or 0) return Errno.None;
        var data = space.CountPages(VmFlags.Write, notData) << PageGeometry.PageShift;
        return data - replaced + bytes > task.RlimitData ? Errno.ENOMEM : Errno.None;
    }

    /// <summary>Bytes mapped inside a range (count_vma_pages_range).</summary>
    public static ulong MappedBytes(AddressSpace space, AddressRange range)
    {
        var bytes = 0UL;
        foreach (var vma in space.Vmas.Overlapping(range)) bytes += vma.Range.Intersect(range).Length;
        return bytes;
    }
}
