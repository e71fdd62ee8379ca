using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>
/// A device's mmap method: flags of the area and, for eager kinds, its entries. Under the turn.
/// </summary>
internal static class DeviceMappings
{
    private const VmFlags Remapped = VmFlags.Io | VmFlags.PfnMap | VmFlags.DontExpand | VmFlags.DontDump;

    /// <summary>
    /// Puts the area into the tree and maps what its device maps at once. -EINVAL beyond the device's end.
    /// </summary>
    public static Errno Map(KernelState kernel, AddressSpace space, Vma vma)
    {
        var device = vma.Device!;
        if (device.IsOrphan) return Errno.ENODEV;
        if (vma.PageOffset + vma.Pages > device.Frames) return Errno.EINVAL;
        if (!device.Writable && vma.Has(VmFlags.Shared | VmFlags.Write)) return Errno.EACCES;
        // get_remap_pgoff: who remaps a copy-on-write area does so in one piece.
        if (device is { Mapping: DeviceMapping.PfnMap, RemapsInParts: true } && vma.IsCow && vma.Pages > 1)
            return Errno.EINVAL;
        vma.Flags |= FlagsOf(device.Mapping);
        if (device is { Mapping: DeviceMapping.PfnMap, RemapsInParts: false } && kernel.Profile.MarksRemapped)
            vma.Flags |= VmFlags.Arch;
        vma.Flags &= ~VmFlags.Account;
        // vma_supports_mlock: what MAP_LOCKED or MCL_FUTURE asks for is passed over.
        if (vma.HasAny(VmFlags.Special)) vma.Flags &= ~(VmFlags.Locked | VmFlags.LockOnFault);
        var tracked = VmaMerge.InsertOrMerge(space, vma);
        for (var address = vma.Start; address < vma.End; address += PageGeometry.PageSize)
        {
            var pfn = device.First + vma.IndexOf(address);
            var error = MapOne(kernel, space, vma, device, address, pfn);
            if (error == Errno.None) continue;
            MunmapCall.Unmap(kernel, space, tracked.Range);
            return error;
        }

        return Errno.None;
    }

    private static VmFlags FlagsOf(DeviceMapping mapping) => mapping switch
    {
        DeviceMapping.PfnMap or DeviceMapping.PfnMapLazy or DeviceMapping.ServedPfns => Remapped,
        DeviceMapping.IoPages => VmFlags.Io | VmFlags.DontExpand | VmFlags.DontDump,
        DeviceMapping.MixedPages or DeviceMapping.MixedPfns or DeviceMapping.P2PPages =>
            VmFlags.MixedMap | VmFlags.DontExpand | VmFlags.DontDump,
        DeviceMapping.FaultPages or DeviceMapping.ServedPages => VmFlags.None,
        _ => VmFlags.DontExpand,
    };

    private static Errno MapOne(
        KernelState kernel, AddressSpace space, Vma vma, Device device, ulong address, Pfn pfn) =>
        device.Mapping switch
        {
            DeviceMapping.PfnMap or DeviceMapping.IoPages or DeviceMapping.MixedPfns =>
                FaultHandler.MapRaw(space, vma, address, pfn) ? Errno.None : Errno.ENOMEM,
            DeviceMapping.MixedPages or DeviceMapping.P2PPages =>
                FaultHandler.InsertPage(kernel, space, vma, address, pfn),
            _ => Errno.None,
        };
}
