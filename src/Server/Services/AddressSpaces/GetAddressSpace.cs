using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class AddressSpaceService
{
    public override Task<AddressSpace> GetAddressSpace(GetAddressSpaceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(context, request.Name, Names.AddressSpaces, Right.Read, "name");
        return Task.FromResult(Views.Of(host, host.Spaces.Get(id)));
    }
}
