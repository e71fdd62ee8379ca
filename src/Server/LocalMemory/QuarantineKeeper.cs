using System.Collections.Concurrent;
using FramePin.Core.Addressing;
using FramePin.Server.Configuration;
using FramePin.Server.Machines;
using FramePin.Server.Telemetry;

namespace FramePin.Server.LocalMemory;

/// <summary>
/// Keeps the quarantine of each machine in its bound: when more free memory is held back for local processes, those
/// that hold the most are fenced or killed, as the machine says, until it fits again.
/// </summary>
/// <remarks>Any thread; one at a time for a machine.</remarks>
internal sealed class QuarantineKeeper(
    Attachments attachments, DaemonOptions options, ILogger<QuarantineKeeper> log)
{
    private readonly ConcurrentDictionary<MachineHost, Lock> _gates = new();

    /// <summary>Looks after a machine from now on.</summary>
    public void Watch(MachineHost host) =>
        host.Machine.WatchQuarantine(host.QuarantineBytesMax >> PageGeometry.PageShift, () => TryEnforce(host));

    /// <summary>Called by a thread of the pool, where an exception would end the daemon.</summary>
    private void TryEnforce(MachineHost host)
    {
        try
        {
            Enforce(host);
        }
#pragma warning disable CA1031 // The next command past the bound tries again.
        catch (Exception exception)
#pragma warning restore CA1031
        {
            log.QuarantineFailed(host.Id, exception);
        }
    }

    private void Enforce(MachineHost host)
    {
        var ended = new List<(Attachment Attachment, ulong Frames, bool IsKilled)>();
        // A second caller waits here. It finds the work done, or does the work that came since.
        lock (_gates.GetOrAdd(host, static _ => new Lock()))
        {
            try
            {
                while (host.Machine.Statistics().QuarantinedFrames > host.QuarantineBytesMax >> PageGeometry.PageShift)
                {
                    var holder = attachments.Of(host).Select(
                        attachment => (Attachment: attachment, Frames: attachment.QuarantinedFrames))
                        .OrderByDescending(pair => pair.Frames).FirstOrDefault();
                    if (holder.Attachment is null || holder.Frames == 0) break;
                    ended.Add((holder.Attachment, holder.Frames, End(holder.Attachment, host.KillsHolders)));
                }
            }
            catch (ObjectDisposedException)
            {
                // The machine was deleted meanwhile, and its quarantine with it.
                _gates.TryRemove(host, out _);
            }
        }

        foreach (var (attachment, frames, isKilled) in ended)
            if (isKilled) log.HolderKilled(attachment.Pid, attachment.Name, frames);
            else log.HolderFenced(attachment.Pid, attachment.Name, frames);
    }

    /// <summary>Ends an attachment. True: its process was killed; false: it is fenced.</summary>
    private bool End(Attachment attachment, bool kills)
    {
        var isKilled = kills && attachment.Pid != Environment.ProcessId && attachment.Process is { } process
            && process.End() && process.WaitForEnd(options.Limits.KillPatience);
        attachment.Fence();
        return isKilled;
    }
}
