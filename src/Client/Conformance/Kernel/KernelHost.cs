using System.Globalization;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;

namespace FramePin.Conformance.Kernel;

/// <summary>
/// The state that all scripts on the running kernel share: the executor and its template process, the folders of the
/// test files, huge pages borrowed from the host, and the counters of pins. One thread creates, uses and disposes it.
/// </summary>
public sealed class KernelHost : IDisposable
{
    private const int WantedHugePages = 8;
    private const string HugePagesFolder = "/sys/kernel/mm/hugepages/hugepages-2048kB/";
    private const string CollapsePauseFile = "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs";

    private readonly string _executor;
    private readonly int _processor = Native.LibC.sched_getcpu();
    private readonly Tracee _template;
    private readonly HostLoan? _loan;
    private readonly bool _hasSwap;
    private ulong _nextUser = 0x5f00_0000;
    private readonly byte[] _statistics = new byte[64 << 10];

    /// <param name="withSwap">Also borrows swap; throws <see cref="SwapUnavailableException"/> where it is not to be
    /// had.</param>
    /// <exception cref="HostUnsuitableException">Another run has the host, or the host has swap of its own.</exception>
    public KernelHost(bool withSwap = false)
    {
        IsRoot = Native.LibC.geteuid() == 0;
        _loan = IsRoot ? HostLoan.Take(HostLoan.UsualFolder) : null;
        try
        {
            if (withSwap) SwapSpace.Borrow(_loan);
            else if (HostSettings.SwapAreas() is { Count: > 0 } areas)
                throw new HostUnsuitableException(
                    $"the host has swap of its own ({string.Join(", ", areas)}), to which MADV_PAGEOUT would page out "
                    + "as no machine here does: 'swapoff -a' first, and --swap lends a device that is modelled");
            _hasSwap = withSwap;
            DiskFolder = Directory.CreateTempSubdirectory("framepin-conformance-").FullName;
            TmpfsFolder = $"/dev/shm/{Path.GetFileName(DiskFolder)}";
            _loan?.AddFolder(DiskFolder);
            _loan?.AddFolder(TmpfsFolder);
            Directory.CreateDirectory(TmpfsFolder);
            NotModelled = HostSettings.NotModelled(DiskFolder);
            _executor = Path.Combine(DiskFolder, "exe");
            Executor.Write(_executor);
            Release = File.ReadAllText("/proc/sys/kernel/osrelease").Trim();
            HugePages = BorrowHugePages();
            Thp = ReadThp();
            // khugepaged is kept from joining small pages at a moment of its own.
            if (File.Exists(CollapsePauseFile))
                _loan?.Set(CollapsePauseFile, uint.MaxValue.ToString(CultureInfo.InvariantCulture));
            AppDomain.CurrentDomain.ProcessExit += OnExit;
            // Tracer and tracees on one processor: the kernel drains only its own batches of fresh pages, and a page
            // in another processor's batch has one more reference, which makes a write copy it.
            Native.LibC.KeepOn(0, _processor);
            _template = Tracee.Start(_executor);
            CachesZeroedHoles = ProbeZeroedHoles();
        }
        catch
        {
            AppDomain.CurrentDomain.ProcessExit -= OnExit;
            _template?.Dispose();
            GiveBack();
            throw;
        }
    }

    /// <summary>Settings of the host that FramePin does not model, a sentence each.</summary>
    public IReadOnlyList<string> NotModelled { get; }

    /// <summary>Release of the running kernel, as uname -r prints it.</summary>
    public string Release { get; }

    /// <summary>Frame numbers and pin counters can be read.</summary>
    public bool IsRoot { get; }

    /// <summary>Huge pages of 2 MiB that scripts may use.</summary>
    public int HugePages { get; }

    public ThpMode Thp { get; }

    /// <summary>Bytes of swap that scripts may use; 0 for none.</summary>
    public ulong Swap => _hasSwap ? SwapSpace.Size : 0;

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

    internal string DiskFolder { get; }

    internal string TmpfsFolder { get; }

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

    public void Dispose()
    {
        AppDomain.CurrentDomain.ProcessExit -= OnExit;
        _template.Dispose();
        GiveBack();
    }

    /// <summary>A run that is interrupted leaves the host as it was, too.</summary>
    private void OnExit(object? sender, EventArgs arguments) => GiveBack();

    private void GiveBack()
    {
        if (_loan is not null)
        {
            _loan.Dispose();
            return;
        }

        foreach (var folder in (string?[])[DiskFolder, TmpfsFolder])
            if (Directory.Exists(folder)) Directory.Delete(folder, recursive: true);
    }

    private static int Version(string major, string minor) =>
        (int.Parse(major, CultureInfo.InvariantCulture) * 1000) + int.Parse(minor, CultureInfo.InvariantCulture);

    private static int Version(KernelProfile profile) =>
        profile.Name.Split('.') is [var major, var minor] ? Version(major, minor) : 0;

    /// <summary>
    /// Makes the host's pool larger, never smaller: others may use its pages. The scripts have what is free of it, and
    /// the pool does not grow by itself meanwhile.
    /// </summary>
    private int BorrowHugePages()
    {
        if (_loan is null || !Directory.Exists(HugePagesFolder)) return 0;
        var free = FreeHugePages();
        if (free < WantedHugePages)
            _loan.Set(
                HugePagesFolder + "nr_hugepages",
                (Number("nr_hugepages") + WantedHugePages - free).ToString(CultureInfo.InvariantCulture));
        if (Number("nr_overcommit_hugepages") != 0) _loan.Set(HugePagesFolder + "nr_overcommit_hugepages", "0");
        return FreeHugePages();
    }

    private static int FreeHugePages() => Math.Max(0, Number("free_hugepages") - Number("resv_hugepages"));

    private static int Number(string setting) =>
        int.Parse(File.ReadAllText(HugePagesFolder + setting), CultureInfo.InvariantCulture);

    private static ThpMode ReadThp()
    {
        const string file = "/sys/kernel/mm/transparent_hugepage/enabled";
        if (!File.Exists(file)) return ThpMode.Never;
        var text = File.ReadAllText(file);
        return text.Contains("[always]", StringComparison.Ordinal) ? ThpMode.Always
            : text.Contains("[madvise]", StringComparison.Ordinal) ? ThpMode.MAdvise : ThpMode.Never;
    }

    private static long Counter(string text, string name)
    {
        var at = text.IndexOf(name, StringComparison.Ordinal);
        if (at < 0) return 0;
        var end = text.IndexOf('\n', at);
        return long.Parse(text.AsSpan(at + name.Length, end - at - name.Length), CultureInfo.InvariantCulture);
    }
}
