using System.CommandLine;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.Vivid;
using FramePin.V1;

namespace FramePin.Cli;

/// <summary>Capture in one go: an application with buffers of its own that takes frames from a video node.</summary>
internal sealed class CaptureCommand(CommandLine line)
{
    private readonly Argument<string> _node = new("node") { Description = "Such as video0." };
    private readonly Option<int> _frames =
        new("--frames", "-n") { Description = "How many.", DefaultValueFactory = _ => 10 };

    private readonly Option<int> _width = new("--width") { Description = "Pixels.", DefaultValueFactory = _ => 640 };
    private readonly Option<int> _height = new("--height") { Description = "Pixels.", DefaultValueFactory = _ => 480 };
    private readonly Option<string> _format =
        new("--format") { Description = string.Join(", ", PixelFormat.Codes), DefaultValueFactory = _ => "YUYV" };

    private readonly Option<int> _buffers =
        new("--buffers") { Description = "Buffers in turn.", DefaultValueFactory = _ => 4 };

    private readonly Option<double> _rate =
        new("--fps") { Description = "Frames a second; 0: as fast as it goes.", DefaultValueFactory = _ => 0 };

    private readonly Option<Pattern> _pattern = new("--pattern") { Description = "What the driver draws." };
    private readonly Option<int> _movement =
        new("--movement") { Description = "Pixels that the pattern moves each frame.", DefaultValueFactory = _ => 2 };

    private readonly Option<bool> _check = new("--check")
    {
        Description = "Compare every byte of every frame with the pattern. Ends with 1 when one differs.",
    };

    private readonly Option<int?> _expected = new("--check-movement")
    {
        Description = "Movement that the check expects; as --movement when absent.",
        Hidden = true,
    };

    private readonly Option<bool> _fresh =
        new("--fresh") { Description = "Another address each time, so that the driver pins every frame anew." };

    private readonly Option<bool> _huge = new("--huge") { Description = "Buffers in huge pages (MADV_HUGEPAGE)." };
    private readonly Option<string?> _save = new("--save")
    {
        Description = "Save frames: FILE.png or FILE.raw; %d becomes the frame's number, without it only the last is "
            + "kept.",
    };

    private readonly Option<string> _memory = DriverCommands.CreateMemory();
    private readonly Option<double> _ttl = new("--ttl")
    {
        Description = "Seconds after which everything of a dead application is released.",
        DefaultValueFactory = _ => 10,
    };

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
        var pixels = PixelFormat.Find(chosen, (int)set.Width, (int)set.Height)
            ?? throw new IOException($"the driver has no {parsed.GetValue(_format)}: it chose {chosen}");
        return new TestPattern(pixels, pattern, parsed.GetValue(_expected) ?? movement);
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
