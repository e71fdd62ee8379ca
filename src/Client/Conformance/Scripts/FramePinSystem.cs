using System.Globalization;
using FramePin.Core.Abi;
using FramePin.Core.Access;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Inspection;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Conformance.Scripts;

/// <summary>Runs scripts on an emulated machine.</summary>
public sealed partial class FramePinSystem : IMemorySystem
{
    private const ulong Page = PageGeometry.PageSize;
    private const int PipePages = 16;

    private readonly Machine _machine;
    private readonly List<SpaceId> _spaces = [];
    private readonly FileId[] _files;
    private readonly Dictionary<int, Ring> _rings = [];
    private readonly Dictionary<int, UffdId> _uffds = [];
    private readonly Dictionary<int, Registration> _registered = [];
    private readonly FrameNames _names = new();
    private readonly SnapshotWriter _writer;
    private readonly List<FrameVector> _pipe = [];
    private readonly bool _countsPins;
    private readonly TaskState _tracer;
    private DeviceId? _counter;
    private int _dropped;
    private readonly byte[] _buffer = new byte[1 << 20];

    /// <param name="Dropped">Pins that io_uring gave back at once, keeping one a large folio.</param>
    private sealed record Registration(ulong Address, ulong Length, int Dropped);

    /// <summary>Everything that happened to the machine; null when it is not kept.</summary>
    private readonly MemoryStream? _log;

    /// <summary>A machine under <paramref name="profile"/> with one process.</summary>
    /// <param name="profile">The kernel.</param>
    /// <param name="initial">The process as it begins.</param>
    /// <param name="keepsLog">Keeps the log that <see cref="ReplaysAlike"/> replays.</param>
    public FramePinSystem(KernelProfile profile, InitialProcess initial, bool keepsLog = false)
    {
        var options = new MachineOptions
        {
            Profile = profile,
            Memory = 128UL << 20,
            HugePages2M = initial.HugePages,
            Thp = initial.Thp,
            UsesZeroPage = initial.UsesZeroPage,
            CachesZeroedHoles = initial.CachesZeroedHoles,
            HasProtectionKeys = initial.HasProtectionKeys,
            HandlesMemoryFailure = initial.HandlesMemoryFailure,
            PageTableLevels = initial.PageTableLevels,
            Swap = initial.Swap,
        };
        _log = keepsLog ? new MemoryStream() : null;
        _machine = new Machine("conformance", options, _log is null ? null : new MachineLog(_log, options));
        var layout = new AddressSpaceLayout
        {
            MmapBase = initial.MmapBase,
            StartBrk = initial.StartBrk,
            DataSize = initial.DataSize
        };
        var task = new TaskState
        {
            CanLockMemory = initial.IsPrivileged,
            CanMapLow = initial.IsPrivileged,
            RlimitMemlock = initial.RlimitMemlock,
            IsAdmin = initial.IsPrivileged,
        };
        _tracer = task;
        _countsPins = initial.IsPrivileged;
        _names.HidesFrames = !initial.IsPrivileged;
        var space = new SpaceId((int)_machine.Call(new CreateSpaceCall("p0", layout, task)).Value);
        Initial = initial;
        foreach (var mapping in initial.Mappings) Install(space, mapping);
        _spaces.Add(space);
        _files = [
            .. FileSpec.All.Select((spec, i) => initial.MissingFiles.Contains(i) ? FileId.None : CreateFile(spec))];
        for (var i = 0; i < _files.Length; i++)
            if (FileSpec.All[i].SameAs >= 0) _files[i] = _files[FileSpec.All[i].SameAs];
        _writer = new SnapshotWriter(_names);
        TouchText(space);
        var zeroPage = FindZeroPage(space);
        if (initial.UsesZeroPage) _names.ZeroPage = zeroPage;
    }

    /// <summary>The areas of a process that a script may work on: not its code, stack or the kernel's pages.</summary>
    public IReadOnlyList<Area> Areas(int process) =>
        [.. Maps(_spaces[process])
            .Where(entry => entry.Name != "exe" && entry.Name is not ['[', 's' or 'v', ..]).Select(entry => new Area(
                entry.Range,
                IsAnonymous: entry.Name is "" or "[heap]" && (entry.Flags & (VmFlags.HugeTlb | VmFlags.Droppable)) == 0,
                IsRegistered: (entry.Flags & (VmFlags.UffdMissing | VmFlags.UffdWp)) != 0,
                IsCounterPage: entry.Name == FileSpec.CounterPage))];

    public InitialProcess Initial { get; }

    public IReadOnlyList<string> Audit() => _machine.Audit();

    /// <summary>True when the log, run on a new machine, ends in the same state.</summary>
    public bool ReplaysAlike()
    {
        if (_log is null) throw new InvalidOperationException("the log was not kept");
        var digest = _machine.Digest();
        var replay = new MachineReplay("replay", _log.ToArray());
        using var machine = replay.Machine;
        replay.RunToEnd();
        return machine.Digest() == digest;
    }

    public string Run(Step step)
    {
        if (step.Process >= _spaces.Count) return "no such process";
        var space = _spaces[step.Process];
        if (View(space) is null) return "no such process";
        var (acquired, released) = (_machine.PinStatistics.Acquired, _machine.PinStatistics.Released);
        _dropped = 0;
        var answer = RunOn(space, step);
        var a = _machine.PinStatistics.Acquired - acquired;
        var r = _machine.PinStatistics.Released - released + _dropped;
        return !_countsPins || (a == 0 && r == 0)
            ? answer
            : string.Create(CultureInfo.InvariantCulture, $"{answer} +{a}/-{r}");
    }

    public string Look(bool withFlags, bool keepsNames)
    {
        _writer.Begin(keepsNames);
        for (var i = 0; i < _spaces.Count; i++)
        {
            var space = _spaces[i];
            if (View(space) is null) continue;
            _writer.Process(i);
            foreach (var entry in Maps(space))
            {
                if (entry.Name.StartsWith("[v", StringComparison.Ordinal)) continue;
                _writer.Area(
                    entry.Range.Start, entry.Range.End, entry.Permissions, entry.Offset, entry.Name,
                    withFlags ? entry.VmFlagLetters() : "");
                if (entry.Name is "[stack]" or "exe") continue;
                var pages = (int)Math.Min((entry.Range.End - entry.Range.Start) / Page, SnapshotWriter.MaxPages);
                var entries = Entries(space, entry.Range.Start, pages);
                _writer.Pages(
                    entry.Range.Start, entries, page => Digest(new Pfn(entries[page] & SnapshotWriter.PfnMask)));
            }
        }

        return _writer.End();
    }

    public void Dispose() => _machine.Dispose();

    private PageDigest Digest(Pfn pfn)
    {
        Span<byte> page = stackalloc byte[(int)Page];
        return _machine.Query<PeekFrameQuery, bool>(new(pfn, page)) ? PageDigest.Of(page) : PageDigest.Unreadable;
    }

    private string RunOn(SpaceId space, Step step)
    {
        var (a, b, c) = (step.A, step.B, step.C);
        switch (step.Kind)
        {
            case StepKind.Mmap: return Mmap(space, step);
            case StepKind.Munmap: return Text(_machine.Call(new MunmapCall(space, a, b)));
            case StepKind.Mprotect: return Text(_machine.Call(new MprotectCall(space, a, b, (Prot)c)));
            case StepKind.Mremap:
                return Text(
                _machine.Call(new MremapCall(space, a, b, c, (MremapFlags)step.D, step.E)));
            case StepKind.Madvise: return Text(_machine.Call(new MadviseCall(space, a, b, (Advice)c)));
            case StepKind.Mlock: return Text(_machine.Call(new MlockCall(space, a, b, (uint)c)));
            case StepKind.Munlock: return Text(_machine.Call(new MunlockCall(space, a, b)));
            case StepKind.MlockAll: return Text(_machine.Call(new MlockAllCall(space, (uint)a)));
            case StepKind.MunlockAll: return Text(_machine.Call(new MunlockAllCall(space)));
            case StepKind.Brk: return Text(_machine.Call(new BrkCall(space, Initial.StartBrk + a)));
            case StepKind.Mseal: return Text(_machine.Call(new MsealCall(space, a, b, 0)));
            case StepKind.Msync: return Text(_machine.Call(new MsyncCall(space, a, b, (MsyncFlags)c)));
            case StepKind.Mincore: return Mincore(space, a, b);
            case StepKind.Load:
                var one = new byte[1];
                var loadSignal = _machine.Execute<LoadCall, AccessResult>(new(space, a, one)).Signal;
                return loadSignal == UserSignal.None ? Byte(one[0]) : $"{loadSignal}";
            case StepKind.Store:
                var storeSignal = _machine.Execute<StoreCall, AccessResult>(new(space, a, [(byte)b])).Signal;
                return storeSignal == UserSignal.None ? "ok" : $"{storeSignal}";
            case StepKind.Fork:
                var forked = _machine.Call(new ForkCall(space, $"p{_spaces.Count}"));
                if (!forked.IsOk) return $"-{forked.Error}";
                _spaces.Add(new SpaceId((int)forked.Value));
                TouchText(_spaces[^1]);
                return "ok";
            case StepKind.Exit:
                var freed = Unregister(step.Process);
                _machine.ExitProcess(space);
                return freed ? "ok, unregistered" : "ok";
            case StepKind.Truncate: return Text(File(a) is { } t ? Truncate(t, a, b) : Errno.EBADF);
            case StepKind.PunchHole: return PunchHole(a, b, c);
            case StepKind.FileWrite: return FileWrite(step);
            case StepKind.FileRead: return FileRead(step);
            case StepKind.Seal: return Text(File(a) is { } s ? _machine.Call(new SealWriteCall(s)) : Errno.EBADF);
            case StepKind.Register: return Register(step.Process, space, a, b);
            case StepKind.RegisteredRead: return RegisteredCopy(step.Process, a, null);
            case StepKind.RegisteredWrite: return RegisteredCopy(step.Process, a, (byte)b);
            case StepKind.Unregister: return Unregister(step.Process) ? "0x0" : "-ENXIO";
            case StepKind.Vmsplice:
                return _pipe.Count > 0
                ? "pipe full"
                : Text(_machine.Vmsplice(space, a, b, PipePages, _pipe));
            case StepKind.Drain: return Drain();
            case StepKind.ProcessRead: return Copied(_machine.ProcessVm(space, a, Buffer(b), false), b);
            case StepKind.ProcessWrite: return Text(_machine.ProcessVm(space, a, Filled(b, c), true));
            case StepKind.MemRead: return Copied(_machine.ProcMem(space, a, Buffer(b), false, _tracer), b);
            case StepKind.MemWrite: return Text(_machine.ProcMem(space, a, Filled(b, c), true, _tracer));
            case StepKind.DirectWrite: return Text(_machine.DirectIo(space, a, Buffer(b), isRead: false));
            case StepKind.DirectRead: return Text(_machine.DirectIo(space, a, DirectInput(b), isRead: true));
            case StepKind.CopyFrom: return PipeWrite(_machine.CopyUser(space, a, Buffer(b), isWrite: false), b);
            case StepKind.Clear: return Text(_machine.CopyUser(space, a, Filled(b, 0), isWrite: true));
            case StepKind.Futex: return Text(_machine.FutexWake(space, a));
            case StepKind.FutexOp: return Text(_machine.Call(new FutexWakeOpCall(space, a)));
            case StepKind.Limit: return Limit(space, a, b);
            case StepKind.DropRights: return DropRights(space);
            case StepKind.Mdwe: return Text(_machine.Call(new SetMdweCall(space, (MdweFlags)a)));
            case StepKind.Pagemap: return Pagemap(space, a, b);
            case StepKind.Poison: return Text(_machine.Call(new PoisonUffdCall(space, a, b)));
            case StepKind.UffdRegister or StepKind.UffdUnregister or StepKind.UffdCopy or StepKind.UffdZero
                or StepKind.UffdProtect:
                return Uffd(space, step);
            case StepKind.MovePages:
                return string.Join(' ', _machine.Query<NodesQuery, Errno[]>(new(space, a, (int)(b / Page))).Select(
                    node => node == Errno.None ? "n0" : $"{node}"));
            default: throw new InvalidOperationException($"no step {step.Kind}");
        }
    }

    private FileId? File(ulong index) =>
        index < (ulong)_files.Length && _files[index] != FileId.None ? _files[index] : null;

    private SpaceView? View(SpaceId space) => _machine.Query<SpaceQuery, SpaceView?>(new(space));

    private IReadOnlyList<MapsEntry> Maps(SpaceId space) =>
        _machine.Query<MapsQuery, IReadOnlyList<MapsEntry>>(new(space));

    private ulong[] Entries(SpaceId space, ulong address, int pages) =>
        _machine.Query<PagemapQuery, ulong[]>(new(space, address, pages));

    private string Mmap(SpaceId space, Step step)
    {
        var spec = step.E == 0 ? null : FileSpec.All[(int)step.E - 1];
        if (spec is { IsZeroDevice: true })
            return Mmap(space, step with { D = step.D | (ulong)MapFlags.Anonymous, E = 0 });
        if (spec is { IsRomDevice: true }) return MmapRom(space, step);
        if (spec is { IsCounterPage: true })
            return Initial.MissingFiles.Contains((int)step.E - 1) ? "-EBADF" : Text(MmapCounter(space, step));
        FileId? file = step.E == 0 ? null : File(step.E - 1);
        if (step.E != 0 && file is null) return "-EBADF";
        return Text(_machine.Call(new MmapCall(space, step.A, step.B, (Prot)step.C, (MapFlags)step.D)
        {
            File = (step.D & (ulong)MapFlags.Anonymous) != 0 || file is null ? FileId.None : file.Value,
            Opening = (int)step.E,
            IsReadOnly = step.E != 0 && !FileSpec.All[(int)step.E - 1].IsWritable,
            Offset = step.F,
        }));
    }

    private string MmapRom(SpaceId space, Step step)
    {
        var rom = _machine.Call(new CreateDeviceCall(
            "/dev/mem", DeviceMapping.PfnMap, step.B / Page, IsRam: true, HasClose: false, IsWritable: true));
        return Text(_machine.Call(new MmapCall(space, step.A, step.B, (Prot)step.C, (MapFlags)step.D)
        {
            Device = new DeviceId((int)rom.Value),
        }));
    }

    /// <summary>perf_mmap also sets VM_DONTCOPY.</summary>
    private SyscallResult MmapCounter(SpaceId space, Step step)
    {
        _counter ??= new DeviceId((int)_machine.Call(new CreateDeviceCall(
            FileSpec.CounterPage, DeviceMapping.PfnMap, Frames: 1, IsRam: true, HasClose: true, IsWritable: true,
            IsAnonymousInode: true, HasAccess: false)).Value);
        var mapped = _machine.Call(new MmapCall(space, step.A, step.B, (Prot)step.C, (MapFlags)step.D)
        {
            Device = _counter.Value,
        });
        if (mapped.IsOk) _machine.Call(new MadviseCall(space, mapped.Value, step.B, Advice.DontFork));
        return mapped;
    }

    /// <summary>
    /// As the recorded tables write it: P present, F file or shared, X exclusive, S swap-like, G guard; map counts of
    /// three.
    /// </summary>
    private string Pagemap(SpaceId space, ulong address, ulong length)
    {
        if (address + length < address || address >= _machine.TaskSize) return "EOF";
        var entries = Entries(space, address, (int)(length / Page));
        return string.Join(' ', entries.Select((entry, page) => SnapshotWriter.Letters(entry, page, () =>
            _machine.Query<PageQuery, PageView>(new(new Pfn(entry & SnapshotWriter.PfnMask))).MapCount)));
    }

    private static bool IsWritable(ulong file) => FileSpec.All[(int)file].IsWritable;

    private Errno Truncate(FileId file, ulong index, ulong size) =>
        IsWritable(index) ? _machine.Call(new TruncateCall(file, size)).Error : Errno.EINVAL;

    private string Mincore(SpaceId space, ulong address, ulong length)
    {
        var residency = new byte[(length + Page - 1) / Page];
        var result = _machine.Query<MincoreQuery, SyscallResult>(new(space, address, length, residency));
        return result.IsOk ? string.Concat(residency.Select(page => page & 1)) : Text(result);
    }

    private string PunchHole(ulong index, ulong offset, ulong length)
    {
        if (File(index) is not { } file) return "-EBADF";
        // A descriptor for reading is refused behind the numbers, and before the file system is asked.
        var isNegative = length is 0 or > long.MaxValue || offset > long.MaxValue;
        if (!IsWritable(index)) return isNegative ? "-EINVAL" : "-EBADF";
        return Text(_machine.Call(new PunchHoleCall(file, offset, length)));
    }

    private string FileWrite(Step step)
    {
        if (File(step.A) is not { } file) return "-EBADF";
        // A negative offset is refused before the descriptor is looked at.
        if (!IsWritable(step.A)) return step.B > long.MaxValue ? "-EINVAL" : "-EBADF";
        var (done, error) = _machine.Execute<WriteFileCall, WriteFileResult>(new(file, step.B, [(byte)step.C]));
        return done == 1 ? "0x1" : $"-{error}";
    }

    private string FileRead(Step step)
    {
        if (File(step.A) is not { } file) return "-EBADF";
        var one = new byte[1];
        var read = _machine.Call(new ReadFileCall(file, step.B, one));
        return !read.IsOk ? Text(read) : read.Value == 1 ? Byte(one[0]) : "end";
    }

    private Span<byte> Buffer(ulong length) => _buffer.AsSpan(0, (int)Math.Min(length, (ulong)_buffer.Length));

    private Span<byte> Filled(ulong length, ulong value)
    {
        var buffer = Buffer(length);
        buffer.Fill((byte)value);
        return buffer;
    }

    private Span<byte> DirectInput(ulong length)
    {
        var buffer = Filled(length, 0);
        for (var at = 0; at < buffer.Length; at += (int)Page) buffer[at] = (byte)'d';
        return buffer;
    }

    /// <summary>
    /// A pipe takes whole pages of bytes and drops one that it could not fill (fs/pipe.c: pipe_write).
    /// </summary>
    private static string PipeWrite(SyscallResult copied, ulong length)
    {
        if (!copied.IsOk || copied.Value == length) return Text(copied);
        var whole = copied.Value & ~(Page - 1);
        return Text(whole > 0 ? SyscallResult.Ok(whole) : Errno.EFAULT);
    }

    private string Copied(SyscallResult result, ulong length)
    {
        var text = Text(result);
        if (!result.IsOk) return text;
        var buffer = Buffer(length);
        for (var at = 0UL; at < result.Value; at += Page) text += " " + Byte(buffer[(int)at]);
        return text;
    }

    private static string Byte(byte value) => value.ToString("x", CultureInfo.InvariantCulture);

    private static string Text(Errno error) => error == Errno.None ? "0x0" : $"-{error}";

    private static string Text(SyscallResult result) => $"{result}";
}
