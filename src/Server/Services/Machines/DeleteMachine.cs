using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MachineService
{
    public override Task<DeleteMachineResponse> DeleteMachine(DeleteMachineRequest request, ServerCallContext context)
    {
        // A repeat finds the machine gone, and gets the first answer if it may delete a machine of that name.
        machines.CheckAccess(context, Names.MachineId(request.Name, "name"), Right.Manage);
        return machines.Requests.Run(context, request.RequestId, request, () =>
        {
            machines.Delete(context, request.Name, request.Force);
            return Task.FromResult(new DeleteMachineResponse());
        });
    }
}
