using System.Globalization;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;

namespace FramePin.Conformance.Kernel;

/// <summary>
/// The state that all scripts on the running kernel share: the executor and its template process, and the counters of
/// pins. One thread creates, uses and disposes it; scripts run as that thread's user.
/// </summary>
public sealed class KernelHost : IDisposable
{
    private readonly LentHost _lent;
    private readonly string _executor;
    private readonly int _processor = Native.LibC.sched_getcpu();
    private readonly Tracee _template;
    private ulong _nextUser = 0x5f00_0000;
    private readonly byte[] _statistics = new byte[64 << 10];

    /// <param name="lent">What the run has of the host; the caller's, for longer than this object lives.</param>
    public KernelHost(LentHost lent)
    {
        _lent = lent;
        IsRoot = Native.LibC.geteuid() == 0;
        _executor = Path.Combine(DiskFolder, "exe");
        Executor.Write(_executor);
        Release = File.ReadAllText("/proc/sys/kernel/osrelease").Trim();
        // Tracer and tracees on one processor: the kernel drains only its own batches of fresh pages, and a page
        // in another processor's batch has one more reference, which makes a write copy it.
        Native.LibC.KeepOn(0, _processor);
        _template = Tracee.Start(_executor);
        try
        {
            CachesZeroedHoles = ProbeZeroedHoles();
        }
        catch
        {
            _template.Dispose();
            throw;
        }
    }

    /// <summary>Settings of the host that FramePin does not model, a sentence each.</summary>
    public IReadOnlyList<string> NotModelled => _lent.NotModelled;

    /// <summary>Release of the running kernel, as uname -r prints it.</summary>
    public string Release { get; }

    /// <summary>Frame numbers and pin counters can be read.</summary>
    public bool IsRoot { get; }

    /// <summary>Huge pages of 2 MiB that scripts may use.</summary>
    public int HugePages => _lent.HugePages;

    public ThpMode Thp => _lent.Thp;

    /// <summary>Bytes of swap that scripts may use; 0 for none.</summary>
    public ulong Swap => _lent.Swap;

    /// <summary>The disk file system keeps a page of a hole of which it zeroed a part, without contents.</summary>
    internal bool CachesZeroedHoles { get; }

    /// <summary>
    /// A file that ended within a page of a hole is extended; then a read beside that page maps it along with its
    /// neighbours, unless it is in the cache without contents.
    /// </summary>
    private bool ProbeZeroedHoles()
    {
        const int size = 8 * 4096;
        const int oldEnd = (2 * 4096) + 2048;
        var path = Path.Combine(DiskFolder, "probe");
        using (var file = new FileStream(
            path, FileMode.Create, FileAccess.ReadWrite, FileShare.ReadWrite, bufferSize: 0))
        {
            file.SetLength(oldEnd);
            file.SetLength(size);
        }

        _template.WriteScratch(System.Text.Encoding.UTF8.GetBytes(path + '\0'), 0);
        const ulong atCwd = unchecked((ulong)-100);
        const ulong mapPrivate = 2, protRead = 1;
        var fd = (ulong)_template.Call(SystemCall.OpenAt, atCwd, _template.Scratch, 0);
        var at = (ulong)_template.Call(SystemCall.Mmap, 0, size, protRead, mapPrivate, fd, 0);
        Span<byte> residency = stackalloc byte[8];
        var signal = _template.Touch(at + 4096, null, out _);
        _template.Call(SystemCall.Mincore, at, size, _template.Scratch);
        _template.ReadScratch(residency, 0);
        _template.Call(SystemCall.Munmap, at, size);
        _template.Call(SystemCall.Close, fd);
        return signal == UserSignal.None && (residency[1] & 1) != 0 && (residency[2] & 1) == 0;
    }

    /// <summary>The number of a user whom no script of this run has had; nobody on the host should be.</summary>
    internal ulong TakeUser() => _nextUser++;

    internal string DiskFolder => _lent.DiskFolder;

    internal string TmpfsFolder => _lent.TmpfsFolder;

    /// <summary>
    /// The profile whose rules the running kernel should follow: the newest that is not newer than it, the oldest
    /// measured one at least.
    /// </summary>
    public KernelProfile Profile
    {
        get
        {
            var parts = Release.Split('.', '-');
            var version = Version(parts[0], parts[1]);
            return KernelProfile.All.Where(
                profile => Version(profile) <= version && Version(profile) >= Version("6", "1"))
                .DefaultIfEmpty(KernelProfile.Find("6.1")!).Last();
        }
    }

    /// <summary>A process for one script.</summary>
    internal Tracee Spawn()
    {
        var tracee = _template.Spawn(_executor);
        tracee.KeepOn(_processor);
        return tracee;
    }

    /// <summary>nr_foll_pin_acquired and nr_foll_pin_released, exact; zeroes when they cannot be read.</summary>
    internal (long Acquired, long Released) PinCounters()
    {
        if (!IsRoot) return default;
        File.WriteAllText("/proc/sys/vm/stat_refresh", "1");
        using var handle = File.OpenHandle("/proc/vmstat");
        var text = System.Text.Encoding.ASCII.GetString(_statistics, 0, RandomAccess.Read(handle, _statistics, 0));
        return (Counter(text, "nr_foll_pin_acquired "), Counter(text, "nr_foll_pin_released "));
    }

    /// <summary>
    /// /proc/kpagecount of a frame, without the template's mapping of the executor; 0 where it cannot be read.
    /// </summary>
    internal long MapCount(ulong pfn)
    {
        if (!IsRoot) return 0;
        Span<byte> count = stackalloc byte[8];
        using var handle = File.OpenHandle("/proc/kpagecount");
        RandomAccess.Read(handle, count, (long)pfn * 8);
        return BitConverter.ToInt64(count) - (pfn == ExecutorPfn() ? 1 : 0);
    }

    /// <summary>Frame of the executor's code, which every process of a run shares.</summary>
    private ulong ExecutorPfn()
    {
        const ulong pfnMask = (1UL << 55) - 1;
        Span<byte> entry = stackalloc byte[8];
        Native.LibC.Read(_template.PagemapFd, entry, Executor.Syscall / 4096 * 8);
        return BitConverter.ToUInt64(entry) & pfnMask;
    }

    public void Dispose() => _template.Dispose();

    private static int Version(string major, string minor) =>
        (int.Parse(major, CultureInfo.InvariantCulture) * 1000) + int.Parse(minor, CultureInfo.InvariantCulture);

    private static int Version(KernelProfile profile) =>
        profile.Name.Split('.') is [var major, var minor] ? Version(major, minor) : 0;

    private static long Counter(string text, string name)
    {
        var at = text.IndexOf(name, StringComparison.Ordinal);
        if (at < 0) return 0;
        var end = text.IndexOf('\n', at);
        return long.Parse(text.AsSpan(at + name.Length, end - at - name.Length), CultureInfo.InvariantCulture);
    }
}
