using System.CommandLine;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.Vivid;
using FramePin.V1;

namespace FramePin.Cli;

/// <summary>Capture in one go: an application with buffers of its own that takes frames from a video node.</summary>
internal sealed class CaptureCommand(CommandLine line)
{
    /// <summary>Pixels a side: as many as struct v4l2_frmsizeenum's drivers are asked for.</summary>
    private const int MostPixels = 65_535;

    /// <summary>
    /// The largest queue of any node: vivid's capture queue since 6.12 (vivid-core.h: MAX_VID_CAP_BUFFERS). Others take
    /// fewer, and say how many.
    /// </summary>
    private const int MostBuffers = 64;

    private readonly Argument<string> _node = new("node") { Description = "Such as video0." };
    private readonly Option<int> _frames = Numbers.Option("--frames", "How many:", 10, 1, int.MaxValue, "-n");
    private readonly Option<int> _width = Numbers.Option("--width", "Pixels:", 640, 1, MostPixels);
    private readonly Option<int> _height = Numbers.Option("--height", "Pixels:", 480, 1, MostPixels);
    private readonly Option<string> _format = CreateFormat();
    private readonly Option<int> _buffers = Numbers.Option("--buffers", "Buffers in turn:", 4, 1, MostBuffers);
    private readonly Option<double> _rate = Numbers.Option(
        "--fps", "Frames a second; 0: as fast as it goes;", 0d, 0, DriverCommands.MostFramesPerSecond);

    private readonly Option<Pattern> _pattern = new("--pattern") { Description = "What the driver draws." };
    private readonly Option<int> _movement = Numbers.Option(
        "--movement", "Pixels that the pattern moves each frame:", 2, -MostPixels, MostPixels);

    private readonly Option<bool> _check = new("--check")
    {
        Description = "Compare every byte of every frame with the pattern. Ends with 1 when one differs.",
    };

    private readonly Option<int?> _expected = CreateExpected();

    private readonly Option<bool> _fresh =
        new("--fresh") { Description = "Another address each time, so that the driver pins every frame anew." };

    private readonly Option<bool> _huge = new("--huge") { Description = "Buffers in huge pages (MADV_HUGEPAGE)." };
    private readonly Option<string?> _save = CreateSave();

    private readonly Option<string> _memory = DriverCommands.CreateMemory();
    private readonly Option<double> _ttl = DriverCommands.CreateTtl(
        "Seconds after which everything of a dead application is released:");

    public Command Create() => line.Create(
        "capture", "Captures frames into USERPTR buffers of an address space of its own.",
        "v4l2 capture video0 --frames 100 --width 1920 --height 1080 --check --save frame.png",
        [
            _node, _frames, _width, _height, _format, _buffers, _rate, _pattern, _movement, _check, _expected, _fresh,
            _huge, _save, _memory, _ttl,
        ],
        RunAsync);

    private async Task RunAsync(ParseResult parsed, FramePinClient client, Output output, CancellationToken cancelled)
    {
        var machine = DriverCommands.MachineName(line, parsed);
        await using var lease = await FramePinLease.OpenAsync(
            client, machine, "framepin v4l2", TimeSpan.FromSeconds(parsed.GetValue(_ttl)),
            cancellationToken: cancelled);
        using var local = await AttachAsync(client, machine, parsed.GetValue(_memory)!, lease, cancelled);
        var space = await client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest { Parent = machine, Lease = lease.Name }, cancellationToken: cancelled);
        try
        {
            await using var device = await V4l2Device.OpenAsync(
                client, V4l2Commands.NodeName(machine, parsed.GetValue(_node)!), space.Name, lease.Name,
                cancellationToken: cancelled);
            var pattern = await SetUpAsync(device, parsed, cancelled);
            var capture = new CaptureRun(client, device, local, space.Name, Wanted(parsed), pattern);
            await capture.RunAsync(
                () => Console.Error.WriteLine("streaming"), () => Console.Error.WriteLine("streamed"), cancelled);
            capture.Report(output);
        }
        finally
        {
            await client.AddressSpaces.ExitAddressSpaceAsync(
                new ExitAddressSpaceRequest { Name = space.Name }, cancellationToken: default);
        }
    }

    private CaptureOptions Wanted(ParseResult parsed) => new()
    {
        Frames = parsed.GetValue(_frames),
        Buffers = parsed.GetValue(_buffers),
        IsChecked = parsed.GetValue(_check),
        IsFresh = parsed.GetValue(_fresh),
        IsHuge = parsed.GetValue(_huge),
        SavePath = parsed.GetValue(_save),
    };

    /// <summary>Sets format, controls and rate of a node. Returns the pattern that its frames are to show.</summary>
    private async Task<TestPattern> SetUpAsync(V4l2Device device, ParseResult parsed, CancellationToken cancelled)
    {
        var (_, set) = await device.SetFormatAsync(
            parsed.GetValue(_format)!, parsed.GetValue(_width), parsed.GetValue(_height), cancelled);
        var (pattern, movement) = (parsed.GetValue(_pattern), parsed.GetValue(_movement));
        V4l2Commands.Must(await device.SetControlAsync("test_pattern", (int)pattern, cancelled), "test_pattern");
        V4l2Commands.Must(
            await device.SetControlAsync("horizontal_movement", movement, cancelled), "horizontal_movement");
        V4l2Commands.Must(await device.SetFrameRateAsync(parsed.GetValue(_rate), cancelled), "frame rate");
        var chosen = V4l2.Name(set.PixelFormat);
        var wanted = parsed.GetValue(_format)!;
        var pixels = chosen == wanted ? PixelFormat.Find(chosen, (int)set.Width, (int)set.Height) : null;
        if (pixels is null) throw new ErrnoException($"the driver has no {wanted}: it chose {chosen}");
        var (width, height) = (parsed.GetValue(_width), parsed.GetValue(_height));
        if (pixels.Width != width || pixels.Height != height)
            Console.Error.WriteLine($"the driver has no {width}x{height}: it chose {pixels.Width}x{pixels.Height}");
        return new TestPattern(pixels, pattern, parsed.GetValue(_expected) ?? movement);
    }

    private static Option<int?> CreateExpected()
    {
        var expected = Numbers.Optional(
            "--check-movement", "Movement that the check expects; as --movement when absent;", -MostPixels, MostPixels);
        expected.Hidden = true;
        return expected;
    }

    private static Option<string> CreateFormat()
    {
        var format = new Option<string>("--format")
        {
            Description = string.Join(", ", PixelFormat.Codes),
            DefaultValueFactory = _ => "YUYV",
        };
        format.AcceptOnlyFromAmong([.. PixelFormat.Codes]);
        return format;
    }

    private static Option<string?> CreateSave()
    {
        var save = new Option<string?>("--save")
        {
            Description = "Save frames: FILE.png or FILE.raw; %d becomes the frame's number, without it only the last "
                + "is kept.",
        };
        save.Validators.Add(result =>
        {
            var path = result.GetValueOrDefault<string>();
            var folder = Path.GetDirectoryName(Path.GetFullPath(path is { Length: > 0 } ? path : "."));
            if (!Pictures.IsKnown(path ?? "")) result.AddError($"--save: '{path}' ends in neither .png nor .raw");
            else if (!Directory.Exists(folder)) result.AddError($"--save: there is no folder {folder}");
        });
        return save;
    }

    private static async Task<LocalMachine?> AttachAsync(
        FramePinClient client, string machine, string memory, FramePinLease lease, CancellationToken cancelled)
    {
        if (memory == "remote") return null;
        try
        {
            return await LocalMachine.AttachAsync(client, machine, lease.Name, cancellationToken: cancelled);
        }
        catch (Exception exception) when (memory == "auto" && DriverCommands.IsNoAttachment(exception))
        {
            Console.Error.WriteLine($"pages go by gRPC: {exception.Message}");
            return null;
        }
    }
}
