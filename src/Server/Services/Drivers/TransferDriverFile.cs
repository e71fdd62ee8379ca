using FramePin.Server.Drivers;
using FramePin.Server.Machines;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;

namespace FramePin.Server.Services;

internal sealed partial class DriverService
{
    public override Task<TransferDriverFileResponse> TransferDriverFile(
        TransferDriverFileRequest request, ServerCallContext context)
    {
        var (host, file) = Find(context, request.File);
        return request.RequestId.Length == 0
            ? TransferOnce(host, file, request, context.CancellationToken)
            : host.Requests.Run(
                context, request.RequestId, request, cancelled => TransferOnce(host, file, request, cancelled));
    }

    private static async Task<TransferDriverFileResponse> TransferOnce(
        MachineHost host, OpenDriverFile? file, TransferDriverFileRequest request, CancellationToken cancelled)
    {
        if (file is null) return new TransferDriverFileResponse { Errno = (uint)Errno.ENODEV };
        host.Spaces.Get(request.AddressSpace, "address_space");
        var transfer = new TransferCall
        {
            Write = request.Write,
            AddressSpace = request.AddressSpace,
            Address = request.Address,
            Length = request.Length,
            NonBlocking = request.NonBlocking || file.IsNonBlocking,
        };
        var answer = await AskAsync(
            file, new DriverCall { File = file.Number, Transfer = transfer }, request.RequestId, request.Tag,
            cancelled)
            .ConfigureAwait(false);
        return new TransferDriverFileResponse { Errno = Shown(answer.Errno, file.IsClosed), Bytes = answer.Bytes };
    }
}
