using System.Globalization;
using FramePin.Client;
using FramePin.V1;

namespace FramePin.Replay;

/// <summary>The progress of a replay.</summary>
/// <param name="Step">The step, for people.</param>
/// <param name="Done">Parts of the step that are done.</param>
/// <param name="Total">Parts of the step.</param>
public readonly record struct ReplayProgress(string Step, int Done, int Total);

/// <summary>
/// Replays a recording into a machine of its own on the daemon, then pins, converts and unpins every mapping. Only the
/// arguments of the calls are sent. The recorded answers are only compared.
/// </summary>
/// <remarks>
/// <para>One replay at a time. Owns nothing: the machines of a replay are deleted when it ends.</para>
/// <para>
/// Where calls of two threads overlap, the replay tries the order in which they finished first. When a call then
/// answers otherwise than recorded, it tries other orders, each in a machine of its own, and keeps one that explains
/// the answer.
/// </para>
/// </remarks>
/// <param name="client">The daemon.</param>
/// <param name="progress">Told how far the replay is; null for none.</param>
public sealed partial class Replayer(FramePinClient client, IProgress<ReplayProgress>? progress = null)
{
    private const int BatchSize = 512;
    private const int MostOrdersTried = 60;
    private const int MostCallsAfterExit = 400;
    private const ulong PinChunkPages = 1UL << 18;
    private readonly Dictionary<string, string> _files = new(StringComparer.Ordinal);

    /// <summary>Addresses of mappings that are not stored to, whatever the log suggests.</summary>
    private readonly HashSet<ulong> _untouched = [];

    /// <summary>Runs the replay.</summary>
    /// <param name="recording">The recording.</param>
    /// <param name="pinAll">Pins, converts and unpins every mapping at the end.</param>
    /// <param name="keep">Leaves the machine on the daemon.</param>
    /// <param name="cancellationToken">Ends the replay early.</param>
    /// <remarks>Calls that are not understood are passed over and named in the report.</remarks>
    /// <exception cref="FramePinException">The daemon refuses a machine of 16 GiB, or cannot be reached.</exception>
    public async Task<ReplayReport> RunAsync(
        Recording recording, bool pinAll, bool keep = false, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(recording);
        recording = Understood(recording);
        var order = await FindOrder(recording, cancellationToken).ConfigureAwait(false);
        _untouched.UnionWith(await FindUntouched(recording, order, cancellationToken).ConfigureAwait(false));
        return await InMachine(keep, async machine =>
        {
            var report = NewReport();
            report.LinesUnread.AddRange(recording.LinesUnread);
            report.CallsReordered.AddRange(Reordered(order));
            var space = await Prepare(recording, machine, report, cancellationToken).ConfigureAwait(false);
            await ReplayCalls(recording, order, space, report, stopsAtDifference: false, cancellationToken)
                .ConfigureAwait(false);
            if (pinAll) await PinAll(machine, space, report, cancellationToken).ConfigureAwait(false);
            var audit = await client.Machines.AuditMachineAsync(
                new AuditMachineRequest { Name = machine }, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            report.AuditFindings.AddRange(audit.Findings);
            return report;
        }).ConfigureAwait(false);
    }

    /// <summary>The recording without the calls that a replay cannot read; they stand among its unread lines.</summary>
    private static Recording Understood(Recording recording)
    {
        var unread = recording.LinesUnread.ToList();
        var calls = new List<StraceCall>(recording.Calls.Count);
        foreach (var call in recording.Calls)
        {
            if (CallShapes.Problem(call) is { } problem)
                unread.Add(new UnreadLine(call.Line, Text(call), problem));
            else calls.Add(call);
        }

        return recording with
        {
            Calls = FileInstances.Mark(calls),
            LinesUnread = [.. unread.OrderBy(line => line.Line)],
        };
    }

    private static string Text(StraceCall call) =>
        $"{call.Name}({string.Join(", ", call.Arguments.Select(FileInstances.Unmarked))})";

    private static ReplayReport NewReport() => new()
    {
        Calls = new SortedDictionary<string, int>(StringComparer.Ordinal),
        CallsOther = new SortedDictionary<string, int>(StringComparer.Ordinal),
    };

    private async Task<T> InMachine<T>(bool keep, Func<string, Task<T>> use)
    {
        var machine = await client.Machines.CreateMachineAsync(
            new CreateMachineRequest { Spec = new MachineSpec { Profile = "6.18", MemoryBytes = 16UL << 30 } },
            cancellationToken: CancellationToken.None).TypedAsync().ConfigureAwait(false);
        try
        {
            return await use(machine.Name).ConfigureAwait(false);
        }
        finally
        {
            if (!keep)
                await client.Machines.DeleteMachineAsync(
                    new DeleteMachineRequest { Name = machine.Name, Force = true },
                    cancellationToken: CancellationToken.None).TypedAsync().ConfigureAwait(false);
        }
    }

    private async Task<string> Prepare(
        Recording recording, string machine, ReplayReport report, CancellationToken cancellationToken)
    {
        _removedSegments.Clear();
        foreach (var (path, seen) in recording.SizesSeen())
        {
            var isKnown = recording.FileSizes.TryGetValue(path, out var size);
            if (!isKnown) report.FileSizesInferred.Add(path);
            await CreateFile(recording, machine, path, isKnown ? size : seen, cancellationToken).ConfigureAwait(false);
        }

        var space = await CreateSpace(recording, machine, report, cancellationToken).ConfigureAwait(false);
        await Install(recording, space, report, cancellationToken).ConfigureAwait(false);
        return space;
    }

    /// <summary>
    /// Replays the calls in <paramref name="order"/>. The maps are compared where the program asked to end, since they
    /// were recorded there. Calls that other threads made at that time may or may not stand in them: the comparison
    /// counts in as many as explain most lines.
    /// </summary>
    private async Task ReplayCalls(
        Recording recording, IReadOnlyList<StraceCall> order, string space, ReplayReport report, bool stopsAtDifference,
        CancellationToken cancellationToken)
    {
        var strangers = FindStrangers(order, recording.OtherThreads);
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

            if (IsStranger(strangers, call) || call.IsUnfinished
                || !(CallTranslator.IsReplayed(call.Name) || RunsApart(call)))
            {
                if (!IsStranger(strangers, call) && Lacking(call) is { } lacking) report.Lacks(lacking, call.Line);
                var name = IsStranger(strangers, call) ? $"{call.Name} (another process)"
                    : call.IsUnfinished && CallTranslator.IsReplayed(call.Name)
                        ? $"{call.Name} (never finished)"
                        : call.Name;
                report.CallsOther[name] = report.CallsOther.GetValueOrDefault(name) + 1;
                continue;
            }

            if (MissingFile(call) is { } missing)
            {
                report.LinesUnread.Add(new UnreadLine(call.Line, Text(call), missing));
                continue;
            }

            if (call.Overlapped) report.CallsOverlapped++;
            if (RunsApart(call))
            {
                batch.Calls.AddRange(translator.Due(call));
                await Flush(batch, sent, report, cancellationToken).ConfigureAwait(false);
                await CompareApart(recording, call, space, report, cancellationToken).ConfigureAwait(false);
                if (stopsAtDifference && report.ReturnsDifferent.Count > 0) return;
                continue;
            }

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
    /// memory until then. The search reads the whole log first, since a child's first calls may stand before the line
    /// of its creation.
    /// </summary>
    private static Dictionary<int, int> FindStrangers(IReadOnlyList<StraceCall> calls, IReadOnlySet<int> others)
    {
        var strangers = others.ToDictionary(thread => thread, _ => 0);
        var first = calls.Count > 0 ? calls[0].Thread : 0;
        // Twice, since the line of a grandchild may stand before its parent is known.
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
        try
        {
            var response = await client.AddressSpaces.CallBatchAsync(batch, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            foreach (var (call, index) in sent)
            {
                var result = response.Results[index];
                Compare(call, result.Errno, result.Value, report);
            }
        }
        catch (FramePinException refusal) when (IsOfTheCall(refusal))
        {
            // The daemon runs none of a batch of which it refuses a call.
            await FlushOneByOne(batch, sent, report, cancellationToken).ConfigureAwait(false);
        }

        batch.Calls.Clear();
        sent.Clear();
    }

    private static void Compare(StraceCall call, uint errno, ulong value, ReplayReport report)
    {
        report.Calls[call.Name] = report.Calls.GetValueOrDefault(call.Name) + 1;
        report.ReturnsExpected++;
        var actual = errno != 0 ? $"-1 {ErrnoName(errno)}" : Hex(value);
        var expected = call.Errno.Length > 0 ? $"-1 {call.Errno}" : Hex(call.Value);
        if (actual == expected) report.ReturnsMatched++;
        else report.ReturnsDifferent.Add(new ReturnDifference(call.Line, Text(call), expected, actual));
    }
}
