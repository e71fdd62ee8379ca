using System.Globalization;
using FramePin.Client;
using FramePin.V1;

namespace FramePin.Replay;

/// <summary>The comparison of the maps, and the pins of every mapping.</summary>
public sealed partial class Replayer
{
    /// <summary>Compares the maps of now. The result is kept when more lines agree than at any time before.</summary>
    private async Task CompareMaps(
        Recording recording, string space, ReplayReport report, int callsAfterExit, CancellationToken cancellationToken)
    {
        if (recording.MapsEnd is null) return;
        await GrowStack(recording, space, report, cancellationToken).ConfigureAwait(false);
        var maps = await client.AddressSpaces.GetMapsAsync(
            new GetMapsRequest { AddressSpace = space }, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
        var left = MapsFile.Parse(maps.Entries.Select(entry => entry.Line)).Select(line => line.Comparable).ToList();
        var missing = recording.MapsEnd.Select(line => line.Comparable).Where(
            expected => !left.Remove(expected)).ToList();
        var matched = recording.MapsEnd.Count - missing.Count;
        if (report.MapsExpected > 0
            && (matched < report.MapsMatched
            || (matched == report.MapsMatched && left.Count >= report.MapsUnexpected.Count)))
            return;
        report.MapsExpected = recording.MapsEnd.Count;
        report.MapsMatched = matched;
        report.MapsMissing.Clear();
        report.MapsMissing.AddRange(missing);
        report.MapsUnexpected.Clear();
        report.MapsUnexpected.AddRange(left);
        report.CallsAfterExit = callsAfterExit;
    }

    /// <summary>
    /// Stores to the lowest page of a stack that the maps of the end show larger. A stack grows by stores, which no log
    /// shows; the daemon decides whether and how far it grows.
    /// </summary>
    private async Task GrowStack(
        Recording recording, string space, ReplayReport report, CancellationToken cancellationToken)
    {
        const string stack = "[stack]";
        if (report.StackGrowthAssumed > 0) return;
        var before = recording.MapsStart.FirstOrDefault(line => line.Name == stack);
        var after = recording.MapsEnd!.FirstOrDefault(line => line.Name == stack);
        if (before is null || after is null || after.Start >= before.Start) return;
        report.StackGrowthAssumed = (before.Start - after.Start) >> 12;
        var touch = new CallRequest { AddressSpace = space, Call = CallTranslator.Touch(after.Start) };
        await client.AddressSpaces.CallAsync(touch, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
    }

    private async Task PinAll(string machine, string space, ReplayReport report, CancellationToken cancellationToken)
    {
        var maps = await client.AddressSpaces.GetMapsAsync(
            new GetMapsRequest { AddressSpace = space }, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
        for (var i = 0; i < maps.Entries.Count; i++)
        {
            var entry = maps.Entries[i];
            var pinned = 0L;
            var left = (entry.End - entry.Start) >> 12;
            // The loop counts pages and not addresses, since an address behind the vsyscall page would wrap.
            for (var start = entry.Start; left > 0; start += PinChunkPages << 12)
            {
                var pages = Math.Min(left, PinChunkPages);
                left -= pages;
                pinned += await PinOne(space, start, pages, entry.Permissions[1] == 'w', report, cancellationToken)
                    .ConfigureAwait(false);
            }

            if (pinned > 0) report.MappingsPinned++;
            report.PagesPinned += pinned;
            progress?.Report(new ReplayProgress("pinning mappings", i + 1, maps.Entries.Count));
        }

        var after = await client.Machines.GetMachineAsync(
            new GetMachineRequest { Name = machine }, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
        report.LeakedPins = (long)(after.Statistics.PinsAcquired - after.Statistics.PinsReleased);
    }

    /// <summary>Pins one range, converts it to PFNs and back, unpins it. Returns the pages that were pinned.</summary>
    private async Task<long> PinOne(
        string space, ulong start, ulong pages, bool write, ReplayReport report, CancellationToken cancellationToken)
    {
        PinResponse pin;
        try
        {
            var request = new PinRequest
            {
                AddressSpace = space,
                Start = start,
                Pages = pages,
                Write = write,
                OmitFrames = true
            };
            pin = await client.Pinning.PinAsync(request, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
        }
        catch (FramePinException refusal) when (refusal.Errno > 0)
        {
            report.PagesRefused[refusal.Reason] = report.PagesRefused.GetValueOrDefault(refusal.Reason) + (long)pages;
            return 0;
        }

        if (pin.Frames < pages)
        {
            var reason = $"partial:{pin.StopReason}";
            report.PagesRefused[reason] = report.PagesRefused.GetValueOrDefault(reason) + (long)(pages - pin.Frames);
        }

        foreach (var kind in new[] { FrameKind.Pfns, FrameKind.Pages })
            await client.Pinning.ConvertAsync(
                new ConvertRequest { FrameVector = pin.FrameVector, To = kind, OmitFrames = true },
                cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
        report.VectorsConverted++;
        await client.Pinning.UnpinAsync(
            new UnpinRequest { FrameVector = pin.FrameVector }, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
        return (long)pin.Frames;
    }

    private static string Hex(ulong value) => value.ToString("x", CultureInfo.InvariantCulture);

    private static string ErrnoName(uint number) => number switch
    {
        1 => "EPERM",
        2 => "ENOENT",
        3 => "ESRCH",
        4 => "EINTR",
        5 => "EIO",
        6 => "ENXIO",
        9 => "EBADF",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        14 => "EFAULT",
        16 => "EBUSY",
        17 => "EEXIST",
        19 => "ENODEV",
        22 => "EINVAL",
        26 => "ETXTBSY",
        27 => "EFBIG",
        28 => "ENOSPC",
        29 => "ESPIPE",
        34 => "ERANGE",
        36 => "ENAMETOOLONG",
        38 => "ENOSYS",
        75 => "EOVERFLOW",
        95 => "EOPNOTSUPP",
        133 => "EHWPOISON",
        _ => number.ToString(CultureInfo.InvariantCulture),
    };
}
