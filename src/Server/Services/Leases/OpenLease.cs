using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class LeaseService
{
    public override Task<V1.Lease> OpenLease(OpenLeaseRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Parent, Right.Use, "parent");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var ttl = WireTimes.Read(request.Ttl, "ttl");
            return Task.FromResult(Views.Of(host.Leases.Open(request.LeaseId, request.Owner, ttl)));
        });
    }
}
