using FramePin.Server.Drivers;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
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
            ? IoctlOnce(host, file, request, context.CancellationToken)
            : host.Requests.Run(
                context, request.RequestId, request, cancelled => IoctlOnce(host, file, request, cancelled));
    }

    private static async Task<IoctlResponse> IoctlOnce(
        MachineHost host, OpenDriverFile? file, IoctlRequest request, CancellationToken cancelled)
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
        var answer = await AskAsync(
            file, new DriverCall { File = file.Number, Ioctl = ioctl }, request.RequestId, request.Tag, cancelled)
            .ConfigureAwait(false);
        return new IoctlResponse
        {
            Errno = Shown(answer.Errno, file.IsClosed),
            Argument = answer.Argument,
            Value = answer.Value,
        };
    }
}
