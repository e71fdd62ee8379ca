using System.Globalization;
using FramePin.V1;

namespace FramePin.Client.Replay;

/// <summary>How far a replay has come.</summary>
public readonly record struct ReplayProgress(string Step, int Done, int Total);

/// <summary>
/// Replays a recording into a machine of its own on the daemon, then pins, converts and unpins every mapping. Only arguments are
/// sent; what the recording says each call answered is only compared.
/// </summary>
/// <remarks>
/// A log does not tell which pages a program touched, and that decides whether mappings merge later. A program uses what it
/// asks for, so one page of each private writable mapping is stored to when it appears.
/// </remarks>
public sealed class Replayer(FramePinClient client, IProgress<ReplayProgress>? progress = null)
{
    private const int BatchSize = 512;
    private const ulong MapAnonymous = 0x20;
    private const uint MapPrivate = 2;
    private const uint MapTypeMask = 0xf;
    private const uint ProtWrite = 2;
    private const ulong PinChunkPages = 1UL << 18;
    private static readonly string[] Replayed =
        ["brk", "madvise", "mlock", "mlock2", "mlockall", "mmap", "mprotect", "mremap", "msync", "munlock", "munlockall", "munmap"];

    private readonly Dictionary<string, string> _files = new(StringComparer.Ordinal);
    private HashSet<string> _writable = [];
    private ulong _break;

    /// <summary>Runs the replay.</summary>
    /// <param name="recording">What to replay.</param>
    /// <param name="pinAll">Also pin, convert and unpin every mapping at the end.</param>
    /// <param name="keep">Leave the machine on the daemon.</param>
    /// <param name="cancelled">Ends the replay early.</param>
    public async Task<ReplayReport> RunAsync(
        Recording recording, bool pinAll, bool keep = false, CancellationToken cancelled = default)
    {
        var machine = await client.Machines.CreateMachineAsync(
            new CreateMachineRequest { Spec = new MachineSpec { Profile = "6.18", MemoryBytes = 16UL << 30 } },
            cancellationToken: cancelled);
        try
        {
            var report = new ReplayReport
            {
                Calls = new SortedDictionary<string, int>(StringComparer.Ordinal),
                CallsOther = new SortedDictionary<string, int>(StringComparer.Ordinal),
            };
            var space = await Prepare(recording, machine.Name, report, cancelled).ConfigureAwait(false);
            await ReplayCalls(recording, space, report, cancelled).ConfigureAwait(false);
            await CompareMaps(recording, space, report, cancelled).ConfigureAwait(false);
            if (pinAll) await PinAll(machine.Name, space, report, cancelled).ConfigureAwait(false);
            var audit = await client.Machines.AuditMachineAsync(
                new AuditMachineRequest { Name = machine.Name }, cancellationToken: cancelled);
            report.AuditFindings.AddRange(audit.Findings);
            return report;
        }
        finally
        {
            if (!keep)
                await client.Machines.DeleteMachineAsync(
                    new DeleteMachineRequest { Name = machine.Name, Force = true }, cancellationToken: CancellationToken.None);
        }
    }

    private async Task<string> Prepare(
        Recording recording, string machine, ReplayReport report, CancellationToken cancelled)
    {
        foreach (var (path, seen) in recording.SizesSeen())
        {
            var isKnown = recording.FileSizes.TryGetValue(path, out var size);
            if (!isKnown) report.FileSizesInferred.Add(path);
            var line = recording.MapsStart.Concat(recording.MapsEnd ?? []).FirstOrDefault(candidate => candidate.Name == path);
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
                cancellationToken: cancelled);
            _files[path] = file.Name;
        }

        _break = recording.StartBrk;
        _writable = recording.OpenedForWriting();
        var space = await client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest
            {
                Parent = machine,
                Layout = new Layout { MmapBase = recording.MmapBase, StartBrk = recording.StartBrk },
            },
            cancellationToken: cancelled);
        var install = new InstallMappingsRequest { AddressSpace = space.Name };
        var touches = new CallBatchRequest { AddressSpace = space.Name };
        foreach (var line in recording.MapsStart)
        {
            install.Mappings.Add(Recording.ToInstalled(line, line.IsFile ? _files[line.Name] : ""));
            if (line.Permissions.StartsWith("rw-p", StringComparison.Ordinal)) touches.Calls.Add(Touch(line.Start));
        }

        await client.AddressSpaces.InstallMappingsAsync(install, cancellationToken: cancelled);
        await client.AddressSpaces.CallBatchAsync(touches, cancellationToken: cancelled);
        return space.Name;
    }

    private async Task ReplayCalls(Recording recording, string space, ReplayReport report, CancellationToken cancelled)
    {
        var strangers = FindStrangers(recording.Calls);
        var batch = new CallBatchRequest { AddressSpace = space };
        var sent = new List<(StraceCall Call, int Index)>();
        for (var i = 0; i < recording.Calls.Count; i++)
        {
            var call = recording.Calls[i];
            var isStranger = strangers.TryGetValue(call.Thread, out var since) && since <= call.Line;
            if (isStranger || !Replayed.Contains(call.Name))
            {
                var name = isStranger ? $"{call.Name} (another process)" : call.Name;
                report.CallsOther[name] = report.CallsOther.GetValueOrDefault(name) + 1;
                continue;
            }

            report.Calls[call.Name] = report.Calls.GetValueOrDefault(call.Name) + 1;
            if (call.Overlapped) report.CallsOverlapped++;
            sent.Add((call, batch.Calls.Count));
            batch.Calls.AddRange(Translate(call));
            if (batch.Calls.Count < BatchSize && i + 1 < recording.Calls.Count) continue;
            await Flush(batch, sent, report, cancelled).ConfigureAwait(false);
            progress?.Report(new ReplayProgress("replaying calls", i + 1, recording.Calls.Count));
        }

        await Flush(batch, sent, report, cancelled).ConfigureAwait(false);
    }

    /// <summary>
    /// Threads of other processes, with the line from which on they have an address space of their own, which this replay does not
    /// follow: from the start for a fork and its offspring, from its execve on for a child that shared memory until then. The whole
    /// log is looked at first, since a child's first calls may stand before the line that tells of it.
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
                var sharesMemory = call.Name == "vfork" || string.Join(',', call.Arguments).Contains("CLONE_VM", StringComparison.Ordinal);
                var ofStranger = strangers.TryGetValue(call.Thread, out var since) && since <= call.Line;
                if (!sharesMemory || ofStranger) strangers[(int)call.Value] = 0;
            }
        }

        return strangers;
    }

    private async Task Flush(
        CallBatchRequest batch, List<(StraceCall Call, int Index)> sent, ReplayReport report, CancellationToken cancelled)
    {
        if (batch.Calls.Count == 0) return;
        var response = await client.AddressSpaces.CallBatchAsync(batch, cancellationToken: cancelled);
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

    private IEnumerable<MemoryCall> Translate(StraceCall call)
    {
        var a = call.Arguments;
        ulong Number(int i) => StraceNumbers.Parse(a[i]);
        uint Flags(int i) => StraceNumbers.ParseFlags(a[i]);
        switch (call.Name)
        {
            case "brk":
                var wanted = Number(0);
                yield return new MemoryCall { Brk = new BrkCall { Address = wanted } };
                // The last page of the grown heap: malloc writes its top there.
                if (wanted > _break) yield return Touch(unchecked((ulong)-1L), fromPrevious: true);
                if (wanted != 0) _break = wanted;
                break;
            case "mmap":
                var (prot, flags) = (Flags(2), Flags(3));
                var path = (flags & MapAnonymous) != 0 ? "" : Recording.PathOf(a[4]);
                yield return new MemoryCall
                {
                    Mmap = new MmapCall
                    {
                        Address = Number(0),
                        Length = Number(1),
                        Prot = prot,
                        Flags = flags,
                        Target = path.Length == 0 ? "" : _files[path],
                        Offset = Number(5),
                        OpenMode = path.Length == 0 || _writable.Contains(path) ? OpenMode.ReadWrite : OpenMode.ReadOnly,
                    },
                };
                if ((prot & ProtWrite) != 0 && (flags & MapTypeMask) == MapPrivate) yield return Touch(0, fromPrevious: true);
                break;
            case "munmap":
                yield return new MemoryCall { Munmap = new MunmapCall { Address = Number(0), Length = Number(1) } };
                break;
            case "mprotect":
                yield return new MemoryCall { Mprotect = new MprotectCall { Address = Number(0), Length = Number(1), Prot = Flags(2) } };
                if ((Flags(2) & ProtWrite) != 0) yield return Touch(Number(0));
                break;
            case "mremap":
                yield return new MemoryCall
                {
                    Mremap = new MremapCall
                    {
                        Address = Number(0),
                        OldLength = Number(1),
                        NewLength = Number(2),
                        Flags = Flags(3),
                        NewAddress = a.Count > 4 ? Number(4) : 0,
                    },
                };
                break;
            case "madvise":
                yield return new MemoryCall { Madvise = new MadviseCall { Address = Number(0), Length = Number(1), Advice = (int)Flags(2) } };
                break;
            case "msync":
                yield return new MemoryCall { Msync = new MsyncCall { Address = Number(0), Length = Number(1), Flags = Flags(2) } };
                break;
            case "mlock" or "mlock2":
                yield return new MemoryCall
                {
                    Mlock = new MlockCall { Address = Number(0), Length = Number(1), Flags = a.Count > 2 ? Flags(2) : 0 },
                };
                break;
            case "munlock":
                yield return new MemoryCall { Munlock = new MunlockCall { Address = Number(0), Length = Number(1) } };
                break;
            case "mlockall":
                yield return new MemoryCall { Mlockall = new MlockallCall { Flags = Flags(0) } };
                break;
            default:
                yield return new MemoryCall { Munlockall = new MunlockallCall() };
                break;
        }
    }

    private static MemoryCall Touch(ulong address, bool fromPrevious = false) =>
        new() { Touch = new TouchCall { Address = address, Pages = 1, Write = true, FromPrevious = fromPrevious } };

    private async Task CompareMaps(Recording recording, string space, ReplayReport report, CancellationToken cancelled)
    {
        if (recording.MapsEnd is null) return;
        var maps = await client.AddressSpaces.GetMapsAsync(
            new GetMapsRequest { AddressSpace = space }, cancellationToken: cancelled);
        var actual = MapsFile.Parse(maps.Entries.Select(entry => entry.Line)).Select(line => line.Comparable).ToList();
        var left = new List<string>(actual);
        report.MapsExpected = recording.MapsEnd.Count;
        foreach (var expected in recording.MapsEnd.Select(line => line.Comparable))
        {
            if (left.Remove(expected)) report.MapsMatched++;
            else report.MapsMissing.Add(expected);
        }

        report.MapsUnexpected.AddRange(left);
    }

    private async Task PinAll(string machine, string space, ReplayReport report, CancellationToken cancelled)
    {
        var maps = await client.AddressSpaces.GetMapsAsync(
            new GetMapsRequest { AddressSpace = space }, cancellationToken: cancelled);
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
                pinned += await PinOne(space, start, pages, entry.Permissions[1] == 'w', report, cancelled).ConfigureAwait(false);
            }

            if (pinned > 0) report.MappingsPinned++;
            report.PagesPinned += pinned;
            progress?.Report(new ReplayProgress("pinning mappings", i + 1, maps.Entries.Count));
        }

        var after = await client.Machines.GetMachineAsync(new GetMachineRequest { Name = machine }, cancellationToken: cancelled);
        report.LeakedPins = (long)(after.Statistics.PinsAcquired - after.Statistics.PinsReleased);
    }

    /// <summary>Pins one range, converts it to PFNs and back, unpins it. Returns the pages that were pinned.</summary>
    private async Task<long> PinOne(
        string space, ulong start, ulong pages, bool write, ReplayReport report, CancellationToken cancelled)
    {
        PinResponse pin;
        try
        {
            pin = await client.Pinning.PinAsync(
                new PinRequest { AddressSpace = space, Start = start, Pages = pages, Write = write, OmitFrames = true },
                cancellationToken: cancelled);
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
                new ConvertRequest { FrameVector = pin.FrameVector, To = kind, OmitFrames = true }, cancellationToken: cancelled);
        report.VectorsConverted++;
        await client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector }, cancellationToken: cancelled);
        return (long)pin.Frames;
    }

    private static string Hex(ulong value) => value.ToString("x", CultureInfo.InvariantCulture);

    private static string ErrnoName(int number) => number switch
    {
        1 => "EPERM",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        14 => "EFAULT",
        16 => "EBUSY",
        17 => "EEXIST",
        22 => "EINVAL",
        75 => "EOVERFLOW",
        95 => "EOPNOTSUPP",
        9 => "EBADF",
        _ => number.ToString(CultureInfo.InvariantCulture),
    };
}
