using FramePin.Client;

namespace FramePin.Replay;

/// <summary>The search for an order of the calls, and for the mappings that were never stored to.</summary>
public sealed partial class Replayer
{
    /// <summary>An order of the calls in which as many as can be answer as recorded.</summary>
    private async Task<IReadOnlyList<StraceCall>> FindOrder(Recording recording, CancellationToken cancellationToken)
    {
        var order = recording.Calls;
        if (!order.Any(call => call.Overlapped)) return order;
        var tries = 0;
        var explained = -1;
        while (await FirstDifference(recording, order, cancellationToken).ConfigureAwait(false) is { } different)
        {
            var index = IndexOf(order, different);
            var better = default(IReadOnlyList<StraceCall>);
            // An order that puts one more call in its place, for when no order explains the difference itself.
            var nearer = default(IReadOnlyList<StraceCall>);
            foreach (var candidate in index > explained ? CallOrder.Alternatives(order, index) : [])
            {
                if (++tries > MostOrdersTried) break;
                progress?.Report(new ReplayProgress("trying orders of overlapping calls", tries, MostOrdersTried));
                var next = await FirstDifference(recording, candidate, cancellationToken).ConfigureAwait(false);
                if (next is not null && IndexOf(candidate, next) > index) nearer ??= candidate;
                if (next is not null && IndexOf(candidate, next) <= IndexOf(candidate, different)) continue;
                better = candidate;
                break;
            }

            better ??= nearer;
            if (better is null) break;
            order = better;
            explained = ReferenceEquals(better, nearer) ? index : IndexOf(order, different);
        }

        return order;
    }

    /// <summary>
    /// Mappings that the maps of the end rule out as touched: areas that stand there as one would have stayed apart,
    /// had both sides of a border pages of their own when they met.
    /// </summary>
    private async Task<HashSet<ulong>> FindUntouched(
        Recording recording, IReadOnlyList<StraceCall> order, CancellationToken cancellationToken)
    {
        var untouched = new HashSet<ulong>();
        var report = await Try(recording, order, untouched, cancellationToken).ConfigureAwait(false);
        for (var tries = 0; report.MapsMissing.Count > 0 && tries < MostOrdersTried;)
        {
            var found = false;
            foreach (var suspects in Suspects(report).Where(suspects => !suspects.All(untouched.Contains)).ToList())
            {
                if (++tries > MostOrdersTried) break;
                progress?.Report(new ReplayProgress("trying which mappings were used", tries, MostOrdersTried));
                var next = await Try(
                    recording, order, new HashSet<ulong>(untouched.Concat(suspects)), cancellationToken)
                    .ConfigureAwait(false);
                if (next.MapsMatched <= report.MapsMatched || next.ReturnsMatched < report.ReturnsMatched) continue;
                untouched.UnionWith(suspects);
                report = next;
                found = true;
                break;
            }

            if (!found) break;
        }

        return untouched;
    }

    private Task<ReplayReport> Try(
        Recording recording, IReadOnlyList<StraceCall> order, IReadOnlySet<ulong> untouched,
        CancellationToken cancellationToken) =>
        InMachine(keep: false, async machine =>
        {
            var report = NewReport();
            _untouched.Clear();
            _untouched.UnionWith(untouched);
            var space = await Prepare(recording, machine, report, cancellationToken).ConfigureAwait(false);
            await ReplayCalls(recording, order, space, report, stopsAtDifference: false, cancellationToken)
                .ConfigureAwait(false);
            return report;
        });

    /// <summary>
    /// Of areas that lie within one area of the recording, the stores that may have come only later: where an area
    /// begins, the upper ones first, then all that went into one, as into memory that is taken page by page.
    /// </summary>
    private static IEnumerable<IReadOnlyList<ulong>> Suspects(ReplayReport report)
    {
        var parts = report.MapsUnexpected.Select(RangeOf).ToList();
        foreach (var (start, end) in report.MapsMissing.Select(RangeOf))
        {
            var within = parts.Where(part => part.Start >= start && part.End <= end).Select(
                part => part.Start).Order().ToList();
            foreach (var address in within.Skip(1).Concat(within.Take(1))) yield return [address];
        }

        foreach (var (start, end) in report.MapsMissing.Select(RangeOf))
            foreach (var part in parts.Where(part => part.Start >= start && part.End <= end).OrderByDescending(
                part => part.Start))
                yield return StoresOf(report, part, start, end);
    }

    /// <summary>
    /// Where an area may have been stored to, and the pages in a row with it beyond <paramref name="start"/> and
    /// <paramref name="end"/>, which were one with it before some of them were given back.
    /// </summary>
    private static List<ulong> StoresOf(ReplayReport report, (ulong Start, ulong End) part, ulong start, ulong end)
    {
        const ulong page = 4096;
        var all = report.Storable;
        var stores = all.Where(address => address >= part.Start && address < part.End).ToList();
        if (part.Start == start)
            for (var at = start - page; all.Contains(at); at -= page) stores.Add(at);
        if (part.End == end)
            for (var at = end; all.Contains(at); at += page) stores.Add(at);
        return stores;
    }

    private static (ulong Start, ulong End) RangeOf(string line)
    {
        var range = line.Split(' ', 2)[0].Split('-');
        return (Convert.ToUInt64(range[0], 16), Convert.ToUInt64(range[1], 16));
    }

    private static int IndexOf(IReadOnlyList<StraceCall> order, StraceCall call)
    {
        for (var i = 0; i < order.Count; i++)
            if (ReferenceEquals(order[i], call)) return i;
        return -1;
    }

    private static IEnumerable<int> Reordered(IReadOnlyList<StraceCall> order)
    {
        var least = int.MaxValue;
        var lines = new List<int>();
        for (var i = order.Count - 1; i >= 0; i--)
        {
            if (order[i].Line > least) lines.Add(order[i].Line);
            least = Math.Min(least, order[i].Line);
        }

        lines.Reverse();
        return lines;
    }

    /// <summary>
    /// The first call that answers otherwise than recorded when the calls run in this order; null for none.
    /// </summary>
    private Task<StraceCall?> FirstDifference(
        Recording recording, IReadOnlyList<StraceCall> order, CancellationToken cancellationToken) =>
        InMachine(keep: false, async machine =>
        {
            var report = NewReport();
            var space = await Prepare(recording, machine, report, cancellationToken).ConfigureAwait(false);
            await ReplayCalls(recording, order, space, report, stopsAtDifference: true, cancellationToken)
                .ConfigureAwait(false);
            return report.ReturnsDifferent.Count == 0
                ? null
                : order.First(call => call.Line == report.ReturnsDifferent[0].Line);
        });
}
