using System.Net.Sockets;
using System.Text;
using FramePin.Server.Configuration;
using FramePin.Server.Native;
using FramePin.Server.Telemetry;

namespace FramePin.Server.LocalMemory;

/// <summary>
/// The socket where local processes get a machine's memory as a descriptor. A connection is an attachment, and the two
/// end together.
/// </summary>
/// <remarks>
/// The client sends its ticket of 32 bytes. The answer is a byte 0 with the descriptor, or a byte 1 and a sentence.
/// Nothing more is sent: either side ends the attachment by closing the connection.
/// </remarks>
internal sealed class AttachServer(
    DaemonOptions options, DaemonSockets sockets, AttachTickets tickets, Attachments attachments, TimeProvider time,
    ILogger<AttachServer> log)
    : BackgroundService
{
    /// <summary>Interval at which a wait for a process's end looks whether the wait is still needed.</summary>
    private static readonly TimeSpan PollTime = TimeSpan.FromMilliseconds(200);

    private const byte Granted = 0;
    private const byte Denied = 1;

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        if (sockets.Attach is not { } listener) return;
        using var _ = listener;
        try
        {
            while (true) await ServeNextAsync(listener.Socket, stoppingToken).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            // The daemon ends, and with it every attachment.
        }
    }

    private async Task ServeNextAsync(Socket listener, CancellationToken stopping)
    {
        try
        {
            _ = ServeAsync(await listener.AcceptAsync(stopping).ConfigureAwait(false), stopping);
        }
        catch (SocketException exception)
        {
            // Out of descriptors. The open attachments stay, and make room when they end.
            log.AttachSocketFull(exception.Message);
            await Task.Delay(PollTime, time, stopping).ConfigureAwait(false);
        }
    }

    private async Task ServeAsync(Socket socket, CancellationToken stopping)
    {
        using var _ = socket;
        try
        {
            var attachment = await AdmitAsync(socket, stopping).ConfigureAwait(false);
            if (attachment is null) return;
            attachments.Add(attachment);
            try
            {
                if (!await GrantAsync(socket, attachment, stopping).ConfigureAwait(false)) return;
                await UntilEndAsync(socket, attachment, stopping).ConfigureAwait(false);
            }
            finally
            {
                // The client learns of the end before the daemon waits for it to unmap.
                socket.Dispose();
                await UntilGoneAsync(attachment, stopping).ConfigureAwait(false);
                attachments.End(attachment);
                attachment.Dispose();
            }
        }
        catch (Exception exception) when (exception is SocketException or OperationCanceledException
            or ObjectDisposedException
            or System.ComponentModel.Win32Exception or IOException)
        {
            log.AttachmentEnded(exception.Message);
        }
    }

    /// <summary>Sends the memory; false when the host has no descriptor left, which the peer is told.</summary>
    private static async Task<bool> GrantAsync(Socket socket, Attachment attachment, CancellationToken stopping)
    {
        string reason;
        try
        {
            using var memory = attachment.Host.Machine.OpenMemory(attachment.IsReadOnly);
            DescriptorPassing.Send(socket, Granted, memory);
            return true;
        }
        catch (System.ComponentModel.Win32Exception exception)
        {
            reason = exception.Message;
        }

        await DenyAsync(socket, reason, stopping).ConfigureAwait(false);
        return false;
    }

    /// <summary>Checks the peer's credentials and ticket; null when it was refused or is gone.</summary>
    private async Task<Attachment?> AdmitAsync(Socket socket, CancellationToken stopping)
    {
        // The ticket is read first, since a connection closed over unread bytes is reset, and the reason lost.
        var token = new byte[AttachTickets.Length];
        using var expiry = new CancellationTokenSource(options.Limits.AttachTicketLife, time);
        using var either = CancellationTokenSource.CreateLinkedTokenSource(stopping, expiry.Token);
        for (var have = 0; have < token.Length;)
        {
            var more = await socket.ReceiveAsync(token.AsMemory(have), either.Token).ConfigureAwait(false);
            if (more == 0) return null;
            have += more;
        }

        var peer = PeerCredentials.Of(socket);
        var isOwn = peer.User == 0 || peer.User == options.User;
        if (!isOwn && !(options.AttachGroup is { } group && peer.IsIn(group)))
        {
            log.AttachDenied(peer.Pid, peer.User);
            await DenyAsync(socket, $"user {peer.User} is not in the group that may attach (--attach-group)", stopping)
                .ConfigureAwait(false);
            return null;
        }

        var process = ProcessHandle.OfPeer(socket, peer.Pid);
        if (process is null) return null;
        if (tickets.Redeem(token) is not { } attachment)
        {
            process.Dispose();
            await DenyAsync(socket, "the ticket is unknown, used or too old: ask AttachMemory for another", stopping)
                .ConfigureAwait(false);
            return null;
        }

        attachment.Process = process;
        attachment.Pid = peer.Pid;
        return attachment;
    }

    /// <summary>
    /// Waits until the process has nothing mapped any more: it said so, or is dead. A process that closed its
    /// connection or lost its lease can still store through its mappings, and the allocator gets none of the mapped
    /// frames meanwhile.
    /// </summary>
    private static async Task UntilGoneAsync(Attachment attachment, CancellationToken stopping)
    {
        if (attachment.Revoke()) return;
        // A thread of its own: such a process may stay for long, and there are few of them.
        var dead = Task.Factory.StartNew(
            () =>
            {
                while (!stopping.IsCancellationRequested && !attachment.Emptied.IsCompleted
                    && !attachment.Process!.WaitForEnd(PollTime))
                {
                }
            },
            CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        await Task.WhenAny(attachment.Emptied, dead).ConfigureAwait(false);
        await dead.ConfigureAwait(false);
    }

    /// <summary>
    /// Waits for the end of the attachment: the process closed it or died, its lease ended, or the daemon stops.
    /// </summary>
    private static async Task UntilEndAsync(Socket socket, Attachment attachment, CancellationToken stopping)
    {
        using var either = CancellationTokenSource.CreateLinkedTokenSource(
            stopping, attachment.Fenced, attachment.Lease?.Ended ?? default);
        var nothing = new byte[1];
        while (await socket.ReceiveAsync(nothing, either.Token).ConfigureAwait(false) > 0)
        {
        }
    }

    private static async Task DenyAsync(Socket socket, string reason, CancellationToken stopping)
    {
        byte[] answer = [Denied, .. Encoding.UTF8.GetBytes(reason)];
        await socket.SendAsync(answer, stopping).ConfigureAwait(false);
        socket.Shutdown(SocketShutdown.Send);
    }
}
