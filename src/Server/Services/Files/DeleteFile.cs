using FramePin.Core.Syscalls;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class FileService
{
    /// <summary>unlink: the file lives on for as long as it is mapped.</summary>
    public override Task<DeleteFileResponse> DeleteFile(DeleteFileRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(context, request.Name, Names.Files, Right.Use, "name");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var file = host.Files.Get(id);
            host.Machine.Call(new UnlinkCall(file.Thing));
            host.Files.Remove(file);
            return Task.FromResult(new DeleteFileResponse());
        });
    }
}
