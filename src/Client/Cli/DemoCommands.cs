using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using FramePin.Cli.Telemetry;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.V1;
using OpenTelemetry;
using OpenTelemetry.Resources;
using OpenTelemetry.Trace;
using Spectre.Console;
using File = System.IO.File;

namespace FramePin.Cli;

/// <summary>
/// The demo: a daemon, an application process that owns frame buffers and checks them, and a driver process that pins
/// them, writes a moving pattern as a device would, and unpins.
/// </summary>
/// <remarks>
/// The three speak through the daemon; the demo itself only passes one-line notes between driver and application:
/// "filled N" and "checked N". A buffer is filled again only after it was checked.
/// </remarks>
internal static class DemoCommands
{
    private const int Buffers = 4;
    private const int PagesPerBuffer = 75;

    /// <summary>Frames until the code of all three processes is compiled and their connections are up.</summary>
    private const int WarmUpFrames = 200;
    private const ulong FirstBuffer = 0x1000_0000;
    private const int FrameBytes = PagesPerBuffer * 4096;

    public static IEnumerable<Command> Create(CommandLine line)
    {
        var seconds = Numbers.Option("--seconds", "How long frames are streamed:", 5, 1, 3600);
        var demo = new Command(
            "demo",
            "Runs daemon, application and driver as processes of their own and streams checked frames.\n\n"
            + "Example:\n  framepin demo --seconds 3")
        {
            seconds,
        };
        CommandLine.Refuse(
            demo, "has no meaning here: the demo has a daemon of its own", line.Endpoint, line.Machine,
            line.OutputForm);
        demo.SetAction((parsed, cancelled) => RunAsync(parsed.GetValue(seconds), cancelled));
        yield return demo;

        var endpoint = new Argument<string>("endpoint");
        var space = new Argument<string>("space");
        var application = new Command("demo-application") { endpoint, space };
        application.Hidden = true;
        application.SetAction(
            (parsed, cancelled) => ApplicationAsync(parsed.GetValue(endpoint)!, parsed.GetValue(space)!, cancelled));
        yield return application;
        var driver = new Command("demo-driver") { endpoint, space };
        driver.Hidden = true;
        driver.SetAction(
            (parsed, cancelled) => DriverAsync(parsed.GetValue(endpoint)!, parsed.GetValue(space)!, cancelled));
        yield return driver;
    }

    private static async Task<int> RunAsync(int seconds, CancellationToken cancelled)
    {
        using var receiver = new OtlpReceiver();
        var socket = Path.Combine(Path.GetTempPath(), $"framepin-demo-{Environment.ProcessId}.sock");
        var endpoint = $"unix:{socket}";
        using var daemon = Start(receiver, FindDaemon(), ["--socket", socket, "--default-profile", "6.18"]);
        try
        {
            while (await daemon.StandardOutput.ReadLineAsync(cancelled) is { } line)
                if (line == "framepind ready") break;
            using var client = FramePinClient.Connect(endpoint);
            var space = await client.AddressSpaces.CreateAddressSpaceAsync(
                new CreateAddressSpaceRequest(), cancellationToken: cancelled);
            using var application = Start(
                receiver, Environment.ProcessPath!, ["demo-application", endpoint, space.Name]);
            if (await application.StandardOutput.ReadLineAsync(cancelled) != "ready")
                return Fail("the application did not start");
            using var driver = Start(receiver, Environment.ProcessPath!, ["demo-driver", endpoint, space.Name]);
            var run = await StreamAsync(driver, application, TimeSpan.FromSeconds(seconds), cancelled);
            var (frames, bad) = (run.Frames, run.Bad);
            await driver.WaitForExitAsync(cancelled);
            await application.WaitForExitAsync(cancelled);
            var machine = await client.Machines.GetMachineAsync(new GetMachineRequest(), cancellationToken: cancelled);
            var audit = await client.Machines.AuditMachineAsync(
                new AuditMachineRequest(), cancellationToken: cancelled);
            var leaked = machine.Statistics.PinsAcquired - machine.Statistics.PinsReleased;
            Console.WriteLine($"frames        {frames}, {run.PerSecond:F0} a second, {bad} wrong");
            Console.WriteLine($"pages pinned  {machine.Statistics.PinsAcquired}");
            var findings = audit.Findings.Count == 0 ? "clean" : string.Join("; ", audit.Findings);
            Console.WriteLine($"leaked pins   {leaked}, audit {findings}");
            await PrintTrace(receiver, run.WarmSince, cancelled);
            return bad == 0 && leaked == 0 && audit.Findings.Count == 0 && frames > 0
                ? CommandLine.Ok
                : CommandLine.Refused;
        }
        finally
        {
            if (!daemon.HasExited)
                Process.Start("kill", ["-TERM", daemon.Id.ToString(CultureInfo.InvariantCulture)])?.WaitForExit();
            await daemon.WaitForExitAsync(CancellationToken.None);
            File.Delete(socket);
        }
    }

    /// <summary>What a stream came to. The rate is that after the first frames, which compile the code.</summary>
    /// <param name="Frames">Frames that were checked, the first ones included.</param>
    /// <param name="Bad">Frames of them that were wrong.</param>
    /// <param name="PerSecond">Frames a second, the first ones left out.</param>
    /// <param name="WarmSince">When the first frames were done, in nanoseconds of Unix time.</param>
    private readonly record struct Streamed(int Frames, int Bad, double PerSecond, ulong WarmSince);

    /// <summary>Passes the notes between driver and application: first until both are warm, then until the time is
    /// up.</summary>
    private static async Task<Streamed> StreamAsync(
        Process driver, Process application, TimeSpan time, CancellationToken cancelled)
    {
        var (frames, bad, warmSince) = (0, 0, 0UL);
        var watch = new Stopwatch();
        await AnsiConsole.Progress().AutoClear(true).StartAsync(async context =>
        {
            var bar = context.AddTask("streaming frames", maxValue: time.TotalSeconds);
            for (var i = 0; i < Buffers; i++) await driver.StandardInput.WriteLineAsync($"fill {i}");
            var inFlight = Buffers;
            while (inFlight > 0)
            {
                var filled = await driver.StandardOutput.ReadLineAsync(cancelled)
                    ?? throw new IOException("the driver ended early");
                await application.StandardInput.WriteLineAsync(filled);
                var verdict = await application.StandardOutput.ReadLineAsync(cancelled)
                    ?? throw new IOException("the application ended early");
                frames++;
                if (!verdict.StartsWith("checked ", StringComparison.Ordinal)) bad++;
                if (frames == WarmUpFrames)
                {
                    warmSince = (ulong)(TimeProvider.System.GetUtcNow() - DateTimeOffset.UnixEpoch).Ticks * 100;
                    watch.Start();
                }

                bar.Value = watch.Elapsed.TotalSeconds;
                if (watch.Elapsed < time) await driver.StandardInput.WriteLineAsync($"fill {frames + Buffers - 1}");
                else inFlight--;
            }

            driver.StandardInput.Close();
            application.StandardInput.Close();
        });
        return new Streamed(frames, bad, (frames - WarmUpFrames) / watch.Elapsed.TotalSeconds, warmSince);
    }

    /// <summary>Maps and touches the buffers, then checks each frame that it is told of.</summary>
    private static async Task<int> ApplicationAsync(string endpoint, string space, CancellationToken cancelled)
    {
        using var client = FramePinClient.Connect(endpoint);
        var batch = new CallBatchRequest { AddressSpace = space };
        batch.Calls.Add(
            new MemoryCall
            {
                Mmap = new MmapCall
                {
                    Address = FirstBuffer,
                    Length = Buffers * FrameBytes,
                    Prot = 3,
                    Flags = 0x32
                }
            });
        batch.Calls.Add(
            new MemoryCall
            {
                Touch = new TouchCall
                {
                    Address = FirstBuffer,
                    Pages = Buffers * PagesPerBuffer,
                    Write = true
                }
            });
        await client.AddressSpaces.CallBatchAsync(batch, cancellationToken: cancelled);
        Console.WriteLine("ready");
        var memory = new RemoteFrameMemory(client);
        var actual = new byte[FrameBytes];
        var expected = new byte[FrameBytes];
        while (await Console.In.ReadLineAsync(cancelled) is { } note)
        {
            var frame = int.Parse(note.Split(' ')[1], CultureInfo.InvariantCulture);
            await memory.ReadAsync(space, AddressOf(frame), actual, cancelled);
            Draw(expected, frame);
            Console.WriteLine($"{(actual.AsSpan().SequenceEqual(expected) ? "checked" : "wrong")} {frame}");
        }

        return CommandLine.Ok;
    }

    /// <summary>For each buffer to fill: pin, write the pattern into the frames, unpin dirty.</summary>
    private static async Task<int> DriverAsync(string endpoint, string space, CancellationToken cancelled)
    {
        using var activities = new ActivitySource("FramePin.Demo");
        using var tracing = Sdk.CreateTracerProviderBuilder()
            .ConfigureResource(resource => resource.AddService("demo-driver"))
            .AddSource("FramePin.Demo", FramePinClient.ActivitySourceName, DriverServer.ActivitySourceName)
            .AddOtlpExporter().Build();
        using var client = FramePinClient.Connect(endpoint);
        var memory = OpenFrames(client);
        var pattern = new byte[FrameBytes];
        while (await Console.In.ReadLineAsync(cancelled) is { } note)
        {
            var frame = int.Parse(note.Split(' ')[1], CultureInfo.InvariantCulture);
            using (activities.StartActivity("fill frame"))
            {
                var pin = await client.Pinning.PinAsync(
                    new PinRequest
                    {
                        AddressSpace = space,
                        Start = AddressOf(frame),
                        Pages = PagesPerBuffer,
                        Write = true,
                        AllOrNothing = true
                    },
                    cancellationToken: cancelled);
                Draw(pattern, frame);
                await memory.WriteAsync(pin.FrameVector, 0, pattern, cancelled);
                await client.Pinning.UnpinAsync(
                    new UnpinRequest { FrameVector = pin.FrameVector, Dirty = true }, cancellationToken: cancelled);
            }

            Console.WriteLine($"filled {frame}");
        }

        return CommandLine.Ok;
    }

    /// <summary>How the driver reaches frames: over the wire, or whatever else stands behind the interface.</summary>
    private static IFrameMemory OpenFrames(FramePinClient client) => new RemoteFrameMemory(client);

    private static ulong AddressOf(int frame) => FirstBuffer + ((ulong)(frame % Buffers) * FrameBytes);

    /// <summary>A bar that moves by one column a frame over a ramp, and the frame's number in front.</summary>
    private static void Draw(byte[] buffer, int frame)
    {
        const int width = 640;
        for (var i = 0; i < buffer.Length; i++)
        {
            var column = i % width;
            buffer[i] = (column + width - (frame % width)) % width < 32 ? (byte)255 : (byte)(column + (i / width));
        }

        BitConverter.TryWriteBytes(buffer, frame);
    }

    /// <summary>Prints the last whole trace of a frame that was filled when everything was warm.</summary>
    private static async Task PrintTrace(OtlpReceiver receiver, ulong warmSince, CancellationToken cancelled)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancelled);
        patience.CancelAfter(TimeSpan.FromSeconds(10));
        var spans = await receiver.WaitAsync(all => LastWhole(all, warmSince) is not null, patience.Token);
        var last = LastWhole(spans, warmSince)!;
        var tree = new Tree($"trace {last.TraceId}");
        AddSpan(tree, last, [.. spans.Where(span => span.TraceId == last.TraceId)]);
        AnsiConsole.Write(tree);
    }

    /// <summary>The root of the last trace that has both sides of its unpin; null while none is whole.</summary>
    private static ReceivedSpan? LastWhole(IReadOnlyCollection<ReceivedSpan> spans, ulong since)
    {
        var whole = spans.Where(span => span.Name.EndsWith("/Unpin", StringComparison.Ordinal))
            .GroupBy(span => span.TraceId, StringComparer.Ordinal).Where(group => group.Count() >= 2)
            .Select(group => group.Key).ToHashSet(StringComparer.Ordinal);
        return spans.Where(span => span.Name == "fill frame" && span.Start >= since && whole.Contains(span.TraceId))
            .MaxBy(span => span.Start);
    }

    private static void AddSpan(IHasTreeNodes parent, ReceivedSpan span, IReadOnlyList<ReceivedSpan> all)
    {
        var micros = (span.End - span.Start) / 1000.0;
        var details = string.Join(' ', span.Attributes
            .Where(pair => pair.Key.StartsWith("framepin.", StringComparison.Ordinal)).Select(
                pair => $"{pair.Key["framepin.".Length..]}={pair.Value}"));
        var links = span.Links.Count > 0 ? $" → span {span.Links[0].SpanId}" : "";
        var node = parent.AddNode(Markup.Escape(string.Create(
            CultureInfo.InvariantCulture, $"{span.Service}: {span.Name} {micros:F0} µs {details}{links}")));
        foreach (var child in all.Where(candidate => candidate.ParentId == span.SpanId).OrderBy(
            candidate => candidate.Start))
            AddSpan(node, child, all);
    }

    private static Process Start(OtlpReceiver receiver, string program, string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        };
        start.Environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.Endpoint;
        start.Environment["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf";
        start.Environment["OTEL_BSP_SCHEDULE_DELAY"] = "500";
        return Process.Start(start) ?? throw new IOException($"cannot start {program}");
    }

    /// <summary>framepind: named by FRAMEPIND, beside this program, or where the build puts it.</summary>
    private static string FindDaemon()
    {
        string?[] candidates =
        [
            Environment.GetEnvironmentVariable("FRAMEPIND"),
            Path.Combine(AppContext.BaseDirectory, "framepind"),
            Path.Combine(AppContext.BaseDirectory.Replace("FramePin.Cli", "FramePin.Server", StringComparison.Ordinal),
                "framepind"),
        ];
        return candidates.FirstOrDefault(File.Exists)
            ?? throw new IOException("framepind not found: build the solution, or set FRAMEPIND to its path");
    }

    private static int Fail(string message)
    {
        Console.Error.WriteLine(message);
        return CommandLine.Refused;
    }
}
