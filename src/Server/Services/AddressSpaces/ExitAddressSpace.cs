using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class AddressSpaceService
{
    /// <summary>exit_mmap, when the watches of the process's memory have agreed.</summary>
    public override Task<ExitAddressSpaceResponse> ExitAddressSpace(
        ExitAddressSpaceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(context, request.Name, Names.AddressSpaces, Right.Use, "name");
        return host.Requests.Run(context, request.RequestId, request, async () =>
            await host.ExitSpaceAsync(host.Spaces.Get(id)).ConfigureAwait(false)
                ? new ExitAddressSpaceResponse()
                : throw Refusals.NotFound("ADDRESS_SPACE", request.Name));
    }
}
