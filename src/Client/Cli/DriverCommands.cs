using System.CommandLine;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.ExynosG2d;
using FramePin.Drivers.OmapVout;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Cli;

/// <summary>Driver processes: each serves a node of a machine until it is ended.</summary>
internal static class DriverCommands
{
    private static readonly Option<string?> Node =
        new("--node") { Description = "Node that applications open; the driver's usual one when absent." };

    private static readonly Option<double> Ttl = CreateTtl("Seconds after which a dead driver's pins are released:");

    private static readonly Option<string> Memory = CreateMemory();

    /// <summary>More than any clock of a driver divides.</summary>
    public const double MostFramesPerSecond = 100_000;

    public static IEnumerable<Command> Create(CommandLine line)
    {
        yield return Drivers(line);
        yield return new Command(
            "drive", "Runs a driver as this process, until it is ended (Ctrl-C, SIGTERM).\n\nExamples:\n"
            + "  framepin drive vivid --node video0\n  framepin drive vivid --node video1 --output-node\n"
            + "  framepin drive exynos-g2d")
        {
            Vivid(line),
            line.Create(
                "omap-vout", "The OMAP video output, as kernels up to 4.9 have it.", "drive omap-vout --node video1",
                [Node, Ttl, Memory], (parsed, client, output, cancelled) => ServeAsync(
                    line, "video1", kernel => new OmapVoutDriver(kernel), parsed, client, output, cancelled)),
            line.Create(
                "exynos-g2d", "The Exynos 2D engine.", "drive exynos-g2d", [Node, Ttl, Memory],
                (parsed, client, output, cancelled) => ServeAsync(
                    line, "g2d", kernel => new G2dDriver(kernel), parsed, client, output, cancelled)),
        };
    }

    private static Command Drivers(CommandLine line)
    {
        return line.Create("drivers", "Lists the nodes that driver processes serve.", "drivers -m m1", [],
            async (parsed, client, output, cancelled) =>
            {
                var all = await Pages.AllAsync(
                    async token => await client.Drivers.ListDriversAsync(
                        new ListDriversRequest
                        {
                            Parent = MachineName(line, parsed),
                            PageSize = Pages.Largest,
                            PageToken = token,
                        },
                        cancellationToken: cancelled),
                    page => page.NextPageToken,
                    (all, page) => all.Drivers.AddRange(page.Drivers));
                output.WriteTable(all, ["node", "driver", "open files", "calls"],
                    all.Drivers.Select(driver => new[]
                    {
                        Output.Name(driver.Name), driver.Driver_, $"{driver.OpenFiles}", $"{driver.Calls}",
                    }));
            });
    }

    private static Command Vivid(CommandLine line)
    {
        var isOutput = new Option<bool>("--output-node") { Description = "Shows pictures instead of making them." };
        var allocator = new Option<VividAllocator>(
            "--allocator")
        { Description = "Vmalloc, or DmaContig (which has no USERPTR)." };
        var planes = new Option<bool>("--multiplanar") { Description = "Offers the multi-planar API." };
        var rate = Numbers.Option(
            "--fps", "Frames a second; 0: as fast as buffers come;", 30d, 0, MostFramesPerSecond);
        return line.Create(
            "vivid", "The virtual video test driver.", "drive vivid --node video0 --fps 0",
            [Node, Ttl, Memory, isOutput, allocator, planes, rate], (parsed, client, output, cancelled) =>
            {
                var options = new VividOptions
                {
                    IsOutput = parsed.GetValue(isOutput),
                    Allocator = parsed.GetValue(allocator),
                    IsMultiplanar = parsed.GetValue(planes),
                    FramesPerSecond = parsed.GetValue(rate),
                };
                return ServeAsync(
                    line, "video0", kernel => new VividDriver(kernel, options), parsed, client, output, cancelled);
            });
    }

    private static async Task ServeAsync(
        CommandLine line, string usual, Func<DriverKernel, DriverModule> make, ParseResult parsed,
        FramePinClient client, Output output, CancellationToken cancelled)
    {
        var machine = MachineName(line, parsed);
        var name = parsed.GetValue(Node) ?? usual;
        await using var kernel = await OpenKernelAsync(
            client, machine, name, parsed.GetValue(Memory)!, TimeSpan.FromSeconds(parsed.GetValue(Ttl)), cancelled);
        await using var driver = make(kernel);
        driver.BugFound = bug => Console.Error.WriteLine($"a call ended by a bug of the driver: {bug}");
        using var ends = CancellationTokenSource.CreateLinkedTokenSource(cancelled, kernel.Lost);
        try
        {
            await DriverServer.RunAsync(client, machine, name, driver, Ready, ends.Token);
            Console.Error.WriteLine("the daemon ended the driver's stream");
        }
        catch (OperationCanceledException) when (cancelled.IsCancellationRequested)
        {
            // Ended by its user.
        }
        catch (Exception exception) when (exception is OperationCanceledException
            or FramePinException { Reason: "LEASE_NOT_FOUND" })
        {
            Console.Error.WriteLine("the daemon took this driver for dead and released its pins: start it again");
            output.HasFindings = true;
        }

        void Ready() =>
            Console.WriteLine(
                $"{driver.Name} serves {machine}/drivers/{name}, "
                + (kernel.IsLocal ? "pages mapped" : "pages by gRPC"));
    }

    /// <summary>Time that a lease outlives the last sign of its owner: a tenth of a second to an hour.</summary>
    public static Option<double> CreateTtl(string description) => Numbers.Option("--ttl", description, 10d, 0.1, 3600);

    /// <summary>How a process reaches pages.</summary>
    public static Option<string> CreateMemory()
    {
        var memory = new Option<string>("--memory")
        {
            Description =
                "local: map the pages (needs framepind --attach-socket); remote: by gRPC; auto: local where it can be "
                + "had.",
            DefaultValueFactory = _ => "auto",
        };
        memory.AcceptOnlyFromAmong("auto", "local", "remote");
        return memory;
    }

    public static string MachineName(CommandLine line, ParseResult parsed)
    {
        var name = parsed.GetValue(line.Machine)!;
        return name.StartsWith("machines/", StringComparison.Ordinal) ? name : $"machines/{name}";
    }

    private static async Task<DriverKernel> OpenKernelAsync(
        FramePinClient client, string machine, string owner, string memory, TimeSpan ttl, CancellationToken cancelled)
    {
        if (memory == "remote")
            return await DriverKernel.OpenAsync(client, machine, owner, isLocal: false, ttl, cancelled);
        try
        {
            return await DriverKernel.OpenAsync(client, machine, owner, isLocal: true, ttl, cancelled);
        }
        catch (Exception exception) when (memory == "auto" && IsNoAttachment(exception))
        {
            Console.Error.WriteLine($"pages go by gRPC: {exception.Message}");
            return await DriverKernel.OpenAsync(client, machine, owner, isLocal: false, ttl, cancelled);
        }
    }

    /// <summary>The daemon is elsewhere, has no attach socket, or does not let this user attach.</summary>
    public static bool IsNoAttachment(Exception exception) =>
        exception is System.Net.Sockets.SocketException or UnauthorizedAccessException
        || Failures.RefusalOf(exception) is { StatusCode: StatusCode.FailedPrecondition };
}
