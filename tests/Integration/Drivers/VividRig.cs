using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.Vivid;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>A machine with a vivid node, served through the daemon, that the application has open.</summary>
internal sealed class VividRig : KernelRig
{
    private VividRig(DaemonFixture daemon, string machine, string space, DriverKernel kernel)
        : base(daemon, machine, space, kernel)
    {
    }

    public VividDriver Driver { get; private set; } = null!;

    public V4l2Device Device { get; private set; } = null!;

    public static async Task<VividRig> CreateAsync(
        DaemonFixture daemon, string profile, VividOptions options, bool isLocal = true,
        ulong memoryBytes = 64UL << 20)
    {
        var (machine, space) = await daemon.CreateAsync(profile, memoryBytes, hugePages: 2, tracksSoftDirty: true);
        var rig = new VividRig(
            daemon, machine, space, await DriverKernel.OpenAsync(daemon.Client, machine, "vivid", isLocal));
        rig.Driver = await rig.ServeAsync("video0", options);
        rig.Device = await rig.OpenAsync("video0", space);
        return rig;
    }

    /// <summary>Serves another vivid node.</summary>
    public async Task<VividDriver> ServeAsync(string node, VividOptions options)
    {
        var driver = new VividDriver(Kernel, options);
        await ServeAsync(node, (DriverModule)driver);
        return driver;
    }

    public Task<V4l2Device> OpenAsync(string node, string space) =>
        V4l2Device.OpenAsync(Daemon.Client, $"{MachineName}/drivers/{node}", space);

    protected override ValueTask ClosingAsync() => Device.DisposeAsync();
}
