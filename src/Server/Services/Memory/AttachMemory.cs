using FramePin.Server.LocalMemory;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;

namespace FramePin.Server.Services;

internal sealed partial class MemoryService
{
    /// <summary>A ticket, for which the attach socket gives the machine's memory to a local process.</summary>
    public override Task<AttachMemoryResponse> AttachMemory(AttachMemoryRequest request, ServerCallContext context)
    {
        var host = machines.Resolve(context, request.Parent, Right.Use, "parent");
        if (options.AttachSocketPath is not { } path)
            throw Refusals.State(
                "NO_ATTACH_SOCKET", "the daemon has no socket for local memory: start it with --attach-socket");
        return host.Requests.Run(context, request.RequestId, request, () =>
        {
            var lease = host.Leases.Find(request.Lease);
            var attachment = new Attachment(host.NextAttachment(), host, lease, request.ReadOnly);
            var ticket = tickets.Issue(attachment);
            return Task.FromResult(new AttachMemoryResponse
            {
                SocketPath = path,
                Ticket = UnsafeByteOperations.UnsafeWrap(ticket),
                MemoryBytes = host.Machine.Options.Memory,
                Attachment = attachment.Name,
            });
        });
    }
}
