using System.Security.Cryptography;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;

namespace FramePin.Server.LocalMemory;

/// <summary>A ticket that was issued and not shown yet.</summary>
/// <param name="Attachment">The attachment that its holder gets.</param>
/// <param name="IssuedAt">Timestamp of the clock.</param>
internal sealed record AttachTicket(Attachment Attachment, long IssuedAt);

/// <summary>
/// Tickets for the attach socket. A client gets one by gRPC, and shows it on the attach socket once, within
/// <see cref="DaemonLimits.AttachTicketLife"/>. Any thread.
/// </summary>
internal sealed class AttachTickets(DaemonOptions options, TimeProvider time)
{
    /// <summary>Bytes of a ticket.</summary>
    public const int Length = 32;

    private readonly Lock _lock = new();
    private readonly Dictionary<string, AttachTicket> _issued = new(StringComparer.Ordinal);

    /// <summary>Issues a ticket of <see cref="Length"/> random bytes. RESOURCE_EXHAUSTED at the limit.</summary>
    public byte[] Issue(Attachment attachment)
    {
        var token = RandomNumberGenerator.GetBytes(Length);
        lock (_lock)
        {
            foreach (var (key, old) in _issued)
                if (IsExpired(old)) _issued.Remove(key);
            if (_issued.Count >= options.Limits.AttachTicketsMax)
                throw Refusals.Limit(
                    "attach_tickets_max", (ulong)options.Limits.AttachTicketsMax, (ulong)_issued.Count + 1);
            _issued.Add(Convert.ToHexString(token), new AttachTicket(attachment, time.GetTimestamp()));
        }

        return token;
    }

    /// <summary>
    /// Takes a ticket back and gives the attachment; null for one that was never issued, used before, or is too old.
    /// </summary>
    public Attachment? Redeem(ReadOnlySpan<byte> token)
    {
        lock (_lock)
            return _issued.Remove(Convert.ToHexString(token), out var ticket) && !IsExpired(ticket)
                ? ticket.Attachment
                : null;
    }

    private bool IsExpired(AttachTicket ticket) =>
        time.GetElapsedTime(ticket.IssuedAt) > options.Limits.AttachTicketLife;
}
