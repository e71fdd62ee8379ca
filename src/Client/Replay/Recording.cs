using System.Globalization;
using FramePin.V1;

namespace FramePin.Replay;

/// <summary>
/// A program as it was recorded: its calls, and its maps at the start and, perhaps, at the end. Immutable.
/// </summary>
public sealed record Recording
{
    /// <summary>
    /// The calls from the last execve of the program's first thread on. That execve stands first when the log has it.
    /// </summary>
    public required IReadOnlyList<StraceCall> Calls { get; init; }

    /// <summary>The maps before the first call.</summary>
    public required IReadOnlyList<MapsLine> MapsStart { get; init; }

    /// <summary>The maps at the end; null when there are none.</summary>
    public IReadOnlyList<MapsLine>? MapsEnd { get; init; }

    /// <summary>smaps at the end; empty when there is none.</summary>
    public IReadOnlyList<SmapsArea> SmapsEnd { get; init; } = [];

    /// <summary>Sizes in bytes by path, where they are known.</summary>
    public IReadOnlyDictionary<string, ulong> FileSizes { get; init; } = new Dictionary<string, ulong>();

    /// <summary>Lines that are not understood; a replay passes them over and counts them.</summary>
    public IReadOnlyList<UnreadLine> LinesUnread { get; init; } = [];

    /// <summary>
    /// Threads of the log that belong to other processes from the start: the program forked them before its last
    /// execve, which ends every other thread of its own.
    /// </summary>
    internal IReadOnlySet<int> OtherThreads { get; init; } = new HashSet<int>();

    /// <summary>Reads the files of a recording. Lines that are not understood are passed over.</summary>
    /// <param name="strace">Path of the log of "strace -f -y".</param>
    /// <param name="mapsStart">Path of the maps before the first call.</param>
    /// <param name="mapsEnd">Path of the maps at the end; null for none.</param>
    /// <exception cref="IOException">A file cannot be read.</exception>
    public static Recording Load(string strace, string mapsStart, string? mapsEnd)
    {
        var unread = new List<UnreadLine>();
        var (calls, others) = SinceLastExec(StraceLog.Parse(System.IO.File.ReadLines(strace), unread));
        var start = MapsFile.Parse(System.IO.File.ReadLines(mapsStart), "maps.start", unread);
        var end = mapsEnd is null ? null : MapsFile.Parse(System.IO.File.ReadLines(mapsEnd), "maps.end", unread);
        return new Recording
        {
            Calls = calls,
            LinesUnread = unread,
            OtherThreads = others,
            MapsStart = start,
            MapsEnd = end,
        };
    }

    /// <summary>Reads a folder as <see cref="Recorder"/> leaves it. maps.end, smaps.end and files may be
    /// missing.</summary>
    /// <param name="folder">Path of the folder.</param>
    /// <exception cref="IOException">A file cannot be read.</exception>
    public static Recording Load(string folder)
    {
        string At(string name) => Path.Combine(folder, name);
        var end = At("maps.end");
        var recording = Load(At("strace.log"), At("maps.start"), System.IO.File.Exists(end) ? end : null);
        var smaps = At("smaps.end");
        if (System.IO.File.Exists(smaps))
            recording = recording with { SmapsEnd = SmapsArea.Parse(System.IO.File.ReadLines(smaps)) };
        var files = At("files");
        if (!System.IO.File.Exists(files)) return recording;
        var sizes = new Dictionary<string, ulong>(StringComparer.Ordinal);
        var (number, unread) = (0, recording.LinesUnread.ToList());
        foreach (var line in System.IO.File.ReadLines(files))
        {
            number++;
            var words = line.Split(' ', 2);
            if (words.Length == 2 && StraceNumbers.TryParse(words[0], out var size)) sizes[words[1]] = size;
            else unread.Add(new UnreadLine(number, line, "files: not a size and a path"));
        }

        return recording with { FileSizes = sizes, LinesUnread = unread };
    }

    /// <summary>
    /// Drops the calls before the last execve, whose memory is gone, and finds the threads that outlive it: they are of
    /// other processes.
    /// </summary>
    private static (IReadOnlyList<StraceCall> Calls, IReadOnlySet<int> Others) SinceLastExec(
        IReadOnlyList<StraceCall> calls)
    {
        var others = new HashSet<int>();
        if (calls.Count == 0) return (calls, others);
        var main = calls[0].Thread;
        var last = calls.Count - 1;
        while (last > 0 && !(calls[last].Name == "execve" && calls[last].Thread == main
            && calls[last].Errno.Length == 0 && !calls[last].IsUnfinished))
            last--;
        foreach (var call in calls.Take(last))
        {
            if (call.Thread != main) others.Add(call.Thread);
            if (call.Name is "fork" or "vfork" or "clone" or "clone3" && call.Value is > 0 and <= int.MaxValue)
                others.Add((int)call.Value);
        }

        others.Remove(main);
        return (last == 0 ? calls : [.. calls.Skip(last)], others);
    }

    /// <summary>
    /// False when the smaps of the end show private memory at [<paramref name="start"/>, + <paramref name="length"/>)
    /// bytes and none of it was ever stored to. Memory that is not there at the end may have been stored to.
    /// </summary>
    internal bool MayHaveBeenTouched(ulong start, ulong length)
    {
        var areas = SmapsEnd.Where(area => area.Start < start + length && start < area.End).ToList();
        return areas.Count == 0 || areas.Any(area => area.HasOwnPages);
    }

    /// <summary>
    /// Key and size in bytes of the System V segment that a shmat attaches. The key is the path that maps shows and,
    /// behind a line break, the segment's number: private segments have one path.
    /// </summary>
    internal (string Key, ulong Size) SegmentOf(StraceCall attach)
    {
        var id = attach.Arguments[0];
        var (key, size) = ("0", 0UL);
        foreach (var call in Calls)
        {
            if (call.Name != "shmget" || call.Errno.Length > 0 || call.Result.Split(' ')[0] != id) continue;
            if (call.Arguments[0] != "IPC_PRIVATE") key = call.Arguments[0];
            // A size of 0 asks for a segment that is there.
            size = Math.Max(size, StraceNumbers.Parse(call.Arguments[1]));
        }

        // The log has no shmget: the size is that of the mapping at the end, or a page.
        var line = size > 0 ? null : MapsEnd?.FirstOrDefault(candidate => candidate.Start == attach.Value);
        if (size == 0) size = line is null ? 4096 : line.End - line.Start;
        var number = StraceNumbers.TryParse(key, out var parsed) ? parsed : 0;
        return (string.Create(CultureInfo.InvariantCulture, $"/SYSV{number:x8}\n{id}"), size);
    }

    /// <summary>
    /// The program could attach the segment of a number: it made it, or was born with it and once attached it.
    /// </summary>
    internal bool HasSegment(string id) => Calls.Any(call => call.Errno.Length == 0 && call.Name switch
    {
        "shmget" => call.Result.Split(' ')[0] == id,
        "shmat" => call.Arguments[0] == id,
        _ => false,
    });

    /// <summary>
    /// End of the highest mapping below the stack at the start, from which the kernel searches downwards.
    /// </summary>
    public ulong MmapBase
    {
        get
        {
            var stack = MapsStart.FirstOrDefault(line => line.Name == "[stack]");
            var below = MapsStart.Where(
                line => line.Name is not ("[stack]" or "[vsyscall]") && (stack is null || line.End <= stack.Start));
            return below.Select(line => line.End).DefaultIfEmpty(0UL).Max();
        }
    }

    /// <summary>The answer of the first brk(NULL), which is the start of the heap; 0 without one.</summary>
    public ulong StartBrk =>
        Calls.FirstOrDefault(call => call.Name == "brk" && call.Arguments[0] == "NULL")?.Value ?? 0;

    /// <summary>Path in "3&lt;/path&gt;"; empty without one.</summary>
    internal static string PathOf(string descriptor)
    {
        var open = descriptor.IndexOf('<', StringComparison.Ordinal);
        // A file without a name is written as 3</path>(deleted).
        var close = descriptor.LastIndexOf('>');
        return open < 0 || close < open ? "" : descriptor[(open + 1)..close];
    }

    /// <summary>A file of memory: memfd, tmpfs under /dev/shm, POSIX shared memory.</summary>
    internal static bool IsShmem(string path) =>
        path.StartsWith("/memfd:", StringComparison.Ordinal) || path.StartsWith("/SYSV", StringComparison.Ordinal)
            || path.StartsWith("/dev/shm/", StringComparison.Ordinal);

    /// <summary>
    /// Files that the program must have opened for writing: memory files, those that it mapped shared and writable, and
    /// those whose shared mapping it could make writable later.
    /// </summary>
    internal HashSet<string> OpenedForWriting()
    {
        var result = new HashSet<string>(StringComparer.Ordinal);
        var shared = new List<(ulong Start, ulong End, string Path)>();
        foreach (var call in Calls)
        {
            if (call.Errno.Length > 0) continue;
            if (call.Name == "mmap" && PathOf(call.Arguments[4]) is { Length: > 0 } path
                && call.Arguments[3].Contains("MAP_SHARED", StringComparison.Ordinal))
            {
                shared.Add((call.Value, call.Value + StraceNumbers.Parse(call.Arguments[1]), path));
                if (IsShmem(path) || call.Arguments[2].Contains("PROT_WRITE", StringComparison.Ordinal))
                    result.Add(path);
            }
            else if (call.Name == "mprotect" && call.Arguments[2].Contains("PROT_WRITE", StringComparison.Ordinal))
            {
                var address = StraceNumbers.Parse(call.Arguments[0]);
                foreach (var mapping in shared)
                    if (address >= mapping.Start && address < mapping.End) result.Add(mapping.Path);
            }
        }

        return result;
    }

    /// <summary>Least size of each file that makes every mapping of it lie inside.</summary>
    internal Dictionary<string, ulong> SizesSeen()
    {
        var sizes = new Dictionary<string, ulong>(StringComparer.Ordinal);
        void See(string path, ulong end) => sizes[path] = Math.Max(sizes.GetValueOrDefault(path), end);
        foreach (var line in MapsStart.Where(line => line.IsFile)) See(line.Name, line.Offset + line.End - line.Start);
        foreach (var call in Calls)
        {
            if (call.Name == "shmat")
            {
                var (segment, size) = SegmentOf(call);
                See(segment, size);
            }

            if (call.Name != "mmap" || PathOf(call.Arguments[4]) is not { Length: > 0 } path) continue;
            var (offset, length) = (StraceNumbers.Parse(call.Arguments[5]), StraceNumbers.Parse(call.Arguments[1]));
            // A range that no file has is the kernel's to refuse, and tells no size.
            if (offset <= long.MaxValue && length <= long.MaxValue - offset) See(path, offset + length);
            else See(path, 0);
        }

        return sizes;
    }

    /// <summary>A mapping of the start as a message.</summary>
    internal static InstalledMapping ToInstalled(MapsLine line, string file) => new()
    {
        Start = line.Start,
        End = line.End,
        Prot = (line.Permissions[0] == 'r' ? 1u : 0) | (line.Permissions[1] == 'w' ? 2u : 0)
            | (line.Permissions[2] == 'x' ? 4u : 0),
        Shared = line.Permissions[3] == 's' && file.Length > 0,
        File = file,
        Offset = file.Length == 0 ? 0 : line.Offset,
        OpenMode = line.Permissions[1] == 'w' ? OpenMode.ReadWrite : OpenMode.ReadOnly,
        Kind = line.Name switch
        {
            "[stack]" => MappingKind.Stack,
            "[vdso]" => MappingKind.Vdso,
            "[vvar]" => MappingKind.Vvar,
            "[vvar_vclock]" => MappingKind.VvarVclock,
            "[vsyscall]" => MappingKind.Vsyscall,
            _ => MappingKind.Unspecified,
        },
    };
}
