using System.Globalization;
using FramePin.Core.Kernel;

namespace FramePin.Conformance.Kernel;

/// <summary>
/// What a run has of the host: folders for its files, the free pages of the huge page pool, and swap. Root's run has
/// the host's settings on loan (<see cref="HostLoan"/>) and makes the pool larger; an ordinary user's run takes the
/// pool as it is, and runs only while nobody has the loan. Given back by the user who took it.
/// </summary>
public sealed class LentHost : IDisposable
{
    private const int WantedHugePages = 8;
    private const string HugePagesFolder = "/sys/kernel/mm/hugepages/hugepages-2048kB/";
    private const string ThpFile = "/sys/kernel/mm/transparent_hugepage/enabled";
    private const string CollapsePauseFile = "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs";

    private readonly HostLoan? _loan;
    private readonly FileStream? _guard;
    private readonly bool _hasSwap;

    /// <param name="withSwap">Also borrows swap; throws <see cref="SwapUnavailableException"/> where it is not to be
    /// had.</param>
    /// <param name="asUser">The user who is to own the folders; null for the caller.</param>
    /// <exception cref="HostUnsuitableException">Another run has the host, or the host has swap of its own.</exception>
    public LentHost(bool withSwap = false, int? asUser = null)
    {
        if (Native.LibC.geteuid() == 0) _loan = HostLoan.Take(HostLoan.UsualFolder);
        else _guard = HostLoan.KeepOthersFrom(HostLoan.UsualFolder);
        AppDomain.CurrentDomain.ProcessExit += OnExit;
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
            if (asUser is { } user)
                foreach (var folder in (string[])[DiskFolder, TmpfsFolder]) Native.LibC.GiveTo(folder, user);
            NotModelled = HostSettings.NotModelled(DiskFolder);
            HugePages = BorrowHugePages();
            Thp = ReadThp();
            // khugepaged is kept from joining small pages at a moment of its own.
            if (File.Exists(CollapsePauseFile))
                _loan?.Set(CollapsePauseFile, uint.MaxValue.ToString(CultureInfo.InvariantCulture));
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Settings of the host that FramePin does not model, a sentence each.</summary>
    public IReadOnlyList<string> NotModelled { get; }

    /// <summary>Huge pages of 2 MiB that scripts may use.</summary>
    public int HugePages { get; }

    public ThpMode Thp { get; }

    /// <summary>Bytes of swap that scripts may use; 0 for none.</summary>
    public ulong Swap => _hasSwap ? SwapSpace.Size : 0;

    internal string DiskFolder { get; }

    internal string TmpfsFolder { get; }

    public void Dispose()
    {
        AppDomain.CurrentDomain.ProcessExit -= OnExit;
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
        _guard?.Dispose();
    }

    /// <summary>
    /// Makes the host's pool larger, never smaller: others may use its pages. The scripts have what is free of it, and
    /// the pool does not grow by itself meanwhile.
    /// </summary>
    private int BorrowHugePages()
    {
        if (!Directory.Exists(HugePagesFolder)) return 0;
        var free = FreeHugePages();
        if (_loan is null) return free;
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
        if (!File.Exists(ThpFile)) return ThpMode.Never;
        var text = File.ReadAllText(ThpFile);
        return text.Contains("[always]", StringComparison.Ordinal) ? ThpMode.Always
            : text.Contains("[madvise]", StringComparison.Ordinal) ? ThpMode.MAdvise : ThpMode.Never;
    }
}
