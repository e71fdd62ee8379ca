using System.Collections.Concurrent;
using FramePin.Server.Configuration;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Lease = FramePin.Server.Sessions.Lease;

namespace FramePin.Server.Drivers;

/// <summary>The nodes that driver processes serve, and the files open on them. Any thread.</summary>
internal sealed class DriverRegistry(DaemonOptions options)
{
    private readonly ConcurrentDictionary<(MachineHost Host, string Node), ServedDriver> _drivers = new();
    private readonly ConcurrentDictionary<(MachineHost Host, ulong Number), OpenDriverFile> _files = new();
    private ulong _nextFile;

    public static string NameOf(ServedDriver driver) => Names.Child(driver.Host.Id, Names.Drivers, driver.Node);

    public static string NameOf(OpenDriverFile file) =>
        $"{Names.Machine(file.Driver.Host.Id)}/{Names.DriverFiles}/{file.Number}";

    public IEnumerable<ServedDriver> Of(MachineHost host) =>
        _drivers.Values.Where(driver => driver.Host == host).OrderBy(driver => driver.Node, StringComparer.Ordinal);

    public ServedDriver Get(MachineHost host, string node) =>
        _drivers.TryGetValue((host, node), out var driver)
            ? driver
            : throw Refusals.NotFound("DRIVER", Names.Child(host.Id, Names.Drivers, node));

    public ServedDriver Register(MachineHost host, RegisterDriver register)
    {
        var (node, driver) = (register.Node, register.Driver);
        var limits = options.Limits;
        if (node.Length == 0) throw Refusals.Bad("register.node", "must name the node, such as video0");
        Names.CheckId(node, limits, "register.node");
        Names.CheckText(driver, limits.OwnerLengthMax, "owner_length_max", "register.driver");
        if (_drivers.Count >= limits.DriversMax)
            throw Refusals.Limit("drivers_max", (ulong)limits.DriversMax, (ulong)_drivers.Count + 1);
        var served = new ServedDriver(host, node, driver, register.Polls, limits.DriverCallsMax);
        return _drivers.TryAdd((host, node), served) ? served : throw Refusals.Exists(NameOf(served));
    }

    /// <summary>The driver's stream or its lease has ended: its node and the files on it are gone.</summary>
    public void End(ServedDriver driver)
    {
        _drivers.TryRemove(new KeyValuePair<(MachineHost, string), ServedDriver>((driver.Host, driver.Node), driver));
        driver.End();
        foreach (var file in driver.Files.Values) Remove(file);
    }

    /// <summary>Opens a file of a node: the driver's errno, or the file, which hangs on the lease.</summary>
    public async Task<(uint Errno, OpenDriverFile? File)> OpenAsync(
        ServedDriver driver, Lease? lease, bool isNonBlocking, CancellationToken cancelled)
    {
        if (driver.Files.Count >= options.Limits.DriverFilesMax)
            throw Refusals.Limit(
                "driver_files_max", (ulong)options.Limits.DriverFilesMax, (ulong)driver.Files.Count + 1);
        var file = new OpenDriverFile(
            Interlocked.Increment(ref _nextFile), driver, lease, isNonBlocking, file => Close(file));
        // Known before the driver answers, so that a caller who goes meanwhile leaves a file that can be closed.
        driver.Files[file.Number] = file;
        _files[(driver.Host, file.Number)] = file;
        try
        {
            var open = new OpenCall { NonBlocking = isNonBlocking, Lease = lease?.Name ?? "" };
            var answer = await driver.CallAsync(
                new DriverCall { File = file.Number, Open = open }, cancelled).ConfigureAwait(false);
            if (answer.Errno != 0)
            {
                Remove(file);
                return (answer.Errno, null);
            }
        }
        catch
        {
            _ = Close(file);
            throw;
        }

        if (lease is null || lease.TryAdd(file)) return (0, file);
        _ = Close(file);
        throw LeaseRegistry.Gone(lease.Name);
    }

    /// <summary>The file of a name; null when it is closed or its driver is gone.</summary>
    public OpenDriverFile? Find(MachineHost host, ulong number) => _files.GetValueOrDefault((host, number));

    /// <summary>Closes a file: the driver is told by release, which nobody waits for.</summary>
    public Task Close(OpenDriverFile file)
    {
        if (!Remove(file)) return Task.CompletedTask;
        return file.Driver.CallAsync(
            new DriverCall { File = file.Number, Release = new ReleaseCall() }, CancellationToken.None);
    }

    private bool Remove(OpenDriverFile file)
    {
        if (!_files.TryRemove((file.Driver.Host, file.Number), out _)) return false;
        file.IsClosed = true;
        file.Driver.Files.TryRemove(file.Number, out _);
        file.Lease?.Forget(file);
        return true;
    }
}
