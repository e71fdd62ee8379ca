using System.Diagnostics;
using System.Globalization;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using Xunit;
using Errno = FramePin.Drivers.Errno;
using File = System.IO.File;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Processes that are killed in the middle of a transfer: what they held is gone with their lease, the others go on,
/// and nothing is left of them. Each moment comes from a seed that is printed.
/// </summary>
public sealed class KillTests(ITestOutputHelper output)
{
    private const ulong At = 0x1000_0000;
    private const int Buffers = 4;
    private const int Pages = 57;
    private const ulong Step = (Pages + 1) * 4096UL;
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    [Fact]
    public async Task A_driver_that_is_killed_200_times_leaves_nothing_and_its_application_goes_on()
    {
        const int kills = 200;
        var random = Seeded();
        await using var daemon = await DaemonProcess.StartAsync();
        using var client = FramePinClient.Connect(daemon.Endpoint);
        var space = (await client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        var map =
            new MemoryCall { Mmap = new MmapCall { Address = At, Length = Buffers * Step, Prot = 3, Flags = 0x32 } };
        await client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space, Call = map });
        using var machine = await LocalMachine.AttachAsync(client, "machines/default");
        using var mirror = await machine.MapSpaceAsync(space, At, Buffers * Step);
        var pattern = new TestPattern(PixelFormat.Find("YUYV", 320, 360)!, Pattern.ColorBar75, movement: 2);
        var before = Resources(daemon.Id);
        var (frames, withoutDriver) = (0, 0);
        for (var kill = 0; kill < kills; kill++)
        {
            // A lease that lives longer than a busy machine may keep the driver's keep-alive waiting.
            using var driver = daemon.StartCommand("drive", "vivid", "--fps", "0", "--ttl", "2");
            if (await driver.StandardOutput.ReadLineAsync() is not { } greeting)
                Assert.Fail($"kill {kill}: the driver ended: {await driver.StandardError.ReadToEndAsync()}");
            else Assert.StartsWith("vivid serves", greeting, StringComparison.Ordinal);
            var round = await RunUntilKilledAsync(client, space, mirror, pattern, driver, random.Next(60));
            frames += round;
            if (round == 0) withoutDriver++;
            // The application's memory is its own still.
            mirror.Bytes[0] = (byte)kill;
            var seen = new byte[1];
            await new RemoteFrameMemory(client).ReadAsync(space, At, seen);
            Assert.Equal((byte)kill, seen[0]);
            if (kill % 20 == 19) await DrainedAsync(client);
        }

        output.WriteLine(
            $"{kills} kills, {frames} frames checked between them; {withoutDriver} fell before the first frame");
        mirror.Dispose();
        await DrainedAsync(client);
        await CheckCleanAsync(client);
        Assert.Equal(before, Resources(daemon.Id));
    }

    [Fact]
    public async Task An_application_that_is_killed_200_times_leaves_nothing_and_its_driver_is_told()
    {
        const int kills = 50;
        string[] nodes = ["video0", "video1", "video2", "video3"];
        var seeds = Seeded();
        await using var daemon = await DaemonProcess.StartAsync();
        using var client = FramePinClient.Connect(daemon.Endpoint);
        using var stop = new CancellationTokenSource();
        await using var kernel = await DriverKernel.OpenAsync(client, "machines/default", "vivid", isLocal: true);
        var drivers = nodes.Select(_ => new WatchedDriver(
            new VividDriver(kernel, new VividOptions { FramesPerSecond = 0 }))).ToArray();
        var serving = new List<Task>();
        foreach (var (node, driver) in nodes.Zip(drivers))
        {
            var ready = new TaskCompletionSource();
            serving.Add(DriverServer.RunAsync(
                client, "machines/default", node, driver, ready.SetResult, stop.Token));
            await ready.Task.WaitAsync(Patience);
        }

        var before = Resources(daemon.Id);
        // Each kill waits for the end of a lease. The drivers wait beside each other.
        await Task.WhenAll(nodes.Zip(drivers, (node, driver) => KillApplicationsAsync(
            daemon, node, driver, kills, new Random(seeds.Next()))));
        output.WriteLine(
            $"{nodes.Length * kills} kills, {drivers.Sum(driver => (long)driver.Vivid.Frames)} frames between them");
        await UntilAsync(() => client.AddressSpaces.ListAddressSpaces(
            new ListAddressSpacesRequest()).AddressSpaces.Count == 0, "the memory of the processes is gone");
        await CheckCleanAsync(client);
        Assert.Equal(before, Resources(daemon.Id));
        await stop.CancelAsync();
        foreach (var one in serving) await Assert.ThrowsAnyAsync<OperationCanceledException>(() => one);
        foreach (var driver in drivers) await driver.DisposeAsync();
    }

    /// <summary>Starts an application at a node, kills it in the middle of its stream, and again.</summary>
    private static async Task KillApplicationsAsync(
        DaemonProcess daemon, string node, WatchedDriver driver, int kills, Random random)
    {
        for (var kill = 0; kill < kills; kill++)
        {
            // The same time to live as the driver's above, and for the same reason.
            using var application = daemon.StartCommand(
                "v4l2", "capture", node, "--frames", "1000000", "--width", "320", "--height", "360", "--check",
                "--ttl", "2");
            Assert.Equal("streaming", await application.StandardError.ReadLineAsync().WaitAsync(Patience));
            var file = await driver.NextFileAsync().WaitAsync(Patience);
            await file.CallsAsync(V4l2.DequeueBuffer, random.Next(200)).WaitAsync(Patience);
            application.Kill();
            await application.WaitForExitAsync();
            await file.Released.WaitAsync(Patience);
            Assert.False(driver.Vivid.Queue.IsBusy, "the buffers are gone");
            Assert.False(driver.Vivid.Queue.IsStreaming, "the stream is off");
        }
    }

    /// <summary>
    /// Streams, and kills the driver while the ioctl number <paramref name="moment"/> is under way. Frames that were
    /// right before.
    /// </summary>
    private static async Task<int> RunUntilKilledAsync(
        FramePinClient client, string space, MappedFrames mirror, TestPattern pattern, Process driver, int moment)
    {
        await using var device = await V4l2Device.OpenAsync(client, "machines/default/drivers/video0", space);
        var step = 0;
        var frames = 0;

        // The driver's process dies while this call is on its way, or right after.
        async Task<(Errno Errno, T Answer)> Call<T>(Task<(Errno Errno, T Answer)> call)
        {
            if (step++ == moment) driver.Kill();
            return await call.WaitAsync(Patience);
        }

        async Task<Errno> StreamAsync()
        {
            var (errno, _) = await Call(device.SetFormatAsync("YUYV", 320, 360));
            if (errno != Errno.None) return errno;
            (errno, _) = await Call(
                device.IoctlAsync(V4l2.SetControl, new V4l2Control { Id = "horizontal_movement", Value = 2 }));
            if (errno != Errno.None) return errno;
            (errno, _) = await Call(device.RequestBuffersAsync(Buffers, UserPtr));
            for (var i = 0U; i < Buffers && errno == Errno.None; i++)
                (errno, _) = await Call(device.QueueUserPtrAsync(i, At + (i * Step), Pages * 4096));
            if (errno != Errno.None) return errno;
            (errno, _) = await Call(device.IoctlAsync(V4l2.StreamOn, new V4l2Stream { Type = device.Type }));
            while (errno == Errno.None)
            {
                (errno, var buffer) = await Call(device.DequeueAsync(UserPtr));
                if (errno != Errno.None) return errno;
                var bytes = mirror.Bytes.Slice((int)(buffer.Index * Step), 230_400);
                Assert.Equal(-1, pattern.FirstWrongRow(0, buffer.Sequence, bytes));
                frames++;
                (errno, _) = await Call(
                    device.QueueUserPtrAsync(buffer.Index, At + (buffer.Index * Step), Pages * 4096));
            }

            return errno;
        }

        Assert.Equal(Errno.ENODEV, await StreamAsync());
        await driver.WaitForExitAsync();
        return frames;
    }

    /// <summary>Waits until no driver's lease is left; then nothing may be pinned any more.</summary>
    private static async Task DrainedAsync(FramePinClient client)
    {
        await UntilAsync(() => client.Leases.ListLeases(new ListLeasesRequest()).Leases.Count == 0,
            "the leases of dead drivers end");
        var statistics = (await client.Machines.GetMachineAsync(new GetMachineRequest())).Statistics;
        Assert.Equal((statistics.PinsAcquired, 0U), (statistics.PinsReleased, statistics.FrameVectors));
    }

    private static async Task CheckCleanAsync(FramePinClient client)
    {
        await UntilAsync(() => client.Machines.GetMachine(new GetMachineRequest()).Statistics.QuarantinedFrames == 0,
            "the quarantine is empty");
        var statistics = (await client.Machines.GetMachineAsync(new GetMachineRequest())).Statistics;
        Assert.Equal(statistics.PinsAcquired, statistics.PinsReleased);
        Assert.Equal((0U, 0U), (statistics.FrameVectors, statistics.Devices));
        Assert.Empty((await client.Machines.AuditMachineAsync(new AuditMachineRequest())).Findings);
        Assert.DoesNotContain(
            (await client.Drivers.ListDriversAsync(new ListDriversRequest())).Drivers, driver => driver.OpenFiles > 0);
    }

    /// <summary>What the daemon has of memory files: descriptors, mappings, and files in shared memory.</summary>
    private static (int Descriptors, int Mappings, int Files) Resources(int daemon)
    {
        var folder = $"/proc/{daemon.ToString(CultureInfo.InvariantCulture)}";
        var descriptors = new DirectoryInfo($"{folder}/fd").GetFiles().Count(
            file => file.LinkTarget?.Contains("memfd:framepin", StringComparison.Ordinal) == true);
        var mappings = File.ReadLines($"{folder}/maps").Count(
            line => line.Contains("memfd:framepin", StringComparison.Ordinal));
        return (descriptors, mappings, Directory.GetFiles("/dev/shm", "framepin*").Length);
    }

    private static async Task UntilAsync(Func<bool> isSo, string what)
    {
        var watch = Stopwatch.StartNew();
        while (!isSo())
        {
            Assert.True(watch.Elapsed < Patience, $"waited {Patience.TotalSeconds} s until {what}");
            await Task.Yield();
        }
    }

    private Random Seeded()
    {
        var seed = int.TryParse(Environment.GetEnvironmentVariable("FRAMEPIN_SEED"), CultureInfo.InvariantCulture,
            out var given) ? given : Random.Shared.Next();
        output.WriteLine($"seed {seed}; FRAMEPIN_SEED={seed} repeats it");
        return new Random(seed);
    }
}
