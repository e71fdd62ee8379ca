using FramePin.Client;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Replay;

/// <summary>What the daemon refuses of a recording: it is passed over and named, and the replay goes on.</summary>
public sealed partial class Replayer
{
    /// <summary>
    /// A limit of the daemon, or an argument that the wire does not take; the kernel's own refusals have an errno.
    /// </summary>
    private static bool IsOfTheCall(FramePinException refusal) => refusal.StatusCode is StatusCode.InvalidArgument
        or StatusCode.ResourceExhausted or StatusCode.OutOfRange or StatusCode.FailedPrecondition
        or StatusCode.AlreadyExists or StatusCode.PermissionDenied or StatusCode.Unimplemented;

    /// <summary>TASK_SIZE of four levels of page tables.</summary>
    private const ulong LastAddress = 0x7fff_ffff_f000;

    private static void PassOver(StraceCall call, FramePinException refusal, ReplayReport report) =>
        report.LinesUnread.Add(new UnreadLine(call.Line, Text(call), refusal.Message));

    private async Task CompareApart(
        Recording recording, StraceCall call, string space, ReplayReport report, CancellationToken cancellationToken)
    {
        try
        {
            var (errno, value) = await RunApart(recording, call, space, cancellationToken).ConfigureAwait(false);
            Compare(call, errno, value, report);
        }
        catch (FramePinException refusal) when (IsOfTheCall(refusal))
        {
            PassOver(call, refusal, report);
        }
    }

    /// <summary>A store that counts from the call before it goes with that call.</summary>
    private async Task FlushOneByOne(
        CallBatchRequest batch, List<(StraceCall Call, int Index)> sent, ReplayReport report,
        CancellationToken cancellationToken)
    {
        var calls = sent.ToDictionary(pair => pair.Index, pair => pair.Call);
        for (var i = 0; i < batch.Calls.Count; i++)
        {
            var one = new CallBatchRequest { AddressSpace = batch.AddressSpace, Calls = { batch.Calls[i] } };
            var index = i;
            while (i + 1 < batch.Calls.Count && batch.Calls[i + 1].Touch is { FromPrevious: true })
                one.Calls.Add(batch.Calls[++i]);
            try
            {
                var response = await client.AddressSpaces.CallBatchAsync(one, cancellationToken: cancellationToken)
                    .TypedAsync(cancellationToken).ConfigureAwait(false);
                if (calls.TryGetValue(index, out var call))
                    Compare(call, response.Results[0].Errno, response.Results[0].Value, report);
            }
            catch (FramePinException refusal) when (IsOfTheCall(refusal))
            {
                if (calls.TryGetValue(index, out var call)) PassOver(call, refusal, report);
            }
        }
    }

    /// <summary>The address space, by the layout of the recording where the daemon takes it.</summary>
    private async Task<string> CreateSpace(
        Recording recording, string machine, ReplayReport report, CancellationToken cancellationToken)
    {
        var request = new CreateAddressSpaceRequest
        {
            Parent = machine,
            Layout = new Layout { MmapBase = recording.MmapBase, StartBrk = recording.StartBrk },
        };
        try
        {
            return await Create().ConfigureAwait(false);
        }
        catch (FramePinException refusal) when (IsOfTheCall(refusal))
        {
            report.LinesUnread.Add(new UnreadLine(
                1, $"mmap_base 0x{recording.MmapBase:x}, start_brk 0x{recording.StartBrk:x}", refusal.Message));
        }

        // A place that no process has is the kernel's to choose, here the daemon's.
        if (request.Layout.StartBrk > LastAddress) request.Layout.StartBrk = 0;
        if (request.Layout.MmapBase > LastAddress || (request.Layout.MmapBase & PageMask) != 0)
            request.Layout.MmapBase = 0;
        return await Create().ConfigureAwait(false);

        async Task<string> Create() =>
            (await client.AddressSpaces.CreateAddressSpaceAsync(request, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false)).Name;
    }

    /// <summary>The mappings of the start, with a page of each private writable one stored to.</summary>
    private async Task Install(
        Recording recording, string space, ReplayReport report, CancellationToken cancellationToken)
    {
        var known = new List<MapsLine>();
        foreach (var line in recording.MapsStart)
        {
            if (line.IsFile && _refusedFiles.TryGetValue(line.Name, out var reason)) PassOver(line, reason);
            else if (known.Find(other => other.Start < line.End && line.Start < other.End) is { } other)
                PassOver(line, $"overlaps {other.Comparable}");
            else known.Add(line);
        }

        try
        {
            await InstallAll(known).ConfigureAwait(false);
        }
        catch (FramePinException refusal) when (IsOfTheCall(refusal))
        {
            var maps = await MapsOf(space, cancellationToken).ConfigureAwait(false);
            foreach (var line in known.Where(line => !maps.Any(there => there.Start <= line.Start
                && line.End <= there.End)))
                await InstallOne(line).ConfigureAwait(false);
        }

        var touches = new CallBatchRequest { AddressSpace = space };
        foreach (var line in known.Where(line => line.Permissions.StartsWith("rw-p", StringComparison.Ordinal)))
            touches.Calls.Add(CallTranslator.Touch(line.Start));
        await client.AddressSpaces.CallBatchAsync(touches, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);

        void PassOver(MapsLine line, string why) =>
            report.LinesUnread.Add(new UnreadLine(1, line.Comparable, $"maps.start: {why}"));

        async Task InstallOne(MapsLine line)
        {
            try
            {
                await InstallAll([line]).ConfigureAwait(false);
            }
            catch (FramePinException one) when (IsOfTheCall(one))
            {
                PassOver(line, one.Message);
            }
        }

        async Task InstallAll(IReadOnlyList<MapsLine> lines)
        {
            var install = new InstallMappingsRequest { AddressSpace = space };
            foreach (var line in lines)
                install.Mappings.Add(Recording.ToInstalled(line, line.IsFile ? _files[line.Name] : ""));
            await client.AddressSpaces.InstallMappingsAsync(install, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
        }
    }
}
