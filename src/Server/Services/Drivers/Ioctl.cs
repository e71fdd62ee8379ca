using FramePin.Server.Drivers;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;

namespace FramePin.Server.Services;

internal sealed partial class DriverService
{
    public override Task<IoctlResponse> Ioctl(IoctlRequest request, ServerCallContext context)
    {
        var (host, file) = Find(context, request.File);
        return request.RequestId.Length == 0
            ? IoctlOnce(host, file, request, context, context.CancellationToken)
            : host.Requests.Run(
                context, request.RequestId, request, cancelled => IoctlOnce(host, file, request, null, cancelled));
    }

    /// <param name="host">The machine.</param>
    /// <param name="file">The file; null: it is closed.</param>
    /// <param name="request">The arguments.</param>
    /// <param name="context">The call that alone carries the answer; null: the answer is remembered.</param>
    /// <param name="cancelled">The caller gives up.</param>
    private static async Task<IoctlResponse> IoctlOnce(
        MachineHost host, OpenDriverFile? file, IoctlRequest request, ServerCallContext? context,
        CancellationToken cancelled)
    {
        if (file is null) return new IoctlResponse { Errno = (uint)Errno.ENODEV };
        if (request.Command.Length == 0 == (request.Request == 0))
            throw Refusals.Bad("request", "an ioctl has either a command (typed form) or a request (form of Linux)");
        if (request.AddressSpace.Length > 0) host.Spaces.Get(request.AddressSpace, "address_space");
        var ioctl = new IoctlCall
        {
            Command = request.Command,
            Argument = request.Argument,
            AddressSpace = request.AddressSpace,
            NonBlocking = request.NonBlocking || file.IsNonBlocking,
            Request = request.Request,
            Value = request.Value,
        };
        var call = new DriverCall { File = file.Number, Ioctl = ioctl };
        var answer = await AskAsync(file, call, request.RequestId, request.Tag, cancelled).ConfigureAwait(false);
        // DQBUF, EXPBUF and their like give something away, and the driver knows what.
        if (answer.Errno == 0) context?.WhenLost(() => file.Driver.Abandon(call.File, call.Call));
        return new IoctlResponse
        {
            Errno = Shown(answer.Errno, file.IsClosed),
            Argument = answer.Argument,
            Value = answer.Value,
        };
    }
}
