using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Random calls of four clients at once, on the capture and the output node of one driver process: ioctls, DQBUF with
/// deadlines, read, write, poll, mmap, close and kill. No driver dies, no frame is lost, and no pin leaks.
/// </summary>
public sealed class FourClientTests(DaemonFixture daemon, ITestOutputHelper output) : IClassFixture<DaemonFixture>
{
    private const int Clients = 4;

    /// <summary>Calls of a client from one count of the buffers to the next.</summary>
    private const int Round = 250;
    private static readonly string[] Wanted =
        ["QBUF None", "DQBUF None", "DQBUF hurried None", "DQBUF given up None", "STREAMON None", "kill None",
            "close None", "mmap None", "EXPBUF None", "poll None", "read None", "write None"];
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    [Theory]
    [InlineData("6.1", 10_000)]
    [InlineData("6.12", 10_000)]
    public async Task Random_calls_of_four_clients_lose_no_buffer_and_leak_no_pin(string profile, int few)
    {
        var (seed, steps) = (Given("FRAMEPIN_SEED") ?? Random.Shared.Next(), Given("FRAMEPIN_STEPS") ?? few);
        output.WriteLine($"seed {seed}; FRAMEPIN_SEED={seed} repeats it; FRAMEPIN_STEPS={steps}: calls");
        var bugs = new ConcurrentQueue<Exception>();
        await using var rig = await VividRig.CreateAsync(daemon, profile, new VividOptions { FramesPerSecond = 0 });
        VividDriver[] drivers =
        [
            rig.Driver,
            await rig.ServeAsync("video1", new VividOptions { FramesPerSecond = 500, IsOutput = true }),
        ];
        foreach (var driver in drivers) driver.BugFound = bugs.Enqueue;
        await using (var second = await rig.OpenAsync("video1", rig.SpaceName))
            await second.SetFormatAsync("YUYV", 64, 64);
        await rig.Device.SetFormatAsync("YUYV", 64, 64);
        var free = rig.Machine.Statistics().FreeFrames;
        var dmaBufs = new ConcurrentDictionary<string, byte>(StringComparer.Ordinal);
        var clients = new List<FuzzClient>();
        for (var i = 0; i < Clients; i++) clients.Add(await FuzzClient.CreateAsync(rig, seed + i, dmaBufs));
        var time = Stopwatch.StartNew();
        var (made, rounds) = (0, 0);
        // Longer where chance kept something from being called with success.
        while (made < steps || (made < 10 * steps && Missing(clients).Count > 0))
        {
            await Task.WhenAll(clients.Select(client => Task.Run(() => client.RunAsync(Round))));
            (made, rounds) = (made + (Clients * Round), rounds + 1);
            foreach (var client in clients) await client.CheckAsync();
            foreach (var driver in drivers) await CountAsync(driver);
            Assert.Empty(bugs);
        }

        output.WriteLine($"{made} calls and {rounds} counts in {time.Elapsed.TotalSeconds:f1} s");
        foreach (var client in clients) await client.DisposeAsync();
        foreach (var name in dmaBufs.Keys)
            await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = name });
        Report(clients);
        // A driver that nobody uses works on: the rig counts vectors, pins and frames behind this.
        Assert.Equal(2U, (await rig.Device.RequestBuffersAsync(2, (uint)Vb2Memory.Mmap)).Answer.Count);
        Assert.Equal(Errno.None, (await rig.Device.RequestBuffersAsync(0, (uint)Vb2Memory.Mmap)).Errno);
        Assert.Equal(0, rig.Vectors);
        Assert.Equal(free, rig.Machine.Statistics().FreeFrames);
    }

    private static int? Given(string variable) =>
        int.TryParse(Environment.GetEnvironmentVariable(variable), CultureInfo.InvariantCulture, out var given)
            ? given
            : null;

    /// <summary>
    /// Each buffer is in one place of the driver's books. What the queue gave to the driver the driver has, once the
    /// frame at work is done.
    /// </summary>
    private async Task CountAsync(VividDriver driver)
    {
        using var patience = new CancellationTokenSource(Patience);
        var books = await driver.Queue.AuditAsync(patience.Token);
        while (books.Active != driver.HeldBuffers && !patience.IsCancellationRequested)
        {
            await Task.Yield();
            books = await driver.Queue.AuditAsync(CancellationToken.None);
        }

        Assert.Empty(books.Findings);
        Assert.True(books.Active == driver.HeldBuffers, $"{books}, and the driver holds {driver.HeldBuffers}");
        Assert.Equal(driver.Queue.Count, books.All);
    }

    private static Dictionary<string, int> Seen(List<FuzzClient> clients) =>
        clients.SelectMany(client => client.Seen).GroupBy(pair => pair.Key, StringComparer.Ordinal)
            .OrderBy(group => group.Key, StringComparer.Ordinal)
            .ToDictionary(group => group.Key, group => group.Sum(pair => pair.Value), StringComparer.Ordinal);

    /// <summary>What was not called with success yet.</summary>
    private static List<string> Missing(List<FuzzClient> clients) => [.. Wanted.Except(Seen(clients).Keys)];

    private void Report(List<FuzzClient> clients)
    {
        output.WriteLine(string.Join(", ", Seen(clients).Select(pair => $"{pair.Value} {pair.Key}")));
        Assert.Empty(Missing(clients));
    }
}
