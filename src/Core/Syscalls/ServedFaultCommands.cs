using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Kernel;

namespace FramePin.Core.Syscalls;

/// <summary>
/// A handler serves the device's faults. -EBUSY when another handler does, -EINVAL for a device that is not one of the
/// served kinds, -ENODEV for one that was destroyed.
/// </summary>
public readonly record struct ServeDeviceCall(DeviceId Device) : ISyscall<ServeDeviceCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Device(Device) is not { IsOrphan: false } device) return Errno.ENODEV;
        if (device.Mapping is not (DeviceMapping.ServedPfns or DeviceMapping.ServedPages)) return Errno.EINVAL;
        if (turn.Kernel.Served.IsServed(device)) return Errno.EBUSY;
        turn.Kernel.Served.Serve(device, isServed: true);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Device);

    public static ServeDeviceCall Read(ref CommandReader reader) => new(reader.Device());
}

/// <summary>
/// The handler of a device is gone: faults of the device end with SIGBUS, those that wait too. The caller resumes the
/// pins that wait.
/// </summary>
public readonly record struct StopServingCall(DeviceId Device) : ISyscall<StopServingCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Device(Device) is not { } device) return Errno.ENODEV;
        turn.Kernel.Served.Serve(device, isServed: false);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Device);

    public static StopServingCall Read(ref CommandReader reader) => new(reader.Device());
}

/// <summary>A handler answers a fault of its device; the next try of the fault takes the reply.</summary>
/// <param name="Fault">Number of the fault.</param>
/// <param name="Reply">The value that ->fault would return.</param>
/// <param name="Page">Index in the device, for InsertPfn and Page.</param>
/// <remarks>
/// -EINVAL for a page behind the device's end or a reply that the device's kind does not know, and then the fault goes
/// on waiting; -ENOENT when nothing waits for the answer any more.
/// </remarks>
public readonly record struct AnswerFaultCall(ulong Fault, FaultReply Reply, ulong Page = 0) : ISyscall<AnswerFaultCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Served.Find(Fault) is not { IsOpen: true } fault) return Errno.ENOENT;
        if (fault.Source is not Device device) return Errno.EINVAL;
        var kind = Reply switch
        {
            FaultReply.InsertPfn => DeviceMapping.ServedPfns,
            FaultReply.Page => DeviceMapping.ServedPages,
            _ => device.Mapping,
        };
        if (kind != device.Mapping) return Errno.EINVAL;
        if (Reply is FaultReply.InsertPfn or FaultReply.Page && Page >= device.Frames) return Errno.EINVAL;
        fault.ReplyPage = Page;
        fault.Reply = Reply;
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Fault).Add((int)Reply).Add(Page);

    public static AnswerFaultCall Read(ref CommandReader reader) =>
        new(reader.U64(), (FaultReply)reader.I32(), reader.U64());
}

/// <summary>
/// UFFDIO_WAKE: the fault is tried anew, and asked about anew when its page is still missing. -ENOENT when nothing
/// waits for it.
/// </summary>
public readonly record struct WakeFaultCall(ulong Fault) : ISyscall<WakeFaultCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (turn.Kernel.Served.Find(Fault) is not { } fault) return Errno.ENOENT;
        turn.Kernel.Served.Drop(fault);
        return SyscallResult.Ok();
    }

    public void Write(CommandWriter writer) => writer.Add(Fault);

    public static WakeFaultCall Read(ref CommandReader reader) => new(reader.U64());
}
