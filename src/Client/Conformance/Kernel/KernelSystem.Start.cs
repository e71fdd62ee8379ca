using System.Buffers.Binary;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using FramePin.Conformance.Native;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;
using FramePin.Core.Backing;

namespace FramePin.Conformance.Kernel;

/// <summary>What a script finds: open files, pipes, and the process described.</summary>
public sealed partial class KernelSystem
{
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
            case FileKind.Shmem when spec.IsCounterPage:
                return OpenCounter(tracee);
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

    /// <summary>A counter of PERF_COUNT_SW_DUMMY in user mode, not started, with its page mapped for good.</summary>
    private static long OpenCounter(Tracee tracee)
    {
        const int attributes = 128;
        const uint software = 1, dummy = 9;
        const ulong disabled = 1, excludeKernel = 1 << 5, excludeHypervisor = 1 << 6;
        const ulong sharedFixed = 0x11, readWrite = 3, allCpus = ulong.MaxValue, noGroup = ulong.MaxValue;
        Span<byte> attribute = stackalloc byte[attributes];
        attribute.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(attribute, software);
        BinaryPrimitives.WriteInt32LittleEndian(attribute[4..], attributes);
        BinaryPrimitives.WriteUInt64LittleEndian(attribute[8..], dummy);
        BinaryPrimitives.WriteUInt64LittleEndian(attribute[40..], disabled | excludeKernel | excludeHypervisor);
        tracee.WriteScratch(attribute, 0);
        var fd = tracee.Call(SystemCall.PerfEventOpen, tracee.Scratch, 0, allCpus, noGroup, 0);
        if (fd < 0) return fd;
        var at = tracee.Call(SystemCall.Mmap, FileSpec.CounterPageAt, Page, readWrite, sharedFixed, (ulong)fd, 0);
        return at < 0 ? at : fd;
    }

    private static void Fill(string path, int pages, Func<int, byte> firstByte)
    {
        using var file = new FileStream(
            path, FileMode.OpenOrCreate, FileAccess.Write, FileShare.ReadWrite, bufferSize: 0);
        file.SetLength(0);
        // Page by page, so that the page cache takes single pages: FramePin's does.
        var bytes = new byte[Page];
        for (var i = 0; i < pages; i++)
        {
            bytes[0] = firstByte(i);
            file.Write(bytes);
        }

        // Written back, so that MADV_PAGEOUT meets clean pages each time.
        file.Flush(flushToDisk: true);
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
            mappings, areas.Where(area => area.End <= stack).Max(
                area => area.End), _startBrk, _host.HugePages, _host.Thp, _usesZeroPage, _host.IsRoot,
            _missing)
        {
            HasProtectionKeys = File.ReadLines("/proc/cpuinfo").Any(line =>
                line.StartsWith("flags", StringComparison.Ordinal)
                    && line.Contains(" ospke", StringComparison.Ordinal)),
            CachesZeroedHoles = _host.CachesZeroedHoles,
            Swap = _host.Swap,
            DataSize = DataSize(tracee),
            RlimitMemlock = RlimitMemlock(tracee),
            HandlesMemoryFailure = File.Exists("/proc/sys/vm/memory_failure_recovery"),
            PageTableLevels = HostSettings.PageTableLevels(),
        };
    }

    private static ulong DataSize(Tracee tracee)
    {
        // Fields 45 and 46, counted from behind the name in parentheses, which is field 2.
        var text = File.ReadAllText($"/proc/{tracee.Pid}/stat");
        var fields = text[(text.LastIndexOf(')') + 2)..].Split(' ');
        return ulong.Parse(fields[43], CultureInfo.InvariantCulture) - ulong.Parse(
            fields[42], CultureInfo.InvariantCulture);
    }

    private static ulong RlimitMemlock(Tracee tracee)
    {
        const ulong memlock = 8;
        Span<byte> limit = stackalloc byte[16];
        Must(tracee.Call(SystemCall.Prlimit, 0, memlock, 0, tracee.Scratch), "prlimit64");
        tracee.ReadScratch(limit, 0);
        return BinaryPrimitives.ReadUInt64LittleEndian(limit);
    }

    private string ShortName(string name)
    {
        const string deleted = " (deleted)";
        if (name.StartsWith("/secretmem", StringComparison.Ordinal)) return "secret";
        if (!name.StartsWith("/memfd:", StringComparison.Ordinal)
            && !name.StartsWith(_host.DiskFolder, StringComparison.Ordinal)
            && !name.StartsWith(_host.TmpfsFolder, StringComparison.Ordinal))
            return name;
        var last = name[(name.LastIndexOfAny(['/', ':']) + 1)..];
        return last.EndsWith(deleted, StringComparison.Ordinal) ? last[..^deleted.Length] : last;
    }
}
