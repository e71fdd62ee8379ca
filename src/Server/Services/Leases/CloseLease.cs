using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class LeaseService
{
    /// <summary>Ends a lease, and gives back all that hangs on it.</summary>
    public override Task<CloseLeaseResponse> CloseLease(CloseLeaseRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(context, request.Name, Names.Leases, Right.Use, "name");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var (vectors, pages) = host.Leases.Close(host.Leases.Get(id));
            return Task.FromResult(
                new CloseLeaseResponse { FrameVectors = (uint)vectors, PinnedPages = (ulong)pages });
        });
    }
}
