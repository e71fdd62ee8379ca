using FramePin.Core.Abi;
using FramePin.Core.Backing;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Tests.Simulation;

/// <summary>
/// Runs random operations on a small machine and on the model and compares what each answers, and the books after each.
/// </summary>
internal sealed class Simulator : IDisposable
{
    private const ulong Base = 0x10_0000;
    private const ulong Page = 4096;
    private const int Window = 24;
    private const int MostSpaces = 4;
    private const int MostVectors = 12;

    private readonly Random _random;
    private readonly Machine _machine;
    private readonly MachineLog? _log;
    private readonly NaiveModel _model = new();
    private readonly Dictionary<string, AddressSpace> _spaces = [];
    private readonly List<MemoryFile> _files;
    private readonly List<FrameVector> _vectors = [];

    /// <summary>
    /// Vectors through which a device has written: to be unpinned as dirty, else reclaim may drop what it wrote.
    /// </summary>
    private readonly HashSet<FrameVector> _written = [];
    private int _names;

    /// <param name="seed">Seed of the operations.</param>
    /// <param name="prepare">Run on the machine before the first operation; null for nothing.</param>
    /// <param name="log">Receives the log of the machine; null for none.</param>
    public Simulator(int seed, Action<Machine>? prepare = null, Stream? log = null)
    {
        _random = new Random(seed);
        var options = new MachineOptions { Profile = KernelProfile.Recorded, Memory = 8UL << 20, Swap = 1UL << 20 };
        _log = log is null ? null : new MachineLog(log, options);
        _machine = new Machine("sim", options, _log);
        prepare?.Invoke(_machine);
        _spaces["s0"] = _machine.CreateAddressSpace("s0", new AddressSpaceLayout(), new TaskState())!;
        _files =
        [
            _machine.CreateFile("/shmem", FileKind.Shmem, 12 * Page)!, _machine.CreateFile(
                "/disk", FileKind.Disk, 12 * Page)!,
        ];
    }

    /// <summary>Operations by name and outcome.</summary>
    public SortedDictionary<string, int> Outcomes { get; } = new(StringComparer.Ordinal);

    public long CommandNumber => _machine.CommandNumber;

    /// <summary>Records in the log so far.</summary>
    public long Records => _log?.Records ?? 0;

    public string Digest() => _machine.Digest();

    /// <summary>One operation. Null when model and machine agree, else what they disagree on.</summary>
    /// <param name="audits">Audits the machine after it.</param>
    public string? Step(bool audits = true)
    {
        var (name, expected, actual) = Operate();
        var outcome = expected.StartsWith("partial", StringComparison.Ordinal) ? "partial" : expected;
        var key = $"{name} {outcome}";
        Outcomes[key] = Outcomes.GetValueOrDefault(key) + 1;
        if (expected != actual) return $"{name}: the model says {expected}, the machine {actual}";
        var findings = audits ? _machine.Audit() : [];
        if (findings.Count > 0) return $"{name}: audit: {string.Join("; ", findings)}";
        var pinned = _machine.PinStatistics.Acquired - _machine.PinStatistics.Released;
        return pinned == _model.Pinned ? null : $"{name}: {pinned} pages pinned, the model has {_model.Pinned}";
    }

    public void Dispose() => _machine.Dispose();

    private (string Name, string Expected, string Actual) Operate()
    {
        var spaceName = _model.Spaces.Keys.ElementAt(_random.Next(_model.Spaces.Count));
        var space = _spaces[spaceName];
        var page = _random.Next(Window);
        var count = _random.Next(1, 5);
        switch (_random.Next(100))
        {
            case < 12:
                return Map(spaceName, space, page, count);
            case < 16:
                return ("munmap", _model.Unmap(spaceName, page, count),
                    Text(_machine.Munmap(space, At(page), (ulong)count * Page)));
            case < 23:
                // Mostly permissions that let the rest of the run go on. Write-only memory is left out: whether a pin
                // for reading gets it depends on what is present, since the fast path looks at no VMA.
                var prot = _random.Next(8) switch { 0 => 0, 1 or 2 => 1, _ => 3 };
                return ("mprotect", _model.Protect(spaceName, page, count, prot),
                    Text(_machine.Mprotect(space, At(page), (ulong)count * Page, (Prot)prot)));
            case < 36:
                return Load(spaceName, space, page);
            case < 38:
                // Changes nothing that a program sees, but where it is.
                return ("pageout", _model.IsMapped(spaceName, page, count) ? "ok" : "ENOMEM",
                    Text(_machine.Madvise(space, At(page), (ulong)count * Page, Advice.PageOut)));
            case < 53:
                var value = (byte)_random.Next(256);
                var stored = _machine.Write(space, At(page), [value], out var signal);
                return ("store", _model.Store(spaceName, page, value), stored == 1 ? "ok" : Text(signal));
            case < 66 when _vectors.Count < MostVectors:
                return Pin(spaceName, space, page, count);
            case < 76 when _vectors.Count > 0:
                return Unpin();
            case < 81 when _vectors.Count > 0:
                return Convert();
            case < 90 when _vectors.Count > 0:
                return Dma();
            case < 93:
                return ("dontneed", _model.DontNeed(spaceName, page, count),
                    Text(_machine.Madvise(space, At(page), (ulong)count * Page, Advice.DontNeed)));
            case < 95:
                var to = _random.Next(6) == 0 ? page : _random.Next(Window);
                return ("mremap", _model.Move(spaceName, page, to),
                    Text(
                        _machine.Mremap(space, At(page), Page, Page, MremapFlags.MayMove | MremapFlags.Fixed, At(to))));
            case < 97:
                return ForkOrExit(spaceName, space);
            default:
                var file = _random.Next(2);
                // Never long without its pages: most truncations grow the file again.
                var pages = _random.Next(3) == 0 ? _random.Next(4, 12) : 12;
                return ("truncate", _model.Truncate(_model.Files[file], pages),
                    _machine.Truncate(_files[file], (ulong)pages * Page) == Errno.None ? "ok" : "failed");
        }
    }

    private (string, string, string) Map(string name, AddressSpace space, int page, int count)
    {
        var kind = _random.Next(6);
        var isShared = kind is 1 or 2 or 3;
        var file = kind switch { 2 or 4 => 0, 3 or 5 => 1, _ => -1 };
        var index = file < 0 ? 0 : _random.Next(12);
        var prot = _random.Next(6) == 0 ? 1 : 3;
        var result = _machine.Mmap(space, new MmapRequest
        {
            Address = At(page),
            Length = (ulong)count * Page,
            Prot = (Prot)prot,
            Flags = MapFlags.Fixed | (isShared ? MapFlags.Shared : MapFlags.Private)
                | (file < 0 ? MapFlags.Anonymous : 0),
            File = file < 0 ? null : _files[file],
            Offset = (ulong)index * Page,
        });
        return ("mmap", _model.Map(name, page, count, prot, file < 0 ? null : _model.Files[file], index, isShared),
            Text(result));
    }

    private (string, string, string) Load(string name, AddressSpace space, int page)
    {
        Span<byte> one = stackalloc byte[1];
        var expected = _model.Load(name, page, out var wanted);
        var done = _machine.Read(space, At(page), one, out var signal);
        var actual = done != 1 ? Text(signal) : one[0] == wanted ? "ok" : $"ok with {one[0]} instead of {wanted}";
        return ("load", expected, actual);
    }

    private (string, string, string) Pin(string name, AddressSpace space, int page, int count)
    {
        var write = _random.Next(3) != 0;
        var expected = _model.Pin(name, page, count, write);
        var vector = _machine.CreateVector(count)!;
        var result = _machine.GetVaddrFrames(
            space, At(page), count, write ? GupFlags.Write : GupFlags.None, vector).Result;
        if (result.Pages > 0)
        {
            _vectors.Add(vector);
        }
        else
        {
            _machine.PutVaddrFrames(vector);
            _machine.DestroyVector(vector);
        }

        var actual = result.Error != Errno.None ? result.Error.ToString() : result.Pages == count
            ? "ok"
            : $"partial {result.Pages}";
        return (write ? "pin for write" : "pin for read", expected, actual);
    }

    private (string, string, string) Unpin()
    {
        var index = _random.Next(_vectors.Count);
        var vector = _vectors[index];
        _vectors.RemoveAt(index);
        var isDirty = _written.Remove(vector) | (_random.Next(2) == 0);
        if (!isDirty) _machine.PutVaddrFrames(vector);
        else _machine.PutVaddrFramesDirty(vector);
        return ("unpin", _model.Unpin(index), _machine.DestroyVector(vector) ? "ok" : "not destroyed");
    }

    private (string, string, string) Convert()
    {
        var index = _random.Next(_vectors.Count);
        var vector = _vectors[index];
        var before = vector.Runs.ToArray();
        if (vector.IsPfns)
        {
            if (_machine.ToPages(vector) != Errno.None) return ("convert to pages", "ok", "EINVAL");
        }
        else
        {
            _machine.ToPfns(vector);
        }

        var same = before.AsSpan().SequenceEqual(vector.Runs);
        return (vector.IsPfns ? "convert to pfns" : "convert to pages", "ok", same ? "ok" : "changed the frames");
    }

    /// <summary>A device reads or writes a pinned page.</summary>
    private (string, string, string) Dma()
    {
        var index = _random.Next(_vectors.Count);
        var slot = _random.Next(_model.Vectors[index].Count);
        var page = _model.Vectors[index][slot];
        Span<byte> one = [(byte)_random.Next(256)];
        if (_random.Next(2) == 0)
        {
            page.Value = one[0];
            _written.Add(_vectors[index]);
            var written = _machine.CopyFrames(_vectors[index], (ulong)slot * Page, one, isWrite: true, out _);
            return ("dma write", "ok", written == 1 ? "ok" : "short");
        }

        _machine.CopyFrames(_vectors[index], (ulong)slot * Page, one, isWrite: false, out _);
        return ("dma read", "ok", one[0] == page.Value ? "ok" : $"{one[0]} instead of {page.Value}");
    }

    private (string, string, string) ForkOrExit(string name, AddressSpace space)
    {
        if (_spaces.Count >= MostSpaces || (_spaces.Count > 1 && _random.Next(2) == 0))
        {
            _spaces.Remove(name);
            var ended = _machine.Exit(space) == Errno.None ? "ok" : "failed";
            var expected = _model.Exit(name);
            if (_spaces.Count == 0) throw new InvalidOperationException("the last address space has exited");
            return ("exit", expected, ended);
        }

        var child = $"s{++_names}";
        var made = _machine.Fork(space, child, out var error);
        if (made is null) return ("fork", "ok", error.ToString());
        _spaces[child] = made;
        return ("fork", _model.Fork(name, child), "ok");
    }

    private static ulong At(int page) => Base + ((ulong)page * Page);

    private static string Text(SyscallResult result) => result.IsOk ? "ok" : result.Error.ToString();

    private static string Text(UserSignal signal) => signal switch
    {
        UserSignal.SigBus => "SIGBUS",
        UserSignal.SigSegvAccErr or UserSignal.SigSegvMapErr => "SIGSEGV",
        _ => signal.ToString(),
    };
}
