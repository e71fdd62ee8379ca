using System.Diagnostics;
using System.Globalization;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;
using Grpc.Health.V1;
using File = System.IO.File;

namespace FramePin.Benchmarks;

/// <summary>
/// Cost of the wire: medians of calls that alternate on one connection to a daemon process, spans on.
/// </summary>
internal sealed record WireRow(string What, double EmptyMicroseconds, double Microseconds)
{
    public double Ratio => Microseconds / EmptyMicroseconds;
}

/// <summary>Pairs of pin and unpin a second, unary with one call in flight against the batch stream.</summary>
internal sealed record StreamRow(double UnaryPairsPerSecond, double StreamPairsPerSecond)
{
    public double Ratio => StreamPairsPerSecond / UnaryPairsPerSecond;
}

/// <summary>A message there and back on a stream that waits for each answer: over gRPC, and as a local call.</summary>
internal sealed record LocalRow(double GrpcMicroseconds, double LocalMicroseconds)
{
    public double Ratio => LocalMicroseconds / GrpcMicroseconds;
}

internal static class WirePins
{
    private const ulong At = 0x1_0000_0000;
    private const int Pages = 512;
    private const int OperationsPerMessage = 512;

    /// <summary>Starts framepind with spans exported to nobody's collector, measures, ends it.</summary>
    public static async Task<(WireRow Pin, StreamRow Stream, LocalRow Local)> RunAsync(int rounds)
    {
        var socket = Path.Combine(Path.GetTempPath(), $"framepin-bench-{Environment.ProcessId}.sock");
        using var receiver = new FramePin.Cli.Telemetry.OtlpReceiver();
        using var daemon = StartDaemon(socket, receiver.Endpoint);
        try
        {
            while (await daemon.StandardOutput.ReadLineAsync() is { } line)
                if (line == "framepind ready") break;
            using var client = FramePinClient.Connect($"unix:{socket}", options => options.IsLocal = false);
            var space = await FillAsync(client);
            var pin = await MeasurePinAsync(client, space, rounds);
            var stream = await MeasureStreamAsync(client, space);
            using var near = FramePinClient.Connect($"unix:{socket}");
            return (pin, stream, await MeasureLocalAsync(client, near, space, rounds));
        }
        finally
        {
            Process.Start("kill", ["-TERM", daemon.Id.ToString(CultureInfo.InvariantCulture)]).WaitForExit();
            await daemon.WaitForExitAsync();
            File.Delete(socket);
        }
    }

    private static async Task<WireRow> MeasurePinAsync(FramePinClient client, string space, int rounds)
    {
        var health = new Health.HealthClient(client.Invoker);
        var empty = new double[rounds];
        var pins = new double[rounds];
        for (var i = -2000; i < rounds; i++)
        {
            var a = Stopwatch.GetTimestamp();
            await health.CheckAsync(new HealthCheckRequest());
            var b = Stopwatch.GetTimestamp();
            var pin = await client.Pinning.PinAsync(
                new PinRequest { AddressSpace = space, Start = At, Pages = Pages, Write = true });
            var c = Stopwatch.GetTimestamp();
            if (pin.Frames != Pages || pin.Runs.FirstPfns.Count < Pages / 2)
                throw new InvalidOperationException("pages are not scattered");
            await client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector });
            if (i < 0) continue;
            empty[i] = (b - a) * 1e6 / Stopwatch.Frequency;
            pins[i] = (c - b) * 1e6 / Stopwatch.Frequency;
        }

        return new WireRow("Pin of 512 scattered pages", Median(empty), Median(pins));
    }

    private static async Task<StreamRow> MeasureStreamAsync(FramePinClient client, string space)
    {
        const int unaryPairs = 5000;
        const int messages = 600;
        for (var i = 0; i < 1000; i++) await PairAsync(client, space);
        var started = Stopwatch.GetTimestamp();
        for (var i = 0; i < unaryPairs; i++) await PairAsync(client, space);
        var unary = unaryPairs / Stopwatch.GetElapsedTime(started).TotalSeconds;

        using var stream = client.Pinning.PinStream();
        var sequence = 0UL;
        await StreamPairs(stream, space, 100, () => ++sequence);
        started = Stopwatch.GetTimestamp();
        var pairs = await StreamPairs(stream, space, messages, () => ++sequence);
        var streamed = pairs / Stopwatch.GetElapsedTime(started).TotalSeconds;
        await stream.RequestStream.CompleteAsync();
        return new StreamRow(unary, streamed);
    }

    private static async Task<LocalRow> MeasureLocalAsync(
        FramePinClient remote, FramePinClient near, string space, int rounds)
    {
        using var far = remote.Pinning.PinStream();
        using var local = near.Pinning.PinStream();
        var times = new[] { new double[rounds], new double[rounds] };
        for (var i = -2000; i < rounds; i++)
        {
            for (var k = 0; k < 2; k++)
            {
                var stream = k == 0 ? far : local;
                var begin = Stopwatch.GetTimestamp();
                await stream.RequestStream.WriteAsync(
                    new PinBatch { Sequence = (ulong)(i + 2001), AddressSpace = space });
                await stream.ResponseStream.MoveNext(CancellationToken.None);
                if (i >= 0) times[k][i] = Stopwatch.GetElapsedTime(begin).TotalMicroseconds;
            }
        }

        return new LocalRow(Median(times[0]), Median(times[1]));
    }

    private static async Task PairAsync(FramePinClient client, string space)
    {
        var pin = await client.Pinning.PinAsync(
            new PinRequest { AddressSpace = space, Start = At, Pages = 1, Write = true });
        await client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector });
    }

    /// <summary>
    /// Each message pins anew and gives back what the message before it pinned; the next is sent while one is worked
    /// off.
    /// </summary>
    private static async Task<long> StreamPairs(
        AsyncDuplexStreamingCall<PinBatch, PinBatchResult> stream, string space, int messages, Func<ulong> next)
    {
        var pairs = 0L;
        var held = new Queue<ulong>();
        var inFlight = 0;
        for (var sent = 0; sent < messages || inFlight > 0;)
        {
            if (sent < messages && inFlight < 4)
            {
                var batch = new PinBatch { Sequence = next(), AddressSpace = space };
                for (var i = 0; i < OperationsPerMessage && held.Count > 0; i++)
                    batch.Operations.Add(new PinOperation { Unpin = held.Dequeue() });
                for (var i = 0; i < OperationsPerMessage; i++)
                    batch.Operations.Add(new PinOperation
                    {
                        Pin = new PinRange { Start = At + ((ulong)(i % Pages) << 12), Pages = 1, Write = true },
                    });
                await stream.RequestStream.WriteAsync(batch);
                sent++;
                inFlight++;
                continue;
            }

            await stream.ResponseStream.MoveNext(CancellationToken.None);
            inFlight--;
            foreach (var result in stream.ResponseStream.Current.Results)
            {
                if (result.Errno != 0) throw new InvalidOperationException($"errno {result.Errno}");
                if (result.Kind == FrameKind.Pages) held.Enqueue(result.FrameVector);
                else pairs++;
            }
        }

        // Frames still held are given back. They count with their pins.
        while (held.Count > 0)
        {
            var batch = new PinBatch { Sequence = next(), AddressSpace = space };
            for (var i = 0; i < OperationsPerMessage && held.Count > 0; i++)
                batch.Operations.Add(new PinOperation { Unpin = held.Dequeue() });
            await stream.RequestStream.WriteAsync(batch);
            await stream.ResponseStream.MoveNext(CancellationToken.None);
            pairs += stream.ResponseStream.Current.Results.Count;
        }

        return pairs;
    }

    /// <summary>Touches the pages in random order, so that neighbours lie on scattered frames.</summary>
    private static async Task<string> FillAsync(FramePinClient client)
    {
        var space = (await client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        var batch = new CallBatchRequest { AddressSpace = space };
        batch.Calls.Add(
            new MemoryCall { Mmap = new MmapCall { Address = At, Length = Pages * 4096, Prot = 3, Flags = 0x32 } });
        var order = Enumerable.Range(0, Pages).ToArray();
        new Random(12345).Shuffle(order);
        foreach (var page in order)
            batch.Calls.Add(
                new MemoryCall
                {
                    Touch = new TouchCall
                    {
                        Address = At + ((ulong)page << 12),
                        Pages = 1,
                        Write = true
                    }
                });
        await client.AddressSpaces.CallBatchAsync(batch);
        return space;
    }

    private static Process StartDaemon(string socket, string otlp)
    {
        var program = Path.Combine(
            AppContext.BaseDirectory.Replace(
                "FramePin.Benchmarks", "FramePin.Server", StringComparison.Ordinal), "framepind");
        var start = new ProcessStartInfo(
            program, ["--socket", socket, "--default-profile", "6.18"])
        { RedirectStandardOutput = true };
        start.Environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = otlp;
        start.Environment["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf";
        // Sampling as a busy service has it: one trace in a hundred, decided by the parent where there is one.
        start.Environment["OTEL_TRACES_SAMPLER"] = Environment.GetEnvironmentVariable("OTEL_TRACES_SAMPLER")
            ?? "parentbased_traceidratio";
        start.Environment["OTEL_TRACES_SAMPLER_ARG"] = "0.01";
        return Process.Start(start) ?? throw new IOException($"cannot start {program}");
    }

    private static double Median(double[] samples)
    {
        Array.Sort(samples);
        return samples[samples.Length / 2];
    }
}
