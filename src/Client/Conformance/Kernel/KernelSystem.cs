using System.Buffers.Binary;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using FramePin.Conformance.Native;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;
using FramePin.Core.Backing;

namespace FramePin.Conformance.Kernel;

/// <summary>Runs scripts on the running kernel, in processes of their own.</summary>
public sealed class KernelSystem : IMemorySystem
{
    private const ulong Page = 4096;
    private const int OpenReadWrite = 2;
    private const ulong OpenDirect = 0x4000;
    private const ulong NonBlock = 0x800;
    private const ulong AtCwd = unchecked((ulong)-100);
    private const int PipePages = 16;

    private readonly KernelHost _host;
    private readonly List<Tracee> _tracees = [];
    private readonly ulong[] _descriptors = new ulong[FileSpec.All.Count];
    private readonly List<int> _missing = [];
    private readonly FrameNames _names = new();
    private readonly SnapshotWriter _writer;
    private readonly AreaReader _areas = new();
    private readonly Dictionary<int, Ring> _rings = [];
    private readonly Dictionary<int, (ulong Address, ulong Length)> _registered = [];
    private readonly byte[] _buffer = new byte[1 << 20];
    private readonly ulong[] _entries = new ulong[SnapshotWriter.MaxPages];
    private readonly int[] _firstBytes = new int[SnapshotWriter.MaxPages];
    private readonly ulong _startBrk;
    private bool _usesZeroPage;
    private ulong _pipeRead, _pipeWrite, _copyWrite, _zero, _directIn, _directOut;
    private int _pipeFd, _copyFd;
    private int _pipeHeld;

    public KernelSystem(KernelHost host)
    {
        _host = host;
        _writer = new SnapshotWriter(_names);
        var first = host.Spawn();
        _tracees.Add(first);
        PrepareFiles(first);
        _startBrk = (ulong)first.Call(SystemCall.Brk);
        _names.HidesFrames = !host.IsRoot;
        FindZeroPage(first);
        Initial = Describe(first);
    }

    /// <summary>The process as a script finds it.</summary>
    public InitialProcess Initial { get; }

    public string Run(Step step)
    {
        if (step.Process >= _tracees.Count || _tracees[step.Process].Ended is not null) return "no such process";
        var tracee = _tracees[step.Process];
        if (step.Kind is not (StepKind.Register or StepKind.Unregister or StepKind.ProcessRead or StepKind.ProcessWrite
            or StepKind.DirectRead or StepKind.DirectWrite or StepKind.Exit))
            return RunOn(tracee, step);
        if (step.Kind == StepKind.Register) EnsureRing(step.Process, tracee);
        var (acquired, released) = _host.PinCounters();
        var answer = RunOn(tracee, step);
        var after = _host.PinCounters();
        var (a, r) = (after.Acquired - acquired, after.Released - released);
        return a == 0 && r == 0 ? answer : string.Create(CultureInfo.InvariantCulture, $"{answer} +{a}/-{r}");
    }

    public string Look(bool withFlags, bool keepsNames)
    {
        LibC.DrainBatches();
        _writer.Begin(keepsNames);
        for (var i = 0; i < _tracees.Count; i++)
        {
            var tracee = _tracees[i];
            if (tracee.Ended is not null) continue;
            _writer.Process(i);
            foreach (var area in _areas.Read(withFlags ? tracee.SmapsFd : tracee.MapsFd))
            {
                if (area.Name.StartsWith("[v", StringComparison.Ordinal)) continue;
                var name = ShortName(area.Name);
                _writer.Area(area.Start, area.End, area.Permissions, area.Offset, name, area.Flags);
                if (name is "[stack]" or "exe") continue;
                var pages = (int)Math.Min((area.End - area.Start) / Page, SnapshotWriter.MaxPages);
                var entries = _entries.AsSpan(0, pages);
                LibC.Read(tracee.PagemapFd, MemoryMarshal.AsBytes(entries), area.Start / Page * 8);
                ReadFirstBytes(tracee, area.Start, entries);
                _writer.Pages(area.Start, entries, page => _firstBytes[page]);
            }
        }

        // Looking marks pages as used, which puts them into a batch again.
        LibC.DrainBatches();
        return _writer.End();
    }

    public void Dispose()
    {
        foreach (var process in _registered.Keys.ToList()) Unregister(process, _tracees[process]);
        foreach (var ring in _rings.Values) ring.Dispose();
        foreach (var tracee in Enumerable.Reverse(_tracees)) tracee.Dispose();
        _ = LibC.close(_pipeFd);
        _ = LibC.close(_copyFd);
    }

    /// <summary>First bytes of the pages that are present; long runs by one read, since a call a page costs more than the copy.</summary>
    private void ReadFirstBytes(Tracee tracee, ulong start, ReadOnlySpan<ulong> entries)
    {
        const int chunk = 64;
        Span<byte> one = stackalloc byte[1];
        for (var page = 0; page < entries.Length;)
        {
            var run = 0;
            while (run < chunk && page + run < entries.Length && (entries[page + run] >> 63) != 0) run++;
            var address = start + ((ulong)page * Page);
            if (run > 4 && LibC.Read(tracee.MemFd, _buffer.AsSpan(0, run * (int)Page), address) == run * (long)Page)
            {
                for (var i = 0; i < run; i++) _firstBytes[page + i] = _buffer[i * (int)Page];
                page += run;
                continue;
            }

            if (run > 0) _firstBytes[page] = LibC.Read(tracee.MemFd, one, address) == 1 ? one[0] : -1;
            page++;
        }
    }

    private void PrepareFiles(Tracee first)
    {
        for (var i = 0; i < FileSpec.All.Count; i++)
        {
            var fd = OpenFile(first, FileSpec.All[i]);
            if (fd < 0) _missing.Add(i);
            else _descriptors[i] = (ulong)fd;
        }

        Fill(Path.Combine(_host.DiskFolder, "direct-in"), 64, _ => (byte)'d');
        Fill(Path.Combine(_host.DiskFolder, "direct-out"), 64, _ => 0);
        _directIn = Open(first, Path.Combine(_host.DiskFolder, "direct-in"), OpenReadWrite | OpenDirect);
        _directOut = Open(first, Path.Combine(_host.DiskFolder, "direct-out"), OpenReadWrite | OpenDirect);
        _zero = Open(first, "/dev/zero", OpenReadWrite);
        (_pipeRead, _pipeWrite) = Pipe(first);
        (var copyRead, _copyWrite) = Pipe(first);
        _pipeFd = LibC.Open($"/proc/{first.Pid}/fd/{_pipeRead}", (int)NonBlock);
        _copyFd = LibC.Open($"/proc/{first.Pid}/fd/{copyRead}", (int)NonBlock);
    }

    private long OpenFile(Tracee tracee, FileSpec spec)
    {
        const ulong allowSealing = 2;
        const ulong hugeTlb = 4;
        switch (spec.Kind)
        {
            case FileKind.Shmem when spec.IsZeroDevice || spec.IsRomDevice:
                return TryOpen(tracee, spec.Name, OpenReadWrite);
            case FileKind.Shmem when spec.Name == "memfd":
                var memfd = MemFile(tracee, spec.Name, allowSealing);
                if (memfd >= 0) Fill($"/proc/{tracee.Pid}/fd/{memfd}", spec.Pages, FileSpec.FirstByte);
                return memfd;
            case FileKind.HugeTlb:
                if (_host.HugePages == 0) return -1;
                var huge = MemFile(tracee, spec.Name, hugeTlb);
                if (huge >= 0) tracee.Call(SystemCall.Ftruncate, (ulong)huge, (ulong)spec.Pages * spec.PageSize);
                return huge;
            case FileKind.Secret:
                var secret = tracee.Call(SystemCall.MemfdSecret);
                if (secret >= 0) tracee.Call(SystemCall.Ftruncate, (ulong)secret, (ulong)spec.Pages * spec.PageSize);
                return secret;
            default:
                var path = Path.Combine(spec.Kind == FileKind.Disk ? _host.DiskFolder : _host.TmpfsFolder, spec.Name);
                if (spec.SameAs < 0) Fill(path, spec.Pages, FileSpec.FirstByte);
                return (long)Open(tracee, path, spec.IsWritable ? OpenReadWrite : 0UL);
        }
    }

    private static void Fill(string path, int pages, Func<int, byte> firstByte)
    {
        using var file = new FileStream(path, FileMode.OpenOrCreate, FileAccess.Write, FileShare.ReadWrite, bufferSize: 0);
        file.SetLength(0);
        // Page by page, so that the page cache takes single pages: FramePin's does.
        var bytes = new byte[Page];
        for (var i = 0; i < pages; i++)
        {
            bytes[0] = firstByte(i);
            file.Write(bytes);
        }
    }

    private static ulong Open(Tracee tracee, string path, ulong flags) =>
        (ulong)Must(TryOpen(tracee, path, flags), $"open {path}");

    private static long TryOpen(Tracee tracee, string path, ulong flags)
    {
        tracee.WriteScratch(Encoding.UTF8.GetBytes(path + '\0'), 0);
        return tracee.Call(SystemCall.OpenAt, AtCwd, tracee.Scratch, flags);
    }

    private static long MemFile(Tracee tracee, string name, ulong flags)
    {
        tracee.WriteScratch(Encoding.UTF8.GetBytes(name + '\0'), 0);
        return tracee.Call(SystemCall.MemfdCreate, tracee.Scratch, flags);
    }

    private static (ulong Read, ulong Write) Pipe(Tracee tracee)
    {
        Must(tracee.Call(SystemCall.Pipe2, tracee.Scratch, NonBlock), "pipe2");
        Span<byte> pair = stackalloc byte[8];
        tracee.ReadScratch(pair, 0);
        return (BinaryPrimitives.ReadUInt32LittleEndian(pair), BinaryPrimitives.ReadUInt32LittleEndian(pair[4..]));
    }

    private static long Must(long result, string what) =>
        result >= 0 ? result : throw new InvalidOperationException($"{what}: {(Errno)(-result)}");

    private void FindZeroPage(Tracee tracee)
    {
        const ulong privateAnonymous = 0x22;
        const ulong exclusive = 1UL << 56;
        var address = (ulong)tracee.Call(SystemCall.Mmap, 0, Page, 1, privateAnonymous, ulong.MaxValue);
        tracee.Touch(address, null, out _);
        var entry = _entries.AsSpan(0, 1);
        LibC.Read(tracee.PagemapFd, MemoryMarshal.AsBytes(entry), address / Page * 8);
        tracee.Call(SystemCall.Munmap, address, Page);
        // The zero page belongs to nobody; some hosts give each reader a page of its own.
        _usesZeroPage = (entry[0] & exclusive) == 0;
        if (_usesZeroPage) _names.ZeroPage = entry[0] & ((1UL << 55) - 1);
    }

    private InitialProcess Describe(Tracee tracee)
    {
        var areas = _areas.Read(tracee.MapsFd);
        var stack = areas.Find(area => area.Name == "[stack]").Start;
        var mappings = areas.Select(area => new InitialMapping(
            area.Start, area.End, area.Permissions, area.Offset, ShortName(area.Name))).ToList();
        return new InitialProcess(
            mappings, areas.Where(area => area.End <= stack).Max(area => area.End), _startBrk, _host.HugePages, _host.Thp, _usesZeroPage, _host.IsRoot,
            _missing)
        {
            HasProtectionKeys = File.ReadLines("/proc/cpuinfo").Any(line =>
                line.StartsWith("flags", StringComparison.Ordinal) && line.Contains(" ospke", StringComparison.Ordinal)),
            HandlesMemoryFailure = File.Exists("/proc/sys/vm/memory_failure_recovery"),
        };
    }

    private string ShortName(string name)
    {
        const string deleted = " (deleted)";
        if (name.StartsWith("/secretmem", StringComparison.Ordinal)) return "secret";
        if (!name.StartsWith("/memfd:", StringComparison.Ordinal) && !name.StartsWith(_host.DiskFolder, StringComparison.Ordinal)
            && !name.StartsWith(_host.TmpfsFolder, StringComparison.Ordinal))
            return name;
        var last = name[(name.LastIndexOfAny(['/', ':']) + 1)..];
        return last.EndsWith(deleted, StringComparison.Ordinal) ? last[..^deleted.Length] : last;
    }

    private string RunOn(Tracee tracee, Step step)
    {
        var (a, b, c) = (step.A, step.B, step.C);
        switch (step.Kind)
        {
            case StepKind.Mmap:
                if (step.E != 0 && _missing.Contains((int)step.E - 1)) return "-EBADF";
                var fd = step.E == 0 ? ulong.MaxValue : _descriptors[step.E - 1];
                const ulong romStart = 0xf_0000;
                var offset = step.E != 0 && FileSpec.All[(int)step.E - 1].IsRomDevice ? romStart : step.F;
                return Text(tracee.Call(SystemCall.Mmap, a, b, c, step.D, fd, offset));
            case StepKind.Munmap: return Text(tracee.Call(SystemCall.Munmap, a, b));
            case StepKind.Mprotect: return Text(tracee.Call(SystemCall.Mprotect, a, b, c));
            case StepKind.Mremap: return Text(tracee.Call(SystemCall.Mremap, a, b, c, step.D, step.E));
            case StepKind.Madvise: return Text(tracee.Call(SystemCall.Madvise, a, b, c));
            case StepKind.Mlock: return Text(tracee.Call(SystemCall.Mlock2, a, b, c));
            case StepKind.Munlock: return Text(tracee.Call(SystemCall.Munlock, a, b));
            case StepKind.MlockAll: return Text(tracee.Call(SystemCall.MlockAll, a));
            case StepKind.MunlockAll: return Text(tracee.Call(SystemCall.MunlockAll));
            case StepKind.Brk: return Text(tracee.Call(SystemCall.Brk, _startBrk + a));
            case StepKind.Mseal: return Text(tracee.Call(SystemCall.Mseal, a, b, 0));
            case StepKind.Msync: return Text(tracee.Call(SystemCall.Msync, a, b, c));
            case StepKind.Mincore: return Mincore(tracee, a, b);
            case StepKind.Load:
                var loadSignal = tracee.Touch(a, null, out var loaded);
                return loadSignal == UserSignal.None ? Byte(loaded) : $"{loadSignal}";
            case StepKind.Store:
                var storeSignal = tracee.Touch(a, (byte)b, out _);
                return storeSignal == UserSignal.None ? "ok" : $"{storeSignal}";
            case StepKind.Fork:
                if (tracee.Fork(out var error) is not { } child) return $"-{error}";
                _tracees.Add(child);
                return "ok";
            case StepKind.Exit:
                // A ring that goes with its process gives its pins back later, on a kernel thread.
                var freed = Unregister(step.Process, tracee);
                tracee.Exit();
                if (_rings.Remove(step.Process, out var ring)) ring.Dispose();
                return freed.StartsWith('-') ? "ok" : "ok, unregistered";
            case StepKind.Truncate: return IsMissing(a) ? "-EBADF" : Text(tracee.Call(SystemCall.Ftruncate, _descriptors[a], b));
            case StepKind.PunchHole:
                const ulong punchHoleKeepSize = 3;
                return IsMissing(a) ? "-EBADF" : Text(tracee.Call(SystemCall.Fallocate, _descriptors[a], punchHoleKeepSize, b, c));
            case StepKind.FileWrite:
                tracee.WriteScratch([(byte)c], 0);
                return IsMissing(a) ? "-EBADF" : Text(tracee.Call(SystemCall.Pwrite, _descriptors[a], tracee.Scratch, 1, b));
            case StepKind.FileRead: return FileRead(tracee, a, b);
            case StepKind.Seal:
                const ulong addSeals = 1033;
                const ulong sealWrite = 8;
                return IsMissing(a) ? "-EBADF" : Text(tracee.Call(SystemCall.Fcntl, _descriptors[a], addSeals, sealWrite));
            case StepKind.Register: return Register(step.Process, tracee, a, b);
            case StepKind.RegisteredRead: return RegisteredCopy(step.Process, a, null);
            case StepKind.RegisteredWrite: return RegisteredCopy(step.Process, a, (byte)b);
            case StepKind.Unregister: return Unregister(step.Process, tracee);
            case StepKind.Vmsplice: return Vmsplice(tracee, a, b);
            case StepKind.Drain: return Drain();
            case StepKind.ProcessRead: return Copied(LibC.CopyMemory(tracee.Pid, a, Buffer(b), isWrite: false), b);
            case StepKind.ProcessWrite: return Text(LibC.CopyMemory(tracee.Pid, a, Filled(b, c), isWrite: true));
            case StepKind.MemRead: return Copied(LibC.Read(tracee.MemFd, Buffer(b), a), b);
            case StepKind.MemWrite: return Text(LibC.Write(tracee.MemFd, Filled(b, c), a));
            case StepKind.DirectWrite: return Text(tracee.Call(SystemCall.Pwrite, _directOut, a, b, 0));
            case StepKind.DirectRead: return Text(tracee.Call(SystemCall.Pread, _directIn, a, b, 0));
            case StepKind.CopyFrom:
                var written = tracee.Call(SystemCall.Write, _copyWrite, a, b);
                Empty(_copyFd);
                return Text(written);
            case StepKind.Clear: return Text(tracee.Call(SystemCall.Read, _zero, a, b));
            case StepKind.Futex: return Text(tracee.Call(SystemCall.Futex, a, 1, 1));
            case StepKind.Pagemap: return Pagemap(tracee, a, b);
            case StepKind.Poison: return Poison(tracee, a, b);
            case StepKind.MovePages: return MovePages(tracee, a, b);
            default: throw new InvalidOperationException($"no step {step.Kind}");
        }
    }

    private bool IsMissing(ulong file) => file >= (ulong)_descriptors.Length || _missing.Contains((int)file);

    private static string Mincore(Tracee tracee, ulong address, ulong length)
    {
        var result = tracee.Call(SystemCall.Mincore, address, length, tracee.Scratch);
        if (result != 0) return Text(result);
        Span<byte> residency = new byte[(int)((length + Page - 1) / Page)];
        tracee.ReadScratch(residency, 0);
        var text = new StringBuilder();
        foreach (var page in residency) text.Append(page & 1);
        return text.ToString();
    }

    private string FileRead(Tracee tracee, ulong file, ulong offset)
    {
        if (IsMissing(file)) return "-EBADF";
        var result = tracee.Call(SystemCall.Pread, _descriptors[file], tracee.Scratch, 1, offset);
        if (result == 0) return "end";
        if (result < 0) return Text(result);
        Span<byte> one = stackalloc byte[1];
        tracee.ReadScratch(one, 0);
        return Byte(one[0]);
    }

    private void EnsureRing(int process, Tracee tracee)
    {
        if (_rings.ContainsKey(process)) return;
        tracee.WriteScratch(new byte[120], 0);
        var fd = (ulong)Must(tracee.Call(SystemCall.IoUringSetup, 4, tracee.Scratch), "io_uring_setup");
        var parameters = new byte[120];
        tracee.ReadScratch(parameters, 0);
        _rings[process] = new Ring(tracee.Pid, fd, parameters);
    }

    private string Register(int process, Tracee tracee, ulong address, ulong length)
    {
        const ulong registerBuffers = 0;
        Span<byte> vector = stackalloc byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(vector, address);
        BinaryPrimitives.WriteUInt64LittleEndian(vector[8..], length);
        tracee.WriteScratch(vector, 0);
        var result = tracee.Call(SystemCall.IoUringRegister, _rings[process].RemoteFd, registerBuffers, tracee.Scratch, 1);
        if (result == 0) _registered[process] = (address, length);
        return Text(result);
    }

    private string Unregister(int process, Tracee tracee)
    {
        const ulong unregisterBuffers = 1;
        if (!_registered.Remove(process)) return "-ENXIO";
        return Text(tracee.Call(SystemCall.IoUringRegister, _rings[process].RemoteFd, unregisterBuffers));
    }

    private string RegisteredCopy(int process, ulong offset, byte? value)
    {
        if (!_registered.TryGetValue(process, out var buffer) || offset >= buffer.Length) return "none";
        // FramePin's side starts at the page; io_uring takes addresses inside the buffer.
        var address = Math.Max(buffer.Address, (buffer.Address & ~(Page - 1)) + offset);
        var copied = _rings[process].Copy(address, value, out var result);
        return result < 0 ? Text(result) : value is null ? Byte(copied) : "ok";
    }

    private string Vmsplice(Tracee tracee, ulong address, ulong length)
    {
        if (_pipeHeld > 0) return "pipe full";
        const ulong nonBlock = 2;
        length = Math.Min(length, PipePages * Page);
        Span<byte> vector = stackalloc byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(vector, address);
        BinaryPrimitives.WriteUInt64LittleEndian(vector[8..], length);
        tracee.WriteScratch(vector, 0);
        var result = tracee.Call(SystemCall.Vmsplice, _pipeWrite, tracee.Scratch, 1, nonBlock);
        if (result > 0) _pipeHeld = (int)((result + (long)Page - 1) / (long)Page);
        return Text(result);
    }

    private string Drain()
    {
        if (_pipeHeld == 0) return "empty";
        var text = "";
        for (; _pipeHeld > 0; _pipeHeld--)
        {
            var done = FileRead(_pipeFd, _buffer.AsSpan(0, (int)Page));
            text += " " + (done > 0 ? Byte(_buffer[0]) : Text(done));
        }

        return text.TrimStart();
    }

    private void Empty(int fd)
    {
        while (FileRead(fd, _buffer) > 0)
        {
        }
    }

    private static long FileRead(int fd, Span<byte> buffer) => LibC.ReadNext(fd, buffer);

    private string Pagemap(Tracee tracee, ulong address, ulong length)
    {
        var entries = _entries.AsSpan(0, (int)(length / Page));
        if (LibC.Read(tracee.PagemapFd, MemoryMarshal.AsBytes(entries), address / Page * 8) <= 0) return "EOF";
        var text = new List<string>();
        for (var page = 0; page < entries.Length; page++)
        {
            var entry = entries[page];
            text.Add(SnapshotWriter.Letters(entry, page, () => _host.MapCount(entry & SnapshotWriter.PfnMask)));
        }

        return string.Join(' ', text);
    }

    /// <summary>userfaultfd on the range, then UFFDIO_POISON.</summary>
    private static string Poison(Tracee tracee, ulong address, ulong length)
    {
        const ulong ioctl = 16;
        const ulong userfaultfd = 323;
        const ulong api = 0xc018_aa3f;
        const ulong register = 0xc020_aa00;
        const ulong poison = 0xc020_aa08;
        const ulong featurePoison = 1 << 14;
        var fd = tracee.Call(userfaultfd, 0);
        if (fd < 0) return Text(fd);
        foreach (var (request, words) in ((ulong, ulong[])[])[
            (api, [0xaa, featurePoison, 0]), (register, [address, length, 1, 0]), (poison, [address, length, 0, 0])])
        {
            tracee.WriteScratch(MemoryMarshal.AsBytes<ulong>(words), 0);
            var result = tracee.Call(ioctl, (ulong)fd, request, tracee.Scratch);
            if (result < 0) return Text(result);
        }

        return "0x0";
    }

    private static string MovePages(Tracee tracee, ulong address, ulong length)
    {
        var pages = (int)(length / Page);
        var arguments = new byte[pages * 12];
        for (var i = 0; i < pages; i++) BinaryPrimitives.WriteUInt64LittleEndian(arguments.AsSpan(i * 8), address + ((ulong)i * Page));
        tracee.WriteScratch(arguments, 0);
        var result = tracee.Call(
            SystemCall.MovePages, 0, (ulong)pages, tracee.Scratch, 0, tracee.Scratch + (ulong)(pages * 8), 0);
        if (result != 0) return Text(result);
        tracee.ReadScratch(arguments, 0);
        return string.Join(' ', Enumerable.Range(0, pages).Select(i =>
        {
            var status = BinaryPrimitives.ReadInt32LittleEndian(arguments.AsSpan((pages * 8) + (i * 4)));
            return status >= 0 ? $"n{status}" : $"{(Errno)(-status)}";
        }));
    }

    private Span<byte> Buffer(ulong length) => _buffer.AsSpan(0, (int)Math.Min(length, (ulong)_buffer.Length));

    private Span<byte> Filled(ulong length, ulong value)
    {
        var buffer = Buffer(length);
        buffer.Fill((byte)value);
        return buffer;
    }

    private string Copied(long result, ulong length)
    {
        var text = Text(result);
        if (result < 0) return text;
        var buffer = Buffer(length);
        for (var at = 0UL; at < (ulong)result; at += Page) text += " " + Byte(buffer[(int)at]);
        return text;
    }

    private static string Byte(byte value) => value.ToString("x", CultureInfo.InvariantCulture);

    private static string Text(long result) =>
        result is < 0 and >= -4095
            ? $"-{(Errno)(-result)}"
            : string.Create(CultureInfo.InvariantCulture, $"0x{result:x}");
}
