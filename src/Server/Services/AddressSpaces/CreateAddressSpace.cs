using FramePin.Core.Addressing;
using FramePin.Core.Syscalls;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class AddressSpaceService
{
    /// <summary>A process with an empty address space (Core/Syscalls/CreateSpaceCall.cs).</summary>
    public override Task<AddressSpace> CreateAddressSpace(CreateAddressSpaceRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Parent, Right.Use, "parent");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var layout = WireMapping.ToLayout(request.Layout);
            var task = WireMapping.ToTask(request.Task);
            var lease = host.Leases.Find(request.Lease);
            using var name = host.Spaces.Reserve(request.AddressSpaceId);
            var created = host.Machine.Call(new CreateSpaceCall(name.Id, layout, task));
            if (!created.IsOk) throw Refusals.Errno("create_address_space", created.Error);
            var space = name.Fill(new SpaceId((int)created.Value));
            host.HangOn(lease, space, () => _ = host.ExitSpaceAsync(space));
            return Task.FromResult(Views.Of(host, space));
        });
    }
}
