using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;

namespace FramePin.Core.Syscalls;

/// <summary>
/// Makes a device over frames of the machine's RAM, which it keeps, or over MMIO behind the RAM.
/// </summary>
/// <param name="Name">Path as maps shows it.</param>
/// <param name="Mapping">How the device's mmap method builds a mapping.</param>
/// <param name="Frames">Frames of the device.</param>
/// <param name="IsRam">Over RAM; its frames have a struct page.</param>
/// <param name="HasClose">Its areas never merge, since open and close count them.</param>
/// <param name="IsWritable">Opened for reading and writing.</param>
/// <param name="RemapsInParts">The mmap method calls remap_pfn_range once for each page (row 137).</param>
/// <param name="IsAnonymousInode">Its file is an anonymous inode.</param>
/// <param name="HasAccess">Its mappings have an access method (generic_access_phys).</param>
/// <returns>The device's number; -ENOMEM when RAM is out or not to be had in one piece.</returns>
public readonly record struct CreateDeviceCall(
    string Name, DeviceMapping Mapping, ulong Frames, bool IsRam, bool HasClose, bool IsWritable,
    bool RemapsInParts = false, bool IsAnonymousInode = false, bool HasAccess = true) : ISyscall<CreateDeviceCall>
{
    public SyscallResult Run(in Turn turn)
    {
        var kernel = turn.Kernel;
        Pfn first;
        if (IsRam)
        {
            var order = Frames <= 1 ? 0 : 64 - System.Numerics.BitOperations.LeadingZeroCount(Frames - 1);
            if (order > PageGeometry.PudOrder || Allocate(kernel, order) is not { } taken) return Errno.ENOMEM;
            first = taken;
        }
        else
        {
            first = kernel.TakeMmio(Frames);
        }

        var (name, mapping, frames, isRam) = (Name, Mapping, Frames, IsRam);
        var (hasClose, isWritable, remapsInParts) = (HasClose, IsWritable, RemapsInParts);
        var (isAnonymousInode, hasAccess) = (IsAnonymousInode, HasAccess);
        var device = kernel.AddDevice(id => new Device(id, name, mapping, first, frames, isRam)
        {
            HasClose = hasClose,
            Writable = isWritable,
            RemapsInParts = remapsInParts,
            IsAnonymousInode = isAnonymousInode,
            HasAccess = hasAccess,
        });
        if (Mapping == DeviceMapping.P2PPages && IsRam)
            for (var i = 0UL; i < Frames; i++) kernel.Memory.Frames[first + i].Flags |= FrameFlags.P2PDma;
        return SyscallResult.Ok((ulong)device.Id.Value);
    }

    public void Write(CommandWriter writer) => writer.Add(Name).Add((int)Mapping).Add(Frames).Add(IsRam)
        .Add(HasClose).Add(IsWritable).Add(RemapsInParts).Add(IsAnonymousInode).Add(HasAccess);

    public static CreateDeviceCall Read(ref CommandReader reader) => new(
        reader.Name(), (DeviceMapping)reader.I32(), reader.U64(), reader.Bool(), reader.Bool(), reader.Bool(),
        reader.Bool(), reader.Bool(), reader.Bool());

    /// <summary>Single frames, each with a reference that the device holds.</summary>
    private static Pfn? Allocate(KernelState kernel, int order)
    {
        if (kernel.Memory.Normal.Take(order) is not { } first) return null;
        for (var i = 0UL; i < 1UL << order; i++)
        {
            var info = kernel.Memory.Frames[first + i];
            if ((info.Flags & FrameFlags.Touched) != 0) kernel.Memory.Bytes.Of(first + i).Clear();
            info.Clear();
            info.Flags = FrameFlags.Head | FrameFlags.Device | FrameFlags.Touched;
            kernel.Memory.Frames.InitCount(first + i);
        }

        return first;
    }
}

/// <summary>
/// The driver gives the device up: it cannot be mapped any more. Its memory goes with its last mapping, and page by
/// page later where pins or vectors hold some. -ENODEV when it was destroyed before.
/// </summary>
public readonly record struct DestroyDeviceCall(DeviceId Device) : ISyscall<DestroyDeviceCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Device(Device) is not { IsOrphan: false } device) return Errno.ENODEV;
        device.IsOrphan = true;
        turn.Kernel.DropIfUnused(device);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Device);

    public static DestroyDeviceCall Read(ref CommandReader reader) => new(reader.Device());
}
