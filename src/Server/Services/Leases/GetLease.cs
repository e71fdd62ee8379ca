using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class LeaseService
{
    public override Task<V1.Lease> GetLease(GetLeaseRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(context, request.Name, Names.Leases, Right.Read, "name");
        return Task.FromResult(Views.Of(host.Leases.Get(id)));
    }
}
