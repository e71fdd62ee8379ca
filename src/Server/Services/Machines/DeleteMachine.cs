using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MachineService
{
    public override Task<DeleteMachineResponse> DeleteMachine(
        DeleteMachineRequest request, ServerCallContext context) =>
        machines.Requests.Run(context, request.RequestId, request, () =>
        {
            machines.Delete(context, request.Name, request.Force);
            return Task.FromResult(new DeleteMachineResponse());
        });
}
