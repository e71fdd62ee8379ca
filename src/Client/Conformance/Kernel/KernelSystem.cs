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
public sealed partial class KernelSystem : IMemorySystem
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
    private readonly PageDigest[] _contents = new PageDigest[SnapshotWriter.MaxPages];
    private readonly ulong _startBrk;
    private bool _usesZeroPage;
    private ulong _pipeRead, _pipeWrite, _copyWrite, _zero, _directIn, _directOut;
    private int _pipeFd, _copyFd;
    private int _pipeHeld;
    private readonly Dictionary<int, ulong> _uffds = [];
    private ulong _user;

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
        if (step.Kind == StepKind.Register)
        {
            var ringError = EnsureRing(step.Process, tracee);
            if (ringError < 0) return Text(ringError);
        }

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
                ReadContents(tracee, area.Start, entries);
                _writer.Pages(area.Start, entries, page => _contents[page]);
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

    /// <summary>
    /// Contents of the pages that are present; runs by one read, since a call a page costs more than the copy.
    /// </summary>
    private void ReadContents(Tracee tracee, ulong start, ReadOnlySpan<ulong> entries)
    {
        const int chunk = 64;
        for (var page = 0; page < entries.Length;)
        {
            var run = 0;
            while (run < chunk && page + run < entries.Length && (entries[page + run] >> 63) != 0) run++;
            var address = start + ((ulong)page * Page);
            if (run > 1 && LibC.Read(tracee.MemFd, _buffer.AsSpan(0, run * (int)Page), address) == run * (long)Page)
            {
                for (var i = 0; i < run; i++)
                    _contents[page + i] = PageDigest.Of(_buffer.AsSpan(i * (int)Page, (int)Page));
                page += run;
                continue;
            }

            var one = _buffer.AsSpan(0, (int)Page);
            if (run > 0)
                _contents[page] = LibC.Read(tracee.MemFd, one, address) == (long)Page
                    ? PageDigest.Of(one)
                    : PageDigest.Unreadable;
            page++;
        }
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
            case StepKind.Truncate:
                return IsMissing(a)
                ? "-EBADF"
                : Text(tracee.Call(SystemCall.Ftruncate, _descriptors[a], b));
            case StepKind.PunchHole:
                const ulong punchHoleKeepSize = 3;
                return IsMissing(a) ? "-EBADF"
                    : Text(tracee.Call(SystemCall.Fallocate, _descriptors[a], punchHoleKeepSize, b, c));
            case StepKind.FileWrite:
                tracee.WriteScratch([(byte)c], 0);
                return IsMissing(a) ? "-EBADF"
                    : Text(tracee.Call(SystemCall.Pwrite, _descriptors[a], tracee.Scratch, 1, b));
            case StepKind.FileRead: return FileRead(tracee, a, b);
            case StepKind.Seal:
                const ulong addSeals = 1033;
                const ulong sealWrite = 8;
                return IsMissing(a) ? "-EBADF"
                    : Text(tracee.Call(SystemCall.Fcntl, _descriptors[a], addSeals, sealWrite));
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
            case StepKind.FutexOp:
                // FUTEX_WAKE_OP | PRIVATE; FUTEX_OP_ADD of 0, compared with 0: nobody is woken, the word stays as it
                // is.
                return Text(tracee.Call(SystemCall.Futex, a, 133, 1, 1, a, 1u << 28));
            case StepKind.Limit: return Limit(tracee, a, b);
            case StepKind.DropRights: return DropRights(tracee);
            case StepKind.Mdwe: return Text(tracee.Call(SystemCall.Prctl, 65, a));
            case StepKind.Pagemap: return Pagemap(tracee, a, b);
            case StepKind.Poison: return Poison(tracee, a, b);
            case StepKind.UffdRegister or StepKind.UffdUnregister or StepKind.UffdCopy or StepKind.UffdZero
                or StepKind.UffdProtect:
                return Uffd(tracee, step);
            case StepKind.MovePages: return MovePages(tracee, a, b);
            default: throw new InvalidOperationException($"no step {step.Kind}");
        }
    }

    /// <summary>Only the soft limit, so that it can be raised again.</summary>
    private static string Limit(Tracee tracee, ulong resource, ulong bytes)
    {
        Span<byte> limit = stackalloc byte[16];
        tracee.Call(SystemCall.Prlimit, 0, resource, 0, tracee.Scratch);
        tracee.ReadScratch(limit, 0);
        BitConverter.TryWriteBytes(limit, bytes);
        tracee.WriteScratch(limit, 0);
        return Text(tracee.Call(SystemCall.Prlimit, 0, resource, tracee.Scratch, 0));
    }

    /// <summary>
    /// A user whom no other script has: what its rings are charged goes away some time after the process has ended.
    /// </summary>
    private string DropRights(Tracee tracee)
    {
        if (_user == 0) _user = _host.TakeUser();
        var result = tracee.Call(SystemCall.SetResUid, _user, _user, _user);
        return result == 0 ? "ok" : Text(result);
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
