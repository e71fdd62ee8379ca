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
            var fork = new ForkCall(parent.Thing, name.Id) { CopiesAtOnce = ForkedFramesAtOnce };
            var forked = await host.Commands.CallAsync(fork).ConfigureAwait(false);
            if (!forked.IsOk) throw Refusals.Errno("fork", forked.Error);
            var child = new SpaceId((int)forked.Value);
            // Others go on between the pieces. Nobody reaches the child before it has a name.
            while (host.Machine.Call(new CopyForkedCall(child, ForkedFramesAtOnce)).Value > 0) await Task.Yield();
            var made = name.Fill(child);
            // A caller who has gone would never learn its name.
            if (cancelled.IsCancellationRequested) await host.ExitSpaceAsync(made).ConfigureAwait(false);
            cancelled.ThrowIfCancellationRequested();
            return Views.Of(host, made);
        });
    }

    /// <summary>
    /// Frames of 4 KiB that a fork copies in one turn, 8 MiB: some milliseconds in which nothing else of the machine
    /// runs.
    /// </summary>
    private const long ForkedFramesAtOnce = 2048;
}
