using FramePin.Server.Machines;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MachineService
{
    public override Task<Machine> GetMachine(GetMachineRequest request, ServerCallContext context) =>
        Task.FromResult(Views.Of(machines.Resolve(context, request.Name, Right.Read, "name")));
}
