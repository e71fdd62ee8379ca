using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using File = System.IO.File;

namespace FramePin.Benchmarks;

/// <summary>
/// Frames from a driver's process to an application's: what the daemon's processor time is, and what a handover takes
/// against copies.
/// </summary>
internal static class DriverFrames
{
    private const ulong At = 0x1000_0000;
    private const int StreamRounds = 13;
    private const int WarmRounds = 3;
    private const int WarmFrames = 4000;
    private const int PageRounds = 7;
    private const int Rate = 30;
    private const int FrameBytes = 4 << 20;
    private const int FramePages = FrameBytes / 4096;
    private const ulong BytesVga = 640 * 480 * 2;
    private const ulong Bytes4K = 3840 * 2160 * 2;

    /// <summary>Measures everything; a line a figure.</summary>
    /// <param name="frames">Frames of each stream.</param>
    /// <param name="rounds">Rounds of each single handover.</param>
    public static async Task<List<string>> RunAsync(int frames, int rounds)
    {
        var socket = Path.Combine(Path.GetTempPath(), $"framepin-bench-{Environment.ProcessId}.sock");
        using var daemon = Start("FramePin.Server", "framepind", "--socket", socket, "--attach-socket",
            socket + ".attach", "--default-profile", "6.18");
        try
        {
            while (await daemon.StandardOutput.ReadLineAsync() is { } line)
                if (line == "framepind ready") break;
            var endpoint = $"unix:{socket}";
            var lines = new List<string>();
            using (var vivid = Start(
                "FramePin.Cli", "framepin", "drive", "vivid", "--fps", "0", "--endpoint", endpoint))
            {
                await vivid.StandardOutput.ReadLineAsync();
                lines.AddRange(StreamLines(daemon, endpoint, frames));
                await EndAsync(vivid);
            }

            using var client = FramePinClient.Connect(endpoint);
            foreach (var isDrawn in new[] { false, true })
                foreach (var isHuge in new[] { false, true })
                    lines.Add(await PageLineAsync(daemon, client, isHuge, isDrawn, isDrawn ? frames / 4 : 4 * frames));
            lines.AddRange(await HandoverLinesAsync(client, rounds));
            var statistics = (await client.Machines.GetMachineAsync(new GetMachineRequest())).Statistics;
            lines.Add(Line($"leaked pins: {statistics.PinsAcquired - statistics.PinsReleased}"));
            return lines;
        }
        finally
        {
            await EndAsync(daemon);
        }
    }

    private static IEnumerable<string> StreamLines(Process daemon, string endpoint, int frames)
    {
        // Warm: code of the daemon and of the driver, which is compiled anew some time after it was called often.
        for (var i = 0; i < WarmRounds; i++)
        {
            Capture(daemon, endpoint, 640, 480, WarmFrames, isFresh: true, isHuge: false, rate: 0);
            Capture(daemon, endpoint, 3840, 2160, WarmFrames / 10, isFresh: true, isHuge: false, rate: 0);
            Capture(daemon, endpoint, 640, 480, WarmFrames / 20, isFresh: true, isHuge: false, Rate);
        }

        // First at one rate, as cameras have it. Then as fast as it goes: there the larger picture comes at a lower
        // rate, and leaves colder caches.
        foreach (var rate in new[] { Rate, 0 })
        {
            foreach (var isHuge in new[] { false, true })
            {
                foreach (var isFresh in new[] { false, true })
                {
                    var pairs = new (double Small, double Large)[StreamRounds];
                    for (var i = 0; i < StreamRounds; i++)
                    {
                        var count = rate == 0 ? 4 * frames : frames;
                        pairs[i] = (Capture(daemon, endpoint, 640, 480, count, isFresh, isHuge, rate),
                            Capture(daemon, endpoint, 3840, 2160, count, isFresh, isHuge, rate));
                    }

                    yield return StreamLine(pairs, rate, isHuge, isFresh);
                }
            }
        }
    }

    private static string StreamLine((double Small, double Large)[] pairs, int rate, bool isHuge, bool isFresh)
    {
        var (small, large) = (Median([.. pairs.Select(pair => pair.Small)]),
            Median([.. pairs.Select(pair => pair.Large)]));
        var what = Line(
            $"daemon's time a frame, {(rate == 0 ? "as fast as it goes" : Line($"{rate} a second"))}, {(isHuge ? "huge" : "small")} pages, {(isFresh ? "pinned anew" : "kept pinned")}");
        var ratios = Sorted(pairs, static pair => pair.Large / pair.Small);
        var more = Sorted(pairs, static pair => (pair.Large - pair.Small) * 1000 * 4096 / (Bytes4K - BytesVga));
        return isFresh
            ? Line(
                $"{what}: 640x480 {small:F1} us, 3840x2160 {large:F1} us; a page more, ns: median {Of(more, 2):F1}, quartiles {Of(more, 1):F1} and {Of(more, 3):F1} of {pairs.Length} pairs (wanted: at most 10)")
            : Line(
                $"{what}: 640x480 {small:F1} us, 3840x2160 {large:F1} us; ratio: median {Of(ratios, 2):F2}, quartiles {Of(ratios, 1):F2} and {Of(ratios, 3):F2} of {pairs.Length} pairs (wanted: at most 1.3)");
    }

    private static double[] Sorted(
        (double Small, double Large)[] pairs, Func<(double Small, double Large), double> value)
    {
        var values = pairs.Select(value).ToArray();
        Array.Sort(values);
        return values;
    }

    /// <summary>A quartile of sorted values.</summary>
    private static double Of(double[] sorted, int quartile) => sorted[(sorted.Length - 1) * quartile / 4];

    /// <summary>Streams into another process; the daemon's processor time a frame, in microseconds.</summary>
    private static double Capture(
        Process daemon, string endpoint, int width, int height, int frames, bool isFresh, bool isHuge, int rate)
    {
        string[] more = [.. isFresh ? ["--fresh"] : Array.Empty<string>(), .. isHuge
            ? ["--huge"]
            : Array.Empty<string>()];
        using var application = Start(
            "FramePin.Cli", "framepin",
            ["v4l2", "capture", "video0", "--frames", Text(frames), "--width", Text(width), "--height", Text(height),
                "--fps", Text(rate), "--endpoint", endpoint, .. more]);
        // From the stream's start to its end: what maps and pins at first, and gives it all back at last, is not a
        // frame's.
        application.StandardError.ReadLine();
        var before = ProcessorClock.Of(daemon.Id);
        application.StandardError.ReadLine();
        var spent = ProcessorClock.Of(daemon.Id) - before;
        application.StandardOutput.ReadToEnd();
        application.WaitForExit();
        if (application.ExitCode != 0)
            throw new InvalidOperationException($"capture ended with {application.ExitCode}");
        return spent.TotalMicroseconds / frames;
    }

    /// <summary>
    /// Cost of a page in the daemon, all else alike: the driver fills as much of a small buffer as of a large one, 256
    /// bytes, or a picture of 16 MiB, which leaves the caches cold to whoever looks at page tables next. As fast as it
    /// goes.
    /// </summary>
    private static async Task<string> PageLineAsync(
        Process daemon, FramePinClient client, bool isHuge, bool isDrawn, int frames)
    {
        const ulong huge = 2UL << 20;
        var (small, large) = isDrawn ? (Bytes4K, 2 * Bytes4K) : (BytesVga, Bytes4K);
        var step = (large + huge - 1) & ~(huge - 1);
        var space = (await client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        var map = new MemoryCall { Mmap = new MmapCall { Address = At, Length = 4 * step, Prot = 3, Flags = 0x32 } };
        await client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space, Call = map });
        var advise =
            new MemoryCall { Madvise = new MadviseCall { Address = At, Length = 4 * step, Advice = isHuge ? 14 : 15 } };
        await client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space, Call = advise });
        await using var vivid = await ServedVivid.StartAsync(client);
        var times = new double[2, 2];
        await using (var device = await V4l2Device.OpenAsync(client, "machines/default/drivers/video0", space))
        {
            if (isDrawn) await device.SetFormatAsync("YUYV", 3840, 2160);
            else await device.SetFormatAsync("GREY", 16, 16);
            foreach (var isFresh in new[] { false, true })
            {
                var samples = new[] { new double[PageRounds], new double[PageRounds] };
                for (var round = -1; round < PageRounds; round++)
                {
                    for (var i = 0; i < 2; i++)
                    {
                        var time = await StreamAsync(
                            device, daemon, (uint)(i == 0 ? small : large), step, isFresh, frames);
                        if (round >= 0) samples[i][round] = time;
                    }
                }

                for (var i = 0; i < 2; i++) times[isFresh ? 1 : 0, i] = Median(samples[i]);
            }
        }

        await vivid.StopAsync();
        await client.AddressSpaces.ExitAddressSpaceAsync(new ExitAddressSpaceRequest { Name = space });
        var pages = (large - small) / 4096.0;
        return Line(
            $"daemon's time a frame, {(isDrawn ? "3840x2160 drawn" : "256 bytes drawn")} into {small / 4096} and {large / 4096} {(isHuge ? "huge" : "small")} pages: kept pinned {times[0, 0]:F1} and {times[0, 1]:F1} us, ratio {times[0, 1] / times[0, 0]:F2}; pinned anew {times[1, 0]:F1} and {times[1, 1]:F1} us, {(times[1, 1] - times[1, 0]) * 1000 / pages:F1} ns a page more (wanted: at most 10)");
    }

    private static async Task<double> StreamAsync(
        V4l2Device device, Process daemon, uint length, ulong step, bool isFresh, int frames)
    {
        await device.RequestBuffersAsync(2, (uint)Vb2Memory.UserPtr);
        var place = new uint[] { 0, 1 };
        for (var i = 0U; i < 2; i++) await device.QueueUserPtrAsync(i, At + (place[i] * step), length);
        await device.StreamOnAsync();
        var before = TimeSpan.Zero;
        for (var frame = -20; frame < frames; frame++)
        {
            if (frame == 0) before = ProcessorClock.Of(daemon.Id);
            var (_, buffer) = await device.DequeueAsync((uint)Vb2Memory.UserPtr);
            if (isFresh) place[buffer.Index] ^= 2;
            await device.QueueUserPtrAsync(buffer.Index, At + (place[buffer.Index] * step), length);
        }

        var spent = ProcessorClock.Of(daemon.Id) - before;
        await device.StreamOffAsync();
        await device.RequestBuffersAsync(0, (uint)Vb2Memory.UserPtr);
        return spent.TotalMicroseconds / frames;
    }

    private static async Task<List<string>> HandoverLinesAsync(FramePinClient client, int rounds)
    {
        var space = (await client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        var map =
            new MemoryCall { Mmap = new MmapCall { Address = At, Length = 2 * FrameBytes, Prot = 3, Flags = 0x32 } };
        await client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space, Call = map });
        await using var vivid = await ServedVivid.StartAsync(client);
        var handover = new double[rounds];
        await using (var device = await V4l2Device.OpenAsync(client, "machines/default/drivers/video0", space))
        {
            // A picture of 32 bytes in a buffer of 4 MiB: what is measured is the handing over, there and back, and not
            // the drawing.
            await device.SetFormatAsync("GREY", 16, 16);
            await device.RequestBuffersAsync(2, (uint)Vb2Memory.UserPtr);
            await device.QueueUserPtrAsync(0, At, FrameBytes);
            await device.StreamOnAsync();
            await device.DequeueAsync((uint)Vb2Memory.UserPtr);
            for (var i = -200; i < rounds; i++)
            {
                var begin = Stopwatch.GetTimestamp();
                await device.QueueUserPtrAsync(0, At, FrameBytes);
                await device.DequeueAsync((uint)Vb2Memory.UserPtr);
                if (i >= 0) handover[i] = Stopwatch.GetElapsedTime(begin).TotalMicroseconds;
            }

            await device.StreamOffAsync();
        }

        var first = await PinToFirstByteAsync(vivid.Kernel, space, rounds);
        var (grpc, socket, memory) = (await CopyOverGrpcAsync(client, space, Math.Min(rounds, 100)),
            CopyOverSocket(rounds), CopyInMemory(rounds));
        await vivid.StopAsync();
        await client.AddressSpaces.ExitAddressSpaceAsync(new ExitAddressSpaceRequest { Name = space });
        var pair = Median(handover);
        return
        [
            Line($"a frame of 4 MiB there and back (QBUF and DQBUF over the daemon, no copy): {pair:F0} us"),
            Line($"one copy of it over gRPC: {grpc:F0} us, ratio {pair / grpc:F3}"),
            Line($"one copy of it over a Unix socket: {socket:F0} us, ratio {pair / socket:F3}"),
            Line($"one memcpy of it: {memory:F0} us, ratio {pair / memory:F3}"),
            Line($"pin to first byte, {FramePages} resident pages (pin, map, store): {first:F0} us"),
        ];
    }

    private static async Task<double> PinToFirstByteAsync(DriverKernel kernel, string space, int rounds)
    {
        var ops = new VmallocMemOps(kernel);
        var times = new double[rounds];
        for (var i = -50; i < rounds; i++)
        {
            var begin = Stopwatch.GetTimestamp();
            var (_, memory) = await ops.GetUserPtrAsync(space, At, FrameBytes, DmaDirection.FromDevice);
            Store(memory!, (byte)i);
            if (i >= 0) times[i] = Stopwatch.GetElapsedTime(begin).TotalMicroseconds;
            await memory!.PutAsync();
        }

        return Median(times);
    }

    private static void Store(Vb2PlaneMemory memory, byte value)
    {
        memory.Mapping!.TryGetBytes(out var bytes);
        bytes[0] = value;
    }

    private static async Task<double> CopyOverGrpcAsync(FramePinClient client, string space, int rounds)
    {
        var remote = new RemoteFrameMemory(client);
        var buffer = new byte[FrameBytes];
        var times = new double[rounds];
        for (var i = -5; i < rounds; i++)
        {
            var begin = Stopwatch.GetTimestamp();
            await remote.ReadAsync(space, At, buffer);
            if (i >= 0) times[i] = Stopwatch.GetElapsedTime(begin).TotalMicroseconds;
        }

        return Median(times);
    }

    private static double CopyOverSocket(int rounds)
    {
        var path = Path.Combine(Path.GetTempPath(), $"framepin-copy-{Environment.ProcessId}.sock");
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen();
        using var sender = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        sender.Connect(new UnixDomainSocketEndPoint(path));
        using var receiver = listener.Accept();
        File.Delete(path);
        var (source, target, one) = (new byte[FrameBytes], new byte[FrameBytes], new byte[1]);
        var times = new double[rounds];
        var thread = new Thread(() =>
        {
            for (var i = -20; i < rounds; i++)
            {
                for (var have = 0; have < target.Length;)
                    have += receiver.Receive(target, have, target.Length - have, SocketFlags.None);
                receiver.Send(one);
            }
        });
        thread.Start();
        for (var i = -20; i < rounds; i++)
        {
            var begin = Stopwatch.GetTimestamp();
            for (var sent = 0; sent < source.Length;)
                sent += sender.Send(source, sent, source.Length - sent, SocketFlags.None);
            sender.Receive(one);
            if (i >= 0) times[i] = Stopwatch.GetElapsedTime(begin).TotalMicroseconds;
        }

        thread.Join();
        return Median(times);
    }

    private static double CopyInMemory(int rounds)
    {
        var (source, target) = (new byte[FrameBytes], new byte[FrameBytes]);
        var times = new double[rounds];
        for (var i = -20; i < rounds; i++)
        {
            var begin = Stopwatch.GetTimestamp();
            source.AsSpan().CopyTo(target);
            if (i >= 0) times[i] = Stopwatch.GetElapsedTime(begin).TotalMicroseconds;
        }

        return Median(times);
    }

    private static double Median(double[] values)
    {
        Array.Sort(values);
        return values[values.Length / 2];
    }

    private static Process Start(string project, string program, params string[] arguments)
    {
        var path = Path.Combine(
            AppContext.BaseDirectory.Replace("FramePin.Benchmarks", project, StringComparison.Ordinal), program);
        return Process.Start(
            new ProcessStartInfo(path, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
    }

    private static async Task EndAsync(Process process)
    {
        if (process.HasExited) return;
        Process.Start("kill", ["-TERM", Text(process.Id)]).WaitForExit();
        await process.WaitForExitAsync();
    }

    private static string Text(int value) => value.ToString(CultureInfo.InvariantCulture);

    private static string Line(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);

    /// <summary>A vivid node that this process serves, its pages mapped.</summary>
    private sealed class ServedVivid(DriverKernel kernel, VividDriver driver) : IAsyncDisposable
    {
        private readonly CancellationTokenSource _stop = new();
        private Task _serving = Task.CompletedTask;

        public DriverKernel Kernel { get; } = kernel;

        public static async Task<ServedVivid> StartAsync(FramePinClient client)
        {
            var kernel = await DriverKernel.OpenAsync(client, "machines/default", "bench", isLocal: true);
            var served = new ServedVivid(kernel, new VividDriver(kernel, new VividOptions { FramesPerSecond = 0 }));
            var ready = new TaskCompletionSource();
            served._serving = served.ServeAsync(client, ready.SetResult);
            await ready.Task;
            return served;
        }

        public async Task StopAsync()
        {
            await _stop.CancelAsync();
            await _serving.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }

        public async ValueTask DisposeAsync()
        {
            await StopAsync();
            await driver.DisposeAsync();
            await Kernel.DisposeAsync();
            _stop.Dispose();
        }

        private Task ServeAsync(FramePinClient client, Action ready) =>
            DriverServer.RunAsync(client, "machines/default", "video0", driver, ready, _stop.Token);
    }
}
