using FramePin.Core.Syscalls;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class FileService
{
    /// <summary>fallocate with FALLOC_FL_PUNCH_HOLE, when the watches of the mapped pages have agreed.</summary>
    public override Task<V1.File> PunchHole(PunchHoleRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(context, request.Name, Names.Files, Right.Use, "name");
        return host.Requests.Run(context, request.RequestId, request, () => ChangeAsync(
            host, id, "fallocate",
            file => host.Commands.CallAsync(new PunchHoleCall(file, request.Offset, request.Length))));
    }
}
