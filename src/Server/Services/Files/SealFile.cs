using FramePin.Core.Syscalls;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class FileService
{
    /// <summary>fcntl(F_ADD_SEALS) with F_SEAL_FUTURE_WRITE.</summary>
    public override Task<V1.File> SealFile(SealFileRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(context, request.Name, Names.Files, Right.Use, "name");
        return host.Requests.Run(context, request.RequestId, request, () => ChangeAsync(
            host, id, "fcntl(F_ADD_SEALS)", file => new(host.Machine.Call(new SealWriteCall(file)))));
    }
}
