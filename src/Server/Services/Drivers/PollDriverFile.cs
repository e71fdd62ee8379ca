using FramePin.Server.Drivers;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;

namespace FramePin.Server.Services;

internal sealed partial class DriverService
{
    /// <summary>DEFAULT_POLLMASK: what a file without a poll method is ready for (include/linux/poll.h).</summary>
    private const uint AlwaysReady = 0x145;

    /// <summary>EPOLLNVAL: the file is closed, or its driver is gone.</summary>
    private const uint Invalid = 0x20;

    public override Task<PollDriverFileResponse> PollDriverFile(
        PollDriverFileRequest request, ServerCallContext context)
    {
        var (host, file) = Find(context, request.File);
        return host.Requests.Run(
            context, request.RequestId, request, cancelled => PollOnce(file, request, cancelled));
    }

    private static async Task<PollDriverFileResponse> PollOnce(
        OpenDriverFile? file, PollDriverFileRequest request, CancellationToken cancelled)
    {
        if (file is null) return new PollDriverFileResponse { Errno = (uint)Errno.ENODEV, Events = Invalid };
        WireTimes.Read(request.Timeout, "timeout");
        if (!file.Driver.Polls) return new PollDriverFileResponse { Events = AlwaysReady & request.Events };
        var poll = new PollCall { Events = request.Events, Timeout = request.Timeout };
        var answer = await file.Driver.CallAsync(
            new DriverCall { File = file.Number, Poll = poll }, cancelled).ConfigureAwait(false);
        return new PollDriverFileResponse { Errno = Shown(answer.Errno, file.IsClosed), Events = answer.Events };
    }
}
