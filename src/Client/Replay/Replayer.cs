using System.Globalization;
using FramePin.Client;
using FramePin.V1;

namespace FramePin.Replay;

/// <summary>How far a replay has come.</summary>
public readonly record struct ReplayProgress(string Step, int Done, int Total);

/// <summary>
/// Replays a recording into a machine of its own on the daemon, then pins, converts and unpins every mapping. Only
/// arguments are sent; what the recording says each call answered is only compared.
/// </summary>
/// <remarks>
/// Where calls of two threads overlap, the order in which they finished is tried first; when a call then answers
/// otherwise than recorded, other orders are tried, each in a machine of its own, and one that explains the answer is
/// kept (<see cref="CallOrder"/>).
/// </remarks>
public sealed class Replayer(FramePinClient client, IProgress<ReplayProgress>? progress = null)
{
    private const int BatchSize = 512;
    private const int MostOrdersTried = 60;
    private const int MostCallsAfterExit = 400;
    private const ulong PinChunkPages = 1UL << 18;
    private readonly Dictionary<string, string> _files = new(StringComparer.Ordinal);

    /// <summary>Addresses of mappings that are not stored to, whatever the log suggests.</summary>
    private readonly HashSet<ulong> _untouched = [];

    /// <summary>Runs the replay.</summary>
    /// <param name="recording">What to replay.</param>
    /// <param name="pinAll">Also pin, convert and unpin every mapping at the end.</param>
    /// <param name="keep">Leave the machine on the daemon.</param>
    /// <param name="cancellationToken">Ends the replay early.</param>
    public async Task<ReplayReport> RunAsync(
        Recording recording, bool pinAll, bool keep = false, CancellationToken cancellationToken = default)
    {
        var order = await FindOrder(recording, cancellationToken).ConfigureAwait(false);
        _untouched.UnionWith(await FindUntouched(recording, order, cancellationToken).ConfigureAwait(false));
        return await InMachine(keep, async machine =>
        {
            var report = NewReport();
            report.CallsReordered.AddRange(Reordered(order));
            var space = await Prepare(recording, machine, report, cancellationToken).ConfigureAwait(false);
            await ReplayCalls(recording, order, space, report, stopsAtDifference: false, cancellationToken)
                .ConfigureAwait(false);
            if (pinAll) await PinAll(machine, space, report, cancellationToken).ConfigureAwait(false);
            var audit = await client.Machines.AuditMachineAsync(
                new AuditMachineRequest { Name = machine }, cancellationToken: cancellationToken);
            report.AuditFindings.AddRange(audit.Findings);
            return report;
        }).ConfigureAwait(false);
    }

    private static ReplayReport NewReport() => new()
    {
        Calls = new SortedDictionary<string, int>(StringComparer.Ordinal),
        CallsOther = new SortedDictionary<string, int>(StringComparer.Ordinal),
    };

    private async Task<T> InMachine<T>(bool keep, Func<string, Task<T>> use)
    {
        var machine = await client.Machines.CreateMachineAsync(
            new CreateMachineRequest { Spec = new MachineSpec { Profile = "6.18", MemoryBytes = 16UL << 30 } });
        try
        {
            return await use(machine.Name).ConfigureAwait(false);
        }
        finally
        {
            if (!keep)
                await client.Machines.DeleteMachineAsync(
                    new DeleteMachineRequest { Name = machine.Name, Force = true },
                    cancellationToken: CancellationToken.None);
        }
    }

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
            // What at least puts one more call in its place, should nothing explain the difference itself.
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

    private async Task<string> Prepare(
        Recording recording, string machine, ReplayReport report, CancellationToken cancellationToken)
    {
        foreach (var (path, seen) in recording.SizesSeen())
        {
            var isKnown = recording.FileSizes.TryGetValue(path, out var size);
            if (!isKnown) report.FileSizesInferred.Add(path);
            var line = recording.MapsStart.Concat(recording.MapsEnd ?? []).FirstOrDefault(
                candidate => candidate.Name == path);
            var file = await client.Files.CreateFileAsync(
                new CreateFileRequest
                {
                    Parent = machine,
                    Kind = Recording.IsShmem(path) ? FileKind.Shmem : FileKind.Disk,
                    SizeBytes = isKnown ? size : seen,
                    Path = path,
                    Device = line?.Device ?? "",
                    Inode = line?.Inode ?? 0,
                },
                cancellationToken: cancellationToken);
            _files[path] = file.Name;
        }

        var space = await client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest
            {
                Parent = machine,
                Layout = new Layout { MmapBase = recording.MmapBase, StartBrk = recording.StartBrk },
            },
            cancellationToken: cancellationToken);
        var install = new InstallMappingsRequest { AddressSpace = space.Name };
        var touches = new CallBatchRequest { AddressSpace = space.Name };
        foreach (var line in recording.MapsStart)
        {
            install.Mappings.Add(Recording.ToInstalled(line, line.IsFile ? _files[line.Name] : ""));
            if (line.Permissions.StartsWith("rw-p", StringComparison.Ordinal))
                touches.Calls.Add(CallTranslator.Touch(line.Start));
        }

        await client.AddressSpaces.InstallMappingsAsync(install, cancellationToken: cancellationToken);
        await client.AddressSpaces.CallBatchAsync(touches, cancellationToken: cancellationToken);
        return space.Name;
    }

    /// <summary>
    /// Replays the calls in <paramref name="order"/>. The maps are compared where the program asked to end: there they
    /// were recorded. Calls that other threads still made then may or may not stand in them; as many are counted in as
    /// explain most lines.
    /// </summary>
    private async Task ReplayCalls(
        Recording recording, IReadOnlyList<StraceCall> order, string space, ReplayReport report, bool stopsAtDifference,
        CancellationToken cancellationToken)
    {
        var strangers = FindStrangers(order);
        var translator = new CallTranslator(recording, _files, _untouched);
        var batch = new CallBatchRequest { AddressSpace = space };
        var sent = new List<(StraceCall Call, int Index)>();
        var exit = order.FirstOrDefault(call => call.Name == "exit_group" && !IsStranger(strangers, call));
        var afterExit = -1;
        for (var i = 0; i < order.Count; i++)
        {
            var call = order[i];
            if (!stopsAtDifference && exit is not null && call.Line > exit.Begun && afterExit < MostCallsAfterExit)
            {
                if (afterExit < 0) batch.Calls.AddRange(translator.Rest());
                await Flush(batch, sent, report, cancellationToken).ConfigureAwait(false);
                if (afterExit < 0 || report.MapsMatched < report.MapsExpected)
                    await CompareMaps(recording, space, report, ++afterExit, cancellationToken).ConfigureAwait(false);
            }

            if (IsStranger(strangers, call) || call.IsUnfinished || !CallTranslator.IsReplayed(call.Name))
            {
                var name = IsStranger(strangers, call) ? $"{call.Name} (another process)"
                    : call.IsUnfinished && CallTranslator.IsReplayed(call.Name)
                        ? $"{call.Name} (never finished)"
                        : call.Name;
                report.CallsOther[name] = report.CallsOther.GetValueOrDefault(name) + 1;
                continue;
            }

            report.Calls[call.Name] = report.Calls.GetValueOrDefault(call.Name) + 1;
            if (call.Overlapped) report.CallsOverlapped++;
            var calls = translator.Translate(call, out var index);
            sent.Add((call, batch.Calls.Count + index));
            batch.Calls.AddRange(calls);
            if (batch.Calls.Count < BatchSize && i + 1 < order.Count) continue;
            await Flush(batch, sent, report, cancellationToken).ConfigureAwait(false);
            if (stopsAtDifference && report.ReturnsDifferent.Count > 0) return;
            progress?.Report(new ReplayProgress("replaying calls", i + 1, order.Count));
        }

        batch.Calls.AddRange(translator.Rest());
        await Flush(batch, sent, report, cancellationToken).ConfigureAwait(false);
        (report.TouchesAssumed, report.TouchesRuledOut) = (translator.TouchesAssumed, translator.TouchesRuledOut);
        report.Storable.UnionWith(translator.Storable);
        if (!stopsAtDifference && (afterExit < 0 || report.MapsMatched < report.MapsExpected))
            await CompareMaps(recording, space, report, ++afterExit, cancellationToken).ConfigureAwait(false);
    }

    private static bool IsStranger(Dictionary<int, int> strangers, StraceCall call) =>
        strangers.TryGetValue(call.Thread, out var since) && since <= call.Line;

    /// <summary>
    /// Threads of other processes, with the line from which on they have an address space of their own, which this
    /// replay does not follow: from the start for a fork and its offspring, from its execve on for a child that shared
    /// memory until then. The whole log is looked at first, since a child's first calls may stand before the line that
    /// tells of it.
    /// </summary>
    private static Dictionary<int, int> FindStrangers(IReadOnlyList<StraceCall> calls)
    {
        var strangers = new Dictionary<int, int>();
        var first = calls.Count > 0 ? calls[0].Thread : 0;
        // Twice, since a grandchild may be told of before its parent is known.
        for (var pass = 0; pass < 2; pass++)
        {
            foreach (var call in calls)
            {
                if (call.Errno.Length > 0) continue;
                if (call.Name == "execve" && call.Thread != first) strangers.TryAdd(call.Thread, call.Line);
                if (call.Name is not ("fork" or "vfork" or "clone" or "clone3")) continue;
                var sharesMemory = call.Name == "vfork"
                    || string.Join(',', call.Arguments).Contains("CLONE_VM", StringComparison.Ordinal);
                if (!sharesMemory || IsStranger(strangers, call)) strangers[(int)call.Value] = 0;
            }
        }

        return strangers;
    }

    private async Task Flush(
        CallBatchRequest batch, List<(StraceCall Call, int Index)> sent, ReplayReport report,
        CancellationToken cancellationToken)
    {
        if (batch.Calls.Count == 0) return;
        var response = await client.AddressSpaces.CallBatchAsync(batch, cancellationToken: cancellationToken);
        foreach (var (call, index) in sent)
        {
            var result = response.Results[index];
            report.ReturnsExpected++;
            var actual = result.Errno != 0 ? $"-1 {ErrnoName(result.Errno)}" : Hex(result.Value);
            var expected = call.Errno.Length > 0 ? $"-1 {call.Errno}" : Hex(call.Value);
            if (actual == expected) report.ReturnsMatched++;
            else report.ReturnsDifferent.Add(new ReturnDifference(
                call.Line, $"{call.Name}({string.Join(", ", call.Arguments)})", expected, actual));
        }

        batch.Calls.Clear();
        sent.Clear();
    }

    /// <summary>Compares the maps as they are now; kept when more lines agree than at any time before.</summary>
    private async Task CompareMaps(
        Recording recording, string space, ReplayReport report, int callsAfterExit, CancellationToken cancellationToken)
    {
        if (recording.MapsEnd is null) return;
        await GrowStack(recording, space, report, cancellationToken).ConfigureAwait(false);
        var maps = await client.AddressSpaces.GetMapsAsync(
            new GetMapsRequest { AddressSpace = space }, cancellationToken: cancellationToken);
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
    /// A stack grows by stores, which no log shows: where the maps of the end have it larger, its lowest page is stored
    /// to. That it may grow so far, and by how much, is the daemon's to answer.
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
        await client.AddressSpaces.CallAsync(touch, cancellationToken: cancellationToken);
    }

    private async Task PinAll(string machine, string space, ReplayReport report, CancellationToken cancellationToken)
    {
        var maps = await client.AddressSpaces.GetMapsAsync(
            new GetMapsRequest { AddressSpace = space }, cancellationToken: cancellationToken);
        for (var i = 0; i < maps.Entries.Count; i++)
        {
            var entry = maps.Entries[i];
            var pinned = 0L;
            var left = (entry.End - entry.Start) >> 12;
            // Counts pages and not addresses: behind the vsyscall page an address would wrap.
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
            new GetMachineRequest { Name = machine }, cancellationToken: cancellationToken);
        report.LeakedPins = (long)(after.Statistics.PinsAcquired - after.Statistics.PinsReleased);
    }

    /// <summary>Pins one range, converts it to PFNs and back, unpins it. Returns the pages that were pinned.</summary>
    private async Task<long> PinOne(
        string space, ulong start, ulong pages, bool write, ReplayReport report, CancellationToken cancellationToken)
    {
        PinResponse pin;
        try
        {
            pin = await client.Pinning.PinAsync(
                new PinRequest { AddressSpace = space, Start = start, Pages = pages, Write = write, OmitFrames = true },
                cancellationToken: cancellationToken);
        }
        catch (Grpc.Core.RpcException exception) when (FramePinException.From(exception) is { Errno: > 0 } refusal)
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
                cancellationToken: cancellationToken);
        report.VectorsConverted++;
        await client.Pinning.UnpinAsync(
            new UnpinRequest { FrameVector = pin.FrameVector }, cancellationToken: cancellationToken);
        return (long)pin.Frames;
    }

    private static string Hex(ulong value) => value.ToString("x", CultureInfo.InvariantCulture);

    private static string ErrnoName(uint number) => number switch
    {
        1 => "EPERM",
        3 => "ESRCH",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        14 => "EFAULT",
        16 => "EBUSY",
        17 => "EEXIST",
        19 => "ENODEV",
        22 => "EINVAL",
        38 => "ENOSYS",
        75 => "EOVERFLOW",
        95 => "EOPNOTSUPP",
        9 => "EBADF",
        _ => number.ToString(CultureInfo.InvariantCulture),
    };
}
