using System.Globalization;

namespace FramePin.Conformance.Kernel;

/// <summary>The host cannot be compared with as it is; the message says why.</summary>
public sealed class HostUnsuitableException(string message) : Exception(message);

/// <summary>
/// What a run borrows of the host: settings that it changes and folders that it makes. One run at a time has the loan.
/// Each item stands in a state file before it is changed, so that a run that is killed is made good by the next one.
/// </summary>
/// <remarks>
/// The lock is the kernel's (flock), which ends with its process. The state file names the boot, since a setting does
/// not outlive one. Any thread; two runs of one process take turns.
/// </remarks>
internal sealed class HostLoan : IDisposable
{
    /// <summary>Swap that was made on a zram device: its folder of settings, and the device.</summary>
    private const string Swap = "swap";

    private const string Setting = "setting";
    private const string Folder = "folder";
    private const string Boot = "boot";
    private static readonly SemaphoreSlim Turn = new(1);

    private readonly Lock _lock = new();
    private readonly FileStream _locked;
    private readonly string _stateFile;
    private readonly List<string[]> _items = [];
    private bool _isGivenBack;

    private HostLoan(FileStream locked, string stateFile)
    {
        _locked = locked;
        _stateFile = stateFile;
    }

    /// <summary>Where root's runs have their lock and their state.</summary>
    public static string UsualFolder => "/run/framepin-conformance";

    /// <summary>
    /// Takes the loan, and makes good first what a run left that was killed. Throws
    /// <see cref="HostUnsuitableException"/> while another process has it.
    /// </summary>
    /// <param name="folder">The folder of the lock and of the state file.</param>
    public static HostLoan Take(string folder)
    {
        Turn.Wait();
        try
        {
            Directory.CreateDirectory(folder);
            var locked = Open(Path.Combine(folder, "lock"));
            try
            {
                var loan = new HostLoan(locked, Path.Combine(folder, "state"));
                loan.MakeGood();
                return loan;
            }
            catch
            {
                locked.Dispose();
                throw;
            }
        }
        catch
        {
            Turn.Release();
            throw;
        }
    }

    /// <summary>
    /// Keeps runs of root from the loan, for a run of an ordinary user, whose answers would change with the settings.
    /// Null where no run of root has been on this boot: then there is nothing that keeps one from beginning. Throws
    /// <see cref="HostUnsuitableException"/> while a process has the loan.
    /// </summary>
    /// <param name="folder">The folder of the lock.</param>
    public static FileStream? KeepOthersFrom(string folder)
    {
        var path = Path.Combine(folder, "lock");
        try
        {
            // FileShare.Read is flock(LOCK_SH | LOCK_NB).
            return new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1);
        }
        catch (IOException exception) when (exception is FileNotFoundException or DirectoryNotFoundException)
        {
            return null;
        }
        catch (IOException) when (File.Exists(path))
        {
            throw InUse(path);
        }
    }

    /// <summary>Changes a setting of the host until the loan ends.</summary>
    public void Set(string path, string value)
    {
        lock (_lock)
        {
            if (_isGivenBack) return;
            Note(Setting, path, File.ReadAllText(path).Trim());
            File.WriteAllText(path, value);
        }
    }

    /// <summary>A folder that goes when the loan ends.</summary>
    public void AddFolder(string path)
    {
        lock (_lock) Note(Folder, path, "");
    }

    /// <summary>Swap on a zram device, which is turned off when the loan ends.</summary>
    /// <param name="settings">Its folder of settings.</param>
    /// <param name="device">The device.</param>
    public void AddSwap(string settings, string device)
    {
        lock (_lock) Note(Swap, settings, device);
    }

    /// <summary>
    /// Gives everything back, the last item first. What cannot be given back stays in the state file.
    /// </summary>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_isGivenBack) return;
            _isGivenBack = true;
            try
            {
                GiveBack();
            }
            finally
            {
                _locked.Dispose();
                Turn.Release();
            }
        }
    }

    private static FileStream Open(string path)
    {
        try
        {
            // FileShare.None is flock(LOCK_EX | LOCK_NB).
            return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, 1);
        }
        catch (IOException) when (File.Exists(path))
        {
            throw InUse(path);
        }
    }

    private static HostUnsuitableException InUse(string path)
    {
        var holders = HoldersOf(path);
        var who = holders.Count == 0 ? "" : $" (process {string.Join(", ", holders)})";
        return new($"another run{who} has the host's settings on loan: run this one when that one has ended");
    }

    /// <summary>
    /// The processes that hold the lock of a file, by /proc/locks: "1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE ...".
    /// Those of other PID namespaces stand there as 0 and are left out.
    /// </summary>
    private static List<string> HoldersOf(string path)
    {
        const string locks = "/proc/locks";
        if (!File.Exists(locks) || Native.LibC.InodeOf(path) is not (var number and > 0)) return [];
        var inode = string.Create(CultureInfo.InvariantCulture, $":{number}");
        return [.. File.ReadLines(locks).Select(line => line.Split(' ', StringSplitOptions.RemoveEmptyEntries))
            .Where(words => words.Length > 5 && words[1] == "FLOCK"
                && words[5].EndsWith(inode, StringComparison.Ordinal))
            .Select(words => words[4]).Where(process => process != "0").Distinct(StringComparer.Ordinal)];
    }

    /// <summary>Gives back what a run of the same boot left, in the order in which it would have done so.</summary>
    private void MakeGood()
    {
        if (!File.Exists(_stateFile)) return;
        var lines = File.ReadAllLines(_stateFile).Select(line => line.Split('\t')).Where(
            parts => parts.Length == 3).ToList();
        if (lines.Count > 0 && lines[0] is [Boot, var boot, _] && boot == BootId()) _items.AddRange(lines.Skip(1));
        GiveBack();
    }

    private void Note(string kind, string path, string before)
    {
        _items.Add([kind, path, before]);
        Save();
    }

    /// <summary>Writes the state beside its file and puts it in its place, so that no run finds half of it.</summary>
    private void Save()
    {
        if (_items.Count == 0)
        {
            File.Delete(_stateFile);
            return;
        }

        var lines = _items.Prepend([Boot, BootId(), ""]).Select(item => string.Join('\t', item));
        File.WriteAllLines(_stateFile + ".new", lines);
        File.Move(_stateFile + ".new", _stateFile, overwrite: true);
    }

    private void GiveBack()
    {
        for (var i = _items.Count - 1; i >= 0; i--)
        {
            try
            {
                GiveBack(_items[i]);
                _items.RemoveAt(i);
            }
            catch (Exception exception) when (exception is IOException or UnauthorizedAccessException
                or ArgumentException)
            {
                // It stays in the state file, and the next run tries again.
                Console.Error.WriteLine(string.Create(
                    CultureInfo.InvariantCulture, $"not given back: {_items[i][1]}: {exception.Message}"));
            }
        }

        Save();
    }

    private static void GiveBack(string[] item)
    {
        var (path, before) = (item[1], item[2]);
        switch (item[0])
        {
            case Setting:
                File.WriteAllText(path, before);
                break;
            case Folder:
                if (Directory.Exists(path)) Directory.Delete(path, recursive: true);
                break;
            case Swap:
                SwapSpace.TurnOff(path, before);
                break;
        }
    }

    private static string BootId() => File.ReadAllText("/proc/sys/kernel/random/boot_id").Trim();
}
