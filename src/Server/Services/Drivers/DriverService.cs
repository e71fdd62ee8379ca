using FramePin.Server.Configuration;
using FramePin.Server.Drivers;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;

namespace FramePin.Server.Services;

/// <summary>Driver processes and the files that they serve, over the wire; one file a call.</summary>
internal sealed partial class DriverService(
    MachineRegistry machines, DriverRegistry drivers, DaemonOptions options, IHostApplicationLifetime lifetime)
    : V1.DriverService.DriverServiceBase
{
    /// <summary>
    /// -ERESTARTSYS, which drivers answer when a signal has ended their wait (include/linux/errno.h).
    /// </summary>
    private const uint RestartSys = 512;

    /// <summary>-ENOIOCTLCMD and -ERESTART_RESTARTBLOCK, as RestartSys errnos of the kernel's own.</summary>
    private const uint NoIoctlCommand = 515;
    private const uint RestartBlock = 516;

    /// <summary>ENOTTY, which no call of Core answers.</summary>
    private const uint NoTty = 25;

    /// <summary>
    /// Asks the driver. A call that is remembered waits for the driver's answer also when its caller has left, which
    /// the driver learns as a signal: either the driver has done its work, and a repeat gets the answer, or it answers
    /// that it stopped waiting, and a repeat asks anew. InterruptDriverCall finds a call by its tag, remembered or not.
    /// </summary>
    private static async Task<DriverAnswer> AskAsync(
        OpenDriverFile file, DriverCall call, string requestId, ulong tag, CancellationToken cancelled)
    {
        if (tag == 0) return await AskAsync(file, call, requestId, null, cancelled).ConfigureAwait(false);
        try
        {
            return await AskAsync(file, call, requestId, number => file.Tagged.Begin(tag, number), cancelled)
                .ConfigureAwait(false);
        }
        finally
        {
            file.Tagged.End(tag);
        }
    }

    private static async Task<DriverAnswer> AskAsync(
        OpenDriverFile file, DriverCall call, string requestId, Action<ulong>? sent, CancellationToken cancelled)
    {
        if (requestId.Length == 0) return await file.Driver.CallAsync(call, cancelled, sent).ConfigureAwait(false);
        var answer = await file.Driver.CallToEndAsync(call, cancelled, sent).ConfigureAwait(false);
        if (answer.Errno is RestartSys or (uint)Errno.EINTR) cancelled.ThrowIfCancellationRequested();
        return answer;
    }

    /// <summary>
    /// The errno as a system call returns it. The kernel's own (512 to 516) never leave it: a wait that a signal ended
    /// is EINTR, or ENODEV where the file was closed under it.
    /// </summary>
    private static uint Shown(uint errno, bool isClosed) => errno switch
    {
        NoIoctlCommand => NoTty,
        >= RestartSys and <= RestartBlock => (uint)(isClosed ? Errno.ENODEV : Errno.EINTR),
        _ => errno,
    };

    /// <summary>The machine of a file's name, and the file; null when it is closed or its driver is gone.</summary>
    private (MachineHost Host, OpenDriverFile? File) Find(ServerCallContext context, string name)
    {
        var (host, text) = machines.Resolve(context, name, Names.DriverFiles, Right.Use, "file");
        return (host, drivers.Find(host, Names.Number(text, "file")));
    }
}
