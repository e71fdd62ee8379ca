using FramePin.Core.Addressing;
using FramePin.Server.Configuration;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Server.Services;

/// <summary>Watches over the wire.</summary>
internal sealed class WatchService(
    MachineRegistry machines, DaemonOptions options, TimeProvider time,
    IHostApplicationLifetime lifetime)
    : V1.WatchService.WatchServiceBase
{
    public override async Task WatchInvalidations(
        IAsyncStreamReader<WatchRequest> requestStream, IServerStreamWriter<InvalidationEvent> responseStream,
        ServerCallContext context)
    {
        if (!await requestStream.MoveNext(context.CancellationToken).ConfigureAwait(false)) return;
        if (requestStream.Current.Open is not { } open) throw Refusals.Bad("open", "the first message opens the watch");
        var host = HostOf(context, open);
        var lease = host.Leases.Find(open.Lease, "open.lease");
        var watch = Open(host, open);
        using var ends = CancellationTokenSource.CreateLinkedTokenSource(
            context.CancellationToken, watch.Fenced, lifetime.ApplicationStopping, host.Deleted, lease?.Ended
                ?? default);
        var hearing = HearAsync(requestStream, watch, ends);
        try
        {
            await SendAsync(host.Watches, watch, responseStream, ends.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            if (watch.Fenced.IsCancellationRequested)
                throw Refusals.State(
                    "WATCH_FENCED",
                    "no acknowledgement came in time, or events were not read: take everything for changed and watch "
                    + "anew");
            if (lease is { Ended.IsCancellationRequested: true }) throw LeaseRegistry.Gone(lease.Name);
            if (host.Deleted.IsCancellationRequested) throw Refusals.NotFound("MACHINE", Names.Machine(host.Id));
            if (lifetime.ApplicationStopping.IsCancellationRequested)
                throw Refusals.Unavailable("SHUTTING_DOWN", "the daemon is ending");
            // The subscriber has gone, or sent what no watch takes.
            await hearing.ConfigureAwait(false);
        }
        finally
        {
            host.Watches.Close(watch);
            await ends.CancelAsync().ConfigureAwait(false);
            await hearing.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private MachineHost HostOf(ServerCallContext context, OpenWatch open) => open.FrameVector.Length > 0
        ? machines.Resolve(context, open.FrameVector, Names.FrameVectors, Right.Use, "open.frame_vector").Host
        : machines.Resolve(context, open.AddressSpace, Names.AddressSpaces, Right.Use, "open.address_space").Host;

    private InvalidationWatch Open(MachineHost host, OpenWatch open)
    {
        var most = options.Limits.WatchPatienceMax;
        var patience = WireTimes.Read(open.Patience, "open.patience");
        if (patience > most)
            throw Refusals.Limit(
                "watch_patience_max", (ulong)most.TotalMilliseconds, (ulong)patience.TotalMilliseconds);
        if (patience == TimeSpan.Zero) patience = most;
        var (space, range) = open.FrameVector.Length > 0 ? Pinned(host, open.FrameVector) : Asked(host, open);
        return host.Watches.Open(space, range, patience, open.ResumeAfter);
    }

    /// <summary>The pages that a vector was pinned from. NOT_FOUND for one that was pinned from none.</summary>
    private static (SpaceId Space, AddressRange Range) Pinned(MachineHost host, string name)
    {
        var record = host.Vectors.Get(Names.Number(Names.LastSegment(name), "open.frame_vector"));
        lock (record.Gate)
        {
            if (record.Origin.Space is not { } pinned) throw Refusals.NotFound("FRAME_VECTOR", name);
            var first = record.Origin.Start & PageGeometry.PageMask;
            var length = (ulong)record.Content.Count << PageGeometry.PageShift;
            return (pinned.Thing, new AddressRange(first, first + length));
        }
    }

    /// <summary>The range of a request; length 0 is the rest of the address space.</summary>
    private static (SpaceId Space, AddressRange Range) Asked(MachineHost host, OpenWatch open)
    {
        var space = host.Spaces.Get(Names.LastSegment(open.AddressSpace)).Thing;
        var end = open.Length == 0 ? ulong.MaxValue : open.Start + open.Length;
        if (end < open.Start) throw Refusals.Bad("open.length", "passes the end of the addresses");
        return (space, new AddressRange(open.Start, end));
    }

    /// <summary>Sends events, and the present revision when none came for a while.</summary>
    private async Task SendAsync(
        InvalidationWatches watches, InvalidationWatch watch, IServerStreamWriter<InvalidationEvent> stream,
        CancellationToken ends)
    {
        var more = watch.Events.WaitToReadAsync(ends).AsTask();
        while (true)
        {
            try
            {
                await more.WaitAsync(options.Limits.WatchProgress, time, ends).ConfigureAwait(false);
            }
            catch (TimeoutException)
            {
                await stream.WriteAsync(watches.Progress(), ends).ConfigureAwait(false);
                continue;
            }

            while (watch.Events.TryRead(out var happened))
                await stream.WriteAsync(happened, ends).ConfigureAwait(false);
            more = watch.Events.WaitToReadAsync(ends).AsTask();
        }
    }

    /// <summary>Takes acknowledgements until the subscriber goes, which ends the watch.</summary>
    private static async Task HearAsync(
        IAsyncStreamReader<WatchRequest> stream, InvalidationWatch watch, CancellationTokenSource ends)
    {
        try
        {
            while (await stream.MoveNext(ends.Token).ConfigureAwait(false))
            {
                if (stream.Current.ContentCase != WatchRequest.ContentOneofCase.Acknowledge)
                    throw Refusals.Bad("acknowledge", "every message but the first acknowledges");
                watch.Acknowledge(stream.Current.Acknowledge);
            }
        }
        catch (Exception exception) when (exception is OperationCanceledException or IOException)
        {
            // The connection broke, or the watch has ended already.
        }
        finally
        {
            await ends.CancelAsync().ConfigureAwait(false);
        }
    }
}
