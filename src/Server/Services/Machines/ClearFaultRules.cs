using FramePin.Core.Kernel;
using FramePin.Server.Machines;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MachineService
{
    public override Task<ClearFaultRulesResponse> ClearFaultRules(
        ClearFaultRulesRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Machine, Right.Manage, "machine");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            host.Machine.Call(default(ClearFaultPlanCall));
            return Task.FromResult(new ClearFaultRulesResponse());
        });
    }
}
