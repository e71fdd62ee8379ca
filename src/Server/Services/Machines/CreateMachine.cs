using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MachineService
{
    public override Task<Machine> CreateMachine(CreateMachineRequest request, ServerCallContext context)
    {
        // A remembered answer is for those alone who may make the machine.
        machines.CheckAccess(context, request.MachineId, Right.Manage);
        return machines.Requests.Run(context, request.RequestId, request, () =>
        {
            var options = WireMapping.ToOptions(request.Spec);
            return Task.FromResult(Views.Of(machines.Create(context, request.MachineId, options, request.Spec)));
        });
    }
}
