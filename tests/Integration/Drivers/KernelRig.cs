using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Drivers;
using FramePin.Tests.Support;
using FramePin.V1;
using Machine = FramePin.Core.Machines.Machine;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// A machine with an application's address space, and a driver's kernel on it. Checks at the end that nothing was left
/// behind, and that the log of the machine replays to the same state.
/// </summary>
internal class KernelRig : IAsyncDisposable
{
    private readonly CancellationTokenSource _stop = new();
    private readonly List<(DriverModule Module, Task Serving)> _served = [];

    protected KernelRig(DaemonFixture daemon, string machine, string space, DriverKernel kernel)
    {
        Daemon = daemon;
        MachineName = machine;
        SpaceName = space;
        Kernel = kernel;
        Lab = new Lab(daemon.MachineOf(machine), daemon.SpaceOf(space));
    }

    public DaemonFixture Daemon { get; }

    public string MachineName { get; }

    public string SpaceName { get; }

    public DriverKernel Kernel { get; }

    /// <summary>What the application does to its memory.</summary>
    public Lab Lab { get; }

    public Machine Machine => Lab.Machine;

    /// <summary>Pins taken and dropped so far (nr_foll_pin_acquired, nr_foll_pin_released).</summary>
    public (long Acquired, long Released) Pins => (Machine.PinStatistics.Acquired, Machine.PinStatistics.Released);

    /// <summary>Vectors that are open: what drivers hold, in the eras that take plain references too.</summary>
    public int Vectors => Machine.Statistics().Vectors;

    public static async Task<KernelRig> CreateAsync(
        DaemonFixture daemon, string profile, bool isLocal = true, ulong memoryBytes = 64UL << 20)
    {
        var (machine, space) = await daemon.CreateAsync(profile, memoryBytes, hugePages: 2, tracksSoftDirty: true);
        return new KernelRig(
            daemon, machine, space, await DriverKernel.OpenAsync(daemon.Client, machine, "test", isLocal));
    }

    /// <summary>Serves a driver until the rig is disposed, which disposes the driver too.</summary>
    public async Task ServeAsync(string node, DriverModule module)
    {
        var ready = new TaskCompletionSource();
        var serving = DriverServer.RunAsync(Daemon.Client, MachineName, node, module, ready.SetResult, _stop.Token);
        _served.Add((module, serving));
        await Task.WhenAny(ready.Task, serving).WaitAsync(TimeSpan.FromSeconds(20));
        if (serving.IsCompleted) await serving;
    }

    /// <summary>Opens a served node.</summary>
    public async Task<DriverHandle> OpenHandleAsync(string node)
    {
        var (errno, file) = await DriverHandle.OpenAsync(Daemon.Client, $"{MachineName}/drivers/{node}");
        return file ?? throw new IOException($"{node}: {errno}");
    }

    /// <summary>Sum of 64 bytes of the application's memory; null where it cannot read.</summary>
    public int? Sum(ulong address, FramePin.Core.Vmas.AddressSpace? space = null)
    {
        Span<byte> bytes = stackalloc byte[64];
        if (Machine.Read(space ?? Lab.Space, address, bytes, out _) != bytes.Length) return null;
        var sum = 0;
        foreach (var one in bytes) sum += one;
        return sum;
    }

    /// <summary>Stores one value all over a range.</summary>
    public void Fill(ulong address, int pages, byte value)
    {
        var page = new byte[4096];
        page.AsSpan().Fill(value);
        for (var i = 0; i < pages; i++)
            if (Machine.Write(Lab.Space, address + ((ulong)i * Lab.Page), page, out var signal) != page.Length)
                throw new InvalidOperationException($"store: {signal}");
    }

    /// <summary>Frames of a range that are mapped now.</summary>
    public List<Pfn> Frames(ulong address, int pages) =>
        [.. Enumerable.Range(0, pages).Select(
            i => Machine.Translate(Lab.Space, address + ((ulong)i * Lab.Page))).OfType<Pfn>()];

    /// <summary>How many of these frames are dirty by their flag.</summary>
    public int Dirty(IEnumerable<Pfn> frames) =>
        frames.Count(pfn => (Machine.ViewPage(pfn).Flags & FrameFlags.Dirty) != 0);

    public async ValueTask DisposeAsync()
    {
        await ClosingAsync();
        await _stop.CancelAsync();
        foreach (var (module, serving) in _served)
        {
            await serving.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            await module.DisposeAsync();
        }

        _stop.Dispose();
        // Before the lease ends, which would release what a driver forgot.
        var left = Vectors - ExpectedLeaks;
        await Kernel.DisposeAsync();
        if (left != 0) throw new InvalidOperationException($"{left} vectors leaked");
        var live = Machine.PinStatistics.Acquired - Machine.PinStatistics.Released;
        if (live != 0) throw new InvalidOperationException($"{live} pins leaked");
        var findings = Machine.Audit();
        if (findings.Count > 0) throw new InvalidOperationException("audit: " + string.Join("; ", findings));
        Daemon.Replay(MachineName);
        await Daemon.Client.Machines.DeleteMachineAsync(new DeleteMachineRequest { Name = MachineName });
    }

    /// <summary>Vectors that a driver leaks as its model does.</summary>
    public int ExpectedLeaks { get; set; }

    /// <summary>The applications' files are closed.</summary>
    protected virtual ValueTask ClosingAsync() => ValueTask.CompletedTask;
}
