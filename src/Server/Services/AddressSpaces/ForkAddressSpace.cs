using FramePin.Core.Addressing;
using FramePin.Core.Syscalls;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class AddressSpaceService
{
    /// <summary>fork (Core/Syscalls/ForkCall.cs), when the watches of private memory have agreed.</summary>
    public override Task<AddressSpace> ForkAddressSpace(ForkAddressSpaceRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(context, request.Name, Names.AddressSpaces, Right.Use, "name");
        return host.Requests.Run(context, request.RequestId, request, async cancelled =>
        {
            var parent = host.Spaces.Get(id);
            using var name = host.Spaces.Reserve(request.ChildId);
            var child = await host.Commands.CallAsync(new ForkCall(parent.Thing, name.Id)).ConfigureAwait(false);
            if (!child.IsOk) throw Refusals.Errno("fork", child.Error);
            var made = name.Fill(new SpaceId((int)child.Value));
            // A caller who has gone would never learn its name.
            if (cancelled.IsCancellationRequested) await host.ExitSpaceAsync(made).ConfigureAwait(false);
            cancelled.ThrowIfCancellationRequested();
            return Views.Of(host, made);
        });
    }
}
