using FramePin.Core.Syscalls;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class FileService
{
    /// <summary>ftruncate, when the watches of the mapped pages behind the new end have agreed.</summary>
    public override Task<V1.File> TruncateFile(TruncateFileRequest request, ServerCallContext context)
    {
        CheckSize(request.SizeBytes);
        var (host, id) = machines.Resolve(context, request.Name, Names.Files, Right.Use, "name");
        return host.Requests.Run(context, request.RequestId, request, () => ChangeAsync(
            host, id, "ftruncate", file => host.Commands.CallAsync(new TruncateCall(file, request.SizeBytes))));
    }
}
