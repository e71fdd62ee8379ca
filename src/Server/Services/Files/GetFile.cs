using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class FileService
{
    public override Task<V1.File> GetFile(GetFileRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(context, request.Name, Names.Files, Right.Read, "name");
        return Task.FromResult(Views.Of(host, host.Files.Get(id)));
    }
}
