using FramePin.Core.Syscalls;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;

namespace FramePin.Server.Services;

internal sealed partial class AddressSpaceService
{
    public override Task<SetTaskResponse> SetTask(SetTaskRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(
            context, request.AddressSpace, Names.AddressSpaces, Right.Use, "address_space");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var task = WireMapping.ToTask(request.Task);
            var error = host.Machine.Call(new SetTaskCall(host.Spaces.Get(id).Thing, task)).Error;
            return error == Errno.None
                ? Task.FromResult(new SetTaskResponse())
                : throw Refusals.Errno("set_task", error);
        });
    }
}
