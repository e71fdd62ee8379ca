using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MachineService
{
    public override Task<Machine> CreateMachine(CreateMachineRequest request, ServerCallContext context) =>
        machines.Requests.Run(context, request.RequestId, request, () =>
        {
            var options = WireMapping.ToOptions(request.Spec);
            return Task.FromResult(
                Views.Of(machines.Create(context, request.MachineId, options, request.Spec)));
        });
}
