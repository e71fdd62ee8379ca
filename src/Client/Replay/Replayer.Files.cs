using FramePin.Client;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Replay;

/// <summary>Calls on files and on System V segments: each is a request of its own, between the batches.</summary>
public sealed partial class Replayer
{
    private const uint Eexist = 17;
    private const uint Einval = 22;
    private const uint Efbig = 27;
    private const ulong PageMask = 4095;

    /// <summary>Calls that decide about memory and that the emulator has not.</summary>
    private static readonly HashSet<string> LackingCalls = new(StringComparer.Ordinal)
    {
        "map_shadow_stack", "mbind", "memfd_secret", "migrate_pages", "move_pages", "pkey_mprotect", "process_madvise",
        "remap_file_pages", "set_mempolicy", "set_mempolicy_home_node", "userfaultfd",
    };

    /// <summary>Files that the daemon refused to make, by path, with its reason.</summary>
    private readonly Dictionary<string, string> _refusedFiles = new(StringComparer.Ordinal);

    /// <summary>Numbers of the segments that IPC_RMID has taken the name of.</summary>
    private readonly HashSet<string> _removedSegments = new(StringComparer.Ordinal);

    /// <summary>System V segments by key, as maps shows them.</summary>
    private readonly Dictionary<string, (string Device, ulong Inode)> _segments = new(StringComparer.Ordinal);

    /// <summary>The name under which a call is reported that the emulator lacks; null for every other call.</summary>
    private static string? Lacking(StraceCall call)
    {
        if (call.Errno.Length > 0) return null;
        if (LackingCalls.Contains(call.Name)) return call.Name;
        return call.Name switch
        {
            "fcntl" when call.Arguments[1] == "F_ADD_SEALS" && call.Arguments.Count > 2 =>
                $"fcntl(F_ADD_SEALS, {call.Arguments[2]})",
            "fallocate" => $"fallocate({call.Arguments[1]})",
            "memfd_create" when call.Arguments.Count > 1
                && call.Arguments[1].Contains("MFD_HUGETLB", StringComparison.Ordinal) => "memfd_create(MFD_HUGETLB)",
            "personality" when call.Arguments[0].Contains("READ_IMPLIES_EXEC", StringComparison.Ordinal) =>
                "personality(READ_IMPLIES_EXEC)",
            "prctl" when call.Arguments[0] is "PR_SET_MDWE" or "0x41 /* PR_??? */" => "prctl(PR_SET_MDWE)",
            "shmget" when call.Arguments[2].Contains("SHM_HUGETLB", StringComparison.Ordinal) => "shmget(SHM_HUGETLB)",
            _ => null,
        };
    }

    /// <summary>Why the file of a call is not there; null when it is, or when there is none.</summary>
    private string? MissingFile(StraceCall call) =>
        call.Name == "mmap" && _refusedFiles.TryGetValue(Recording.PathOf(call.Arguments[4]), out var reason)
            ? reason
            : null;

    /// <summary>The call changes a file that is mapped at some time, or a segment.</summary>
    private bool RunsApart(StraceCall call) => call.Name switch
    {
        "shmat" or "shmdt" => true,
        "shmctl" => call.Arguments[1] == "IPC_RMID" && call.Errno.Length == 0,
        "ftruncate" or "truncate" => _files.ContainsKey(FileOf(call)),
        "fallocate" => _files.ContainsKey(FileOf(call)) && (call.Arguments[1] is "0" or "FALLOC_FL_KEEP_SIZE"
            || call.Arguments[1].Contains("FALLOC_FL_PUNCH_HOLE", StringComparison.Ordinal)),
        "fcntl" => call.Arguments[1] == "F_ADD_SEALS" && call.Arguments.Count > 2 && _files.ContainsKey(FileOf(call))
            && call.Arguments[2].Split('|').All(seal => seal is "F_SEAL_WRITE" or "F_SEAL_SEAL"),
        _ => false,
    };

    private static string FileOf(StraceCall call) =>
        call.Name == "truncate" ? call.Arguments[0].Trim('"') : Recording.PathOf(call.Arguments[0]);

    /// <summary>Makes a file. One that the daemon refuses is named with the calls that map it.</summary>
    private async Task CreateFile(
        Recording recording, string machine, string key, ulong size, CancellationToken cancellationToken)
    {
        var path = FileInstances.PathOfKey(key);
        var isSegment = path.StartsWith("/SYSV", StringComparison.Ordinal);
        // A second file of the name has a line of its own, which nothing here tells from the first one's.
        var line = key != path && !isSegment ? null : recording.MapsStart.Concat(recording.MapsEnd ?? [])
            .FirstOrDefault(candidate => candidate.Name == path);
        try
        {
            var file = await client.Files.CreateFileAsync(
                new CreateFileRequest
                {
                    Parent = machine,
                    Kind = Recording.IsShmem(path) ? FileKind.Shmem : FileKind.Disk,
                    SizeBytes = size,
                    Path = path,
                    Device = line?.Device ?? "",
                    Inode = line?.Inode ?? 0,
                },
                cancellationToken: cancellationToken).TypedAsync(cancellationToken).ConfigureAwait(false);
            _files[key] = file.Name;
            if (isSegment) _segments[key] = (file.Device, file.Inode);
        }
        catch (FramePinException refusal) when (IsOfTheCall(refusal))
        {
            _refusedFiles[key] = $"{path}: {refusal.Message}";
        }
    }

    private async Task<(uint Errno, ulong Value)> RunApart(
        Recording recording, StraceCall call, string space, CancellationToken cancellationToken)
    {
        if (call.Name == "shmctl")
        {
            _removedSegments.Add(call.Arguments[0]);
            return default;
        }

        if (call.Name == "shmat") return await Attach(recording, call, space, cancellationToken).ConfigureAwait(false);
        if (call.Name == "shmdt") return await Detach(call, space, cancellationToken).ConfigureAwait(false);
        if (RefusedNumbers(call) is { } refused) return (refused, 0);
        try
        {
            await ChangeFile(call, _files[FileOf(call)], cancellationToken).ConfigureAwait(false);
            return default;
        }
        catch (FramePinException refusal) when (refusal.Errno > 0)
        {
            return ((uint)refusal.Errno, 0);
        }
    }

    /// <summary>
    /// What the kernel says to offsets and lengths, which are signed, before it looks at the file (do_sys_ftruncate,
    /// vfs_fallocate); null where it goes on.
    /// </summary>
    private static uint? RefusedNumbers(StraceCall call)
    {
        if (call.Name is "ftruncate" or "truncate")
            return StraceNumbers.Parse(call.Arguments[1]) > long.MaxValue ? Einval : null;
        if (call.Name != "fallocate") return null;
        var (offset, length) = (StraceNumbers.Parse(call.Arguments[2]), StraceNumbers.Parse(call.Arguments[3]));
        if (offset > long.MaxValue || length is 0 or > long.MaxValue) return Einval;
        return offset + length > long.MaxValue ? Efbig : null;
    }

    private async Task ChangeFile(StraceCall call, string file, CancellationToken cancellationToken)
    {
        if (call.Name == "fcntl")
        {
            if (!call.Arguments[2].Contains("F_SEAL_WRITE", StringComparison.Ordinal)) return;
            await client.Files.SealFileAsync(
                new SealFileRequest { Name = file }, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
        }
        else if (call.Name is "ftruncate" or "truncate")
        {
            await Truncate(StraceNumbers.Parse(call.Arguments[1])).ConfigureAwait(false);
        }
        else if (call.Arguments[1].Contains("FALLOC_FL_PUNCH_HOLE", StringComparison.Ordinal))
        {
            var request = new PunchHoleRequest
            {
                Name = file,
                Offset = StraceNumbers.Parse(call.Arguments[2]),
                Length = StraceNumbers.Parse(call.Arguments[3]),
            };
            await client.Files.PunchHoleAsync(request, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
        }
        else if (call.Arguments[1] == "0")
        {
            // Room is made up to the end of the range, and the file grows to it.
            var end = StraceNumbers.Parse(call.Arguments[2]) + StraceNumbers.Parse(call.Arguments[3]);
            var now = await client.Files.GetFileAsync(
                new GetFileRequest { Name = file }, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            if (end > now.SizeBytes) await Truncate(end).ConfigureAwait(false);
        }

        async Task Truncate(ulong size) =>
            await client.Files.TruncateFileAsync(
                new TruncateFileRequest { Name = file, SizeBytes = size }, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
    }

    /// <summary>shmat (ipc/shm.c, do_shmat): a shared mapping of the whole segment.</summary>
    private async Task<(uint Errno, ulong Value)> Attach(
        Recording recording, StraceCall call, string space, CancellationToken cancellationToken)
    {
        const uint mapShared = 1, mapFixed = 0x10, mapFixedNoReplace = 0x10_0000;
        const uint read = 1, write = 2, execute = 4;
        var (key, size) = recording.SegmentOf(call);
        if (!recording.HasSegment(call.Arguments[0]) || !_files.TryGetValue(key, out var file)) return (Einval, 0);
        // A segment that was removed goes with its last attachment.
        if (_removedSegments.Contains(call.Arguments[0])
            && (await PartsOf(space, cancellationToken).ConfigureAwait(false)).All(
                part => (part.Device, part.Inode) != _segments[key]))
            return (Einval, 0);
        bool Has(string flag) => call.Arguments[2].Split('|').Contains(flag, StringComparer.Ordinal);
        var address = StraceNumbers.Parse(call.Arguments[1]);
        if (Has("SHM_RND")) address &= ~PageMask;
        if (address == 0 && Has("SHM_REMAP")) return (Einval, 0);
        var isReadOnly = Has("SHM_RDONLY");
        var mmap = new MmapCall
        {
            Address = address,
            Length = size,
            Prot = read | (isReadOnly ? 0 : write) | (Has("SHM_EXEC") ? execute : 0),
            Flags = mapShared | (address == 0 ? 0 : Has("SHM_REMAP") ? mapFixed : mapFixedNoReplace),
            Target = file,
            OpenMode = isReadOnly ? OpenMode.ReadOnly : OpenMode.ReadWrite,
        };
        var result = await RunOne(space, new MemoryCall { Mmap = mmap }, cancellationToken).ConfigureAwait(false);
        // Memory that is in the way is EINVAL for shmat.
        return (result.Errno == Eexist ? Einval : result.Errno, result.Value);
    }

    /// <summary>shmdt (ipc/shm.c, ksys_shmdt): the parts of the attached segment that are still there.</summary>
    private async Task<(uint Errno, ulong Value)> Detach(
        StraceCall call, string space, CancellationToken cancellationToken)
    {
        var address = StraceNumbers.Parse(call.Arguments[0]);
        // A part lies where an attachment at this address would have it.
        var parts = (await PartsOf(space, cancellationToken).ConfigureAwait(false)).Where(
            line => line.Start >= address && line.Start - address == line.Offset).ToList();
        if ((address & PageMask) != 0 || parts.Count == 0) return (Einval, 0);
        foreach (var part in parts.Where(part => part.Inode == parts[0].Inode && part.Device == parts[0].Device))
            await RunOne(
                space,
                new MemoryCall { Munmap = new MunmapCall { Address = part.Start, Length = part.End - part.Start } },
                cancellationToken).ConfigureAwait(false);
        return default;
    }

    /// <summary>What is mapped of the segments.</summary>
    private async Task<List<MapsLine>> PartsOf(string space, CancellationToken cancellationToken) =>
        [.. (await MapsOf(space, cancellationToken).ConfigureAwait(false)).Where(
            line => _segments.ContainsValue((line.Device, line.Inode)))];

    private async Task<IReadOnlyList<MapsLine>> MapsOf(string space, CancellationToken cancellationToken)
    {
        var maps = await client.AddressSpaces.GetMapsAsync(
            new GetMapsRequest { AddressSpace = space }, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return MapsFile.Parse(maps.Entries.Select(entry => entry.Line));
    }

    private async Task<CallResult> RunOne(string space, MemoryCall call, CancellationToken cancellationToken)
    {
        var batch = new CallBatchRequest { AddressSpace = space, Calls = { call } };
        var response = await client.AddressSpaces.CallBatchAsync(batch, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return response.Results[0];
    }
}
