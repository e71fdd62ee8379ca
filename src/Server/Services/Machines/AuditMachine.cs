using FramePin.Server.Machines;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MachineService
{
    /// <summary>The audit and the digest (Core/Inspection).</summary>
    public override Task<AuditMachineResponse> AuditMachine(AuditMachineRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Name, Right.Read, "name");
        var response = new AuditMachineResponse { Digest = host.Machine.Digest() };
        response.Findings.Add(host.Machine.Audit());
        return Task.FromResult(response);
    }
}
