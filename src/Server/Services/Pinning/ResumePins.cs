using FramePin.Server.Machines;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class PinningService
{
    /// <summary>Lets the machine's parked pins go on (Core/Pinning/PinCommands.cs: ResumePinCall).</summary>
    public override Task<ResumePinsResponse> ResumePins(ResumePinsRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Machine, Right.Manage, "machine");
        return host.Requests.Run(context, request.RequestId, request, async () =>
            new ResumePinsResponse { Resumed = (uint)await host.Parked.ResumeAllAsync().ConfigureAwait(false) });
    }
}
