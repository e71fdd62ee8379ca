using FramePin.Core.Abi;
using FramePin.Server.Drivers;
using FramePin.Server.Machines;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;
using MmapCall = FramePin.Core.Syscalls.MmapCall;

namespace FramePin.Server.Services;

internal sealed partial class DriverService
{
    public override Task<MapDriverFileResponse> MapDriverFile(
        MapDriverFileRequest request, ServerCallContext context)
    {
        var (host, file) = Find(context, request.File);
        return host.Requests.Run(
            context, request.RequestId, request, cancelled => MapOnce(host, file, request, cancelled));
    }

    private static async Task<MapDriverFileResponse> MapOnce(
        MachineHost host, OpenDriverFile? file, MapDriverFileRequest request, CancellationToken cancelled)
    {
        if (file is null) return new MapDriverFileResponse { Errno = (uint)Errno.ENODEV };
        var space = host.Spaces.Get(request.AddressSpace, "address_space").Thing;
        var map = new MapCall
        {
            Length = request.Length,
            Prot = request.Prot,
            Flags = request.Flags,
            Offset = request.Offset,
        };
        var answer = await file.Driver.CallAsync(new DriverCall { File = file.Number, Map = map }, cancelled)
            .ConfigureAwait(false);
        if (answer.Errno != 0) return new MapDriverFileResponse { Errno = Shown(answer.Errno, file.IsClosed) };
        var command = new MmapCall(
            space, request.Address, request.Length, (Prot)request.Prot, (MapFlags)request.Flags)
        {
            Device = host.Devices.Get(answer.Device, "device").Thing,
        };
        var result = await host.Commands.MapAsync(command).ConfigureAwait(false);
        return new MapDriverFileResponse
        {
            Errno = (uint)result.Error,
            Address = result.Error == Errno.None ? result.Value : 0,
        };
    }
}
