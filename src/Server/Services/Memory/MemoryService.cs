using FramePin.Server.Configuration;
using FramePin.Server.LocalMemory;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;

namespace FramePin.Server.Services;

/// <summary>Bytes, in chunks: through an address space, by frames, of a file; and memory for local processes.</summary>
internal sealed partial class MemoryService(
    MachineRegistry machines, AttachTickets tickets, Attachments attachments, DaemonOptions options)
    : V1.MemoryService.MemoryServiceBase
{
    /// <summary>An attachment to the machine of the thing that <paramref name="field"/> names.</summary>
    private Attachment FindAttachment(MachineHost host, string name, string field)
    {
        var attachment = attachments.Get(name);
        return attachment.Host == host
            ? attachment
            : throw Refusals.Bad(field, "belongs to another machine than the attachment");
    }
}
