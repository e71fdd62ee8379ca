using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;

namespace FramePin.Cli;

/// <summary>
/// The application's side of a video node: the ioctls one by one on a file that stays open, and capture in one go.
/// </summary>
internal static class V4l2Commands
{
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;

    public static IEnumerable<Command> Create(CommandLine line)
    {
        var v4l2 = new Command("v4l2", "Uses video nodes as an application does.\n\nExamples:\n"
            + "  framepin v4l2 capture video0 --frames 100 --width 1920 --height 1080 --check --save frame.png\n"
            + "  framepin v4l2 open video0        prints the file; then, with it:\n"
            + "  framepin v4l2 reqbufs 1 3\n  framepin v4l2 qbuf 1 0 as1 0x10000000 614400\n  framepin v4l2 streamon 1\n  framepin v4l2 dqbuf 1");
        v4l2.Subcommands.Add(Capture(line));
        foreach (var command in Ioctls(line)) v4l2.Subcommands.Add(command);
        yield return v4l2;
    }

    private static Command Capture(CommandLine line)
    {
        var node = new Argument<string>("node") { Description = "Such as video0." };
        var frames = new Option<int>("--frames", "-n") { Description = "How many.", DefaultValueFactory = _ => 10 };
        var width = new Option<int>("--width") { Description = "Pixels.", DefaultValueFactory = _ => 640 };
        var height = new Option<int>("--height") { Description = "Pixels.", DefaultValueFactory = _ => 480 };
        var format = new Option<string>("--format")
        {
            Description = string.Join(", ", PixelFormat.Codes),
            DefaultValueFactory = _ => "YUYV"
        };
        var buffers = new Option<int>("--buffers") { Description = "Buffers in turn.", DefaultValueFactory = _ => 4 };
        var rate = new Option<double>("--fps")
        {
            Description = "Frames a second; 0: as fast as it goes.",
            DefaultValueFactory = _ => 0
        };
        var pattern = new Option<Pattern>("--pattern") { Description = "What the driver draws." };
        var movement = new Option<int>("--movement")
        {
            Description = "Pixels that the pattern moves each frame.",
            DefaultValueFactory = _ => 2
        };
        var check = new Option<bool>(
            "--check")
        { Description = "Compare every byte of every frame with the pattern. Ends with 1 when one differs." };
        var expected = new Option<int?>(
            "--check-movement")
        {
            Description = "Movement that the check expects; as --movement when absent.",
            Hidden = true
        };
        var fresh = new Option<bool>(
            "--fresh")
        { Description = "Another address each time, so that the driver pins every frame anew." };
        var huge = new Option<bool>("--huge") { Description = "Buffers in huge pages (MADV_HUGEPAGE)." };
        var save = new Option<string?>(
            "--save")
        { Description = "Save frames: FILE.png or FILE.raw; %d becomes the frame's number, without it only the last is kept." };
        var memory = DriverCommands.CreateMemory();
        var ttl = new Option<double>(
            "--ttl")
        {
            Description = "Seconds after which everything of a dead application is released.",
            DefaultValueFactory = _ => 10
        };
        return line.Create(
            "capture", "Captures frames into USERPTR buffers of an address space of its own.",
            "v4l2 capture video0 --frames 100 --width 1920 --height 1080 --check --save frame.png",
            [node, frames, width, height, format, buffers, rate, pattern, movement, check, expected, fresh, huge, save,
                memory, ttl],
            async (parsed, client, output, cancelled) =>
            {
                var machine = DriverCommands.MachineName(line, parsed);
                var wanted = new CaptureOptions
                {
                    Frames = parsed.GetValue(frames),
                    Buffers = parsed.GetValue(buffers),
                    IsChecked = parsed.GetValue(check),
                    IsFresh = parsed.GetValue(fresh),
                    IsHuge = parsed.GetValue(huge),
                    SavePath = parsed.GetValue(save),
                };
                await using var lease = await FramePinLease.OpenAsync(
                    client, machine, "framepin v4l2", TimeSpan.FromSeconds(
                        parsed.GetValue(ttl)), cancellationToken: cancelled);
                using var local = await AttachAsync(client, machine, parsed.GetValue(memory)!, lease, cancelled);
                var space = await client.AddressSpaces.CreateAddressSpaceAsync(
                    new CreateAddressSpaceRequest { Parent = machine, Lease = lease.Name },
                    cancellationToken: cancelled);
                try
                {
                    await using var device = await V4l2Device.OpenAsync(
                        client, NodeName(machine, parsed.GetValue(node)!), space.Name, lease.Name,
                        cancellationToken: cancelled);
                    var (_, set) = await device.SetFormatAsync(
                        parsed.GetValue(format)!, parsed.GetValue(width), parsed.GetValue(height), cancelled);
                    Must(await device.SetControlAsync("test_pattern", (int)parsed.GetValue(pattern), cancelled),
                        "test_pattern");
                    Must(await device.SetControlAsync("horizontal_movement", parsed.GetValue(movement), cancelled),
                        "horizontal_movement");
                    Must(await device.SetFrameRateAsync(parsed.GetValue(rate), cancelled), "frame rate");
                    var pixels = PixelFormat.Find(V4l2.Name(set.PixelFormat), (int)set.Width, (int)set.Height)
                        ?? throw new IOException(
                            $"the driver has no {parsed.GetValue(format)}: it chose {V4l2.Name(set.PixelFormat)}");
                    var capture = new CaptureRun(
                        client, device, local, space.Name, wanted, new TestPattern(
                            pixels, parsed.GetValue(pattern), parsed.GetValue(expected) ?? parsed.GetValue(movement)));
                    await capture.RunAsync(() => Console.Error.WriteLine("streaming"),
                        () => Console.Error.WriteLine("streamed"), cancelled);
                    capture.Report(output);
                }
                finally
                {
                    await client.AddressSpaces.ExitAddressSpaceAsync(
                        new ExitAddressSpaceRequest { Name = space.Name }, cancellationToken: default);
                }
            });
    }

    private static IEnumerable<Command> Ioctls(CommandLine line)
    {
        var node = new Argument<string>("node") { Description = "Such as video0." };
        var file = new Argument<string>("file") { Description = "Open file: its number or full name." };
        var index = new Argument<uint>("index") { Description = "Which buffer." };
        var count = new Argument<uint>("count") { Description = "How many buffers; 0 frees them." };
        var space = new Argument<string>("space") { Description = "Address space that the buffer lies in." };
        var address = new Argument<ulong>("address")
        {
            Description = "Where, in hex with 0x.",
            CustomParser = Values.Size
        };
        var length = new Argument<ulong>("length") { Description = "Bytes, or with K, M.", CustomParser = Values.Size };
        var wait = new Option<bool>("--wait") { Description = "Wait for a frame; else EAGAIN when there is none." };
        var type = new Option<uint>("--type")
        {
            Description = "V4L2_BUF_TYPE_*: 1 capture, 2 output.",
            DefaultValueFactory = _ => V4l2.BufferType.Capture
        };
        yield return line.Create("open", "Opens a node; the file stays open until it is closed or its driver ends.",
            "v4l2 open video0", [node],
            async (parsed, client, output, cancelled) =>
            {
                var driver = NodeName(DriverCommands.MachineName(line, parsed), parsed.GetValue(node)!);
                var (errno, opened) = await DriverHandle.OpenAsync(client, driver, cancellationToken: cancelled);
                Must(errno, "open");
                output.Write(new OpenDriverFileResponse { File = opened!.File }, ("file", opened.File));
            });
        yield return line.Create("close", "Closes a file: what it queued is given back.", "v4l2 close 1", [file],
            async (parsed, client, _, _) => await File(line, parsed, file, client).DisposeAsync());
        yield return line.Create("reqbufs", "VIDIOC_REQBUFS, USERPTR.", "v4l2 reqbufs 1 3", [file, count, type],
            async (parsed, client, output, cancelled) =>
            {
                var argument = new V4l2RequestBuffers
                {
                    Count = parsed.GetValue(count),
                    Type = parsed.GetValue(type),
                    Memory = UserPtr
                };
                var (errno, answer) = await File(line, parsed, file, client).IoctlAsync(
                    "", V4l2.RequestBuffers, argument, cancellationToken: cancelled);
                Must(errno, V4l2.RequestBuffers);
                output.Write(answer, ("buffers", $"{answer.Count}"), ("capabilities", Values.Hex(answer.Capabilities)));
            });
        yield return line.Create("qbuf", "VIDIOC_QBUF, USERPTR.", "v4l2 qbuf 1 0 as1 0x10000000 614400",
            [file, index, space, address, length, type],
            async (parsed, client, output, cancelled) =>
            {
                var argument = new V4l2Buffer
                {
                    Index = parsed.GetValue(index),
                    Type = parsed.GetValue(type),
                    Memory = UserPtr,
                    Planes = { new V4l2Plane { UserPointer = parsed.GetValue(address),
                        Length = checked((uint)parsed.GetValue(length)) } },
                };
                var (errno, answer) = await File(line, parsed, file, client)
                    .IoctlAsync(
                        line.SpaceName(parsed, space), V4l2.QueueBuffer, argument, cancellationToken: cancelled);
                Must(errno, V4l2.QueueBuffer);
                Write(output, answer);
            });
        yield return line.Create("dqbuf", "VIDIOC_DQBUF.", "v4l2 dqbuf 1 --wait", [file, wait, type],
            async (parsed, client, output, cancelled) =>
        {
            var argument = new V4l2Buffer { Type = parsed.GetValue(type), Memory = UserPtr };
            var (errno, answer) = await File(line, parsed, file, client)
                .IoctlAsync("", V4l2.DequeueBuffer, argument, isNonBlocking: !parsed.GetValue(wait), cancelled);
            Must(errno, V4l2.DequeueBuffer);
            Write(output, answer);
        });
        yield return line.Create("read", "read(): a frame, or the rest of one, into memory of an address space.",
            "v4l2 read 1 as1 0x10000000 614400", [file, space, address, length],
            async (parsed, client, output, cancelled) =>
            {
                var (errno, bytes) = await File(line, parsed, file, client)
                    .ReadAsync(line.SpaceName(parsed, space), parsed.GetValue(address), parsed.GetValue(length),
                        cancellationToken: cancelled);
                Must(errno, "read");
                output.Write(new TransferDriverFileResponse { Bytes = bytes }, ("bytes", $"{bytes}"));
            });
        foreach (var (name, command) in new[] { ("streamon", V4l2.StreamOn), ("streamoff", V4l2.StreamOff) })
            yield return line.Create(
                name, $"{command}.", $"v4l2 {name} 1", [file, type], async (parsed, client, _, cancelled) =>
            {
                var argument = new V4l2Stream { Type = parsed.GetValue(type) };
                Must(
                    (await File(line, parsed, file, client).IoctlAsync(
                        "", command, argument, cancellationToken: cancelled)).Errno, command);
            });
    }

    private static void Write(Output output, V4l2Buffer buffer) =>
        output.Write(buffer, ("index", $"{buffer.Index}"), ("sequence", $"{buffer.Sequence}"),
            ("flags", Values.Hex(buffer.Flags)),
            ("bytes used", string.Join(' ', buffer.Planes.Select(plane => plane.BytesUsed))));

    private static DriverHandle File(
        CommandLine line, ParseResult parsed, Argument<string> file, FramePinClient client) =>
        new(client, Values.Name(parsed.GetValue(file)!, parsed.GetValue(line.Machine)!, "driverFiles"));

    private static string NodeName(string machine, string node) =>
        node.Contains('/', StringComparison.Ordinal) ? node : $"{machine}/drivers/{node}";

    private static void Must(Errno errno, string call)
    {
        if (errno != Errno.None) throw new ErrnoException($"{call}: {errno}");
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

/// <summary>What a capture does.</summary>
internal sealed record CaptureOptions
{
    public required int Frames { get; init; }

    public required int Buffers { get; init; }

    /// <summary>Every byte is compared.</summary>
    public bool IsChecked { get; init; }

    /// <summary>Every frame goes to another address.</summary>
    public bool IsFresh { get; init; }

    /// <summary>Buffers lie in huge pages.</summary>
    public bool IsHuge { get; init; }

    public string? SavePath { get; init; }
}

/// <summary>A capture: buffers in the application's own memory go round between it and the driver.</summary>
internal sealed class CaptureRun(
    FramePinClient client, V4l2Device device, LocalMachine? local, string space, CaptureOptions options,
    TestPattern pattern)
{
    private const ulong First = 0x1000_0000;
    private const ulong HugePage = 2UL << 20;
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;

    private readonly RemoteFrameMemory _remote = new(client);
    private MappedFrames?[] _mirrors = [];
    private int _done;
    private int _wrong;
    private int _marked;
    private string _firstWrong = "";
    private double _seconds;

    private uint Length => (uint)pattern.Format.Planes[0].Size;

    private ulong Step =>
        options.IsHuge ? ((ulong)Length + HugePage - 1) & ~(HugePage - 1) : ((ulong)Length + 4095 + 4096) & ~4095UL;

    /// <param name="started">Told when the stream is on.</param>
    /// <param name="ended">Told when the last frame is there, before anything is given back.</param>
    /// <param name="cancelled">Ends it.</param>
    public async Task RunAsync(Action started, Action ended, CancellationToken cancelled)
    {
        // With --fresh each buffer has two places, which take turns.
        var places = options.IsFresh ? 2 * options.Buffers : options.Buffers;
        var (errno, answer) = await device.RequestBuffersAsync((uint)options.Buffers, UserPtr, cancelled);
        if (errno != Errno.None) throw new ErrnoException($"{V4l2.RequestBuffers}: {errno}");
        var count = (int)Math.Min(answer.Count, (uint)options.Buffers);
        await MapAsync((ulong)places * Step, cancelled);
        _mirrors = new MappedFrames?[places];
        try
        {
            for (var i = 0; local is not null && i < places; i++)
                _mirrors[i] = await local.MapSpaceAsync(
                    space, First + ((ulong)i * Step), Step, cancellationToken: cancelled);
            var place = new int[count];
            for (var i = 0; i < count; i++) await QueueAsync((uint)i, place[i] = i);
            if (await device.StreamOnAsync(cancelled) is var failed && failed != Errno.None)
                throw new ErrnoException($"{V4l2.StreamOn}: {failed}");
            started();
            var watch = Stopwatch.StartNew();
            await StreamAsync(place, places, cancelled);
            _seconds = watch.Elapsed.TotalSeconds;
            ended();
            await device.StreamOffAsync(CancellationToken.None);
            await device.RequestBuffersAsync(0, UserPtr, CancellationToken.None);
        }
        finally
        {
            foreach (var mirror in _mirrors) mirror?.Dispose();
        }
    }

    public void Report(Output output)
    {
        var format = pattern.Format;
        output.Write(
            new V4l2RequestBuffers { Count = (uint)_done },
            ("frames", string.Create(CultureInfo.InvariantCulture,
                $"{_done} of {format.Width}x{format.Height} {format.Code}, {_done / _seconds:F0} a second")),
            ("pages", local is null ? "by gRPC" : "mapped"),
            ("checked", options.IsChecked ? $"{_wrong} wrong{_firstWrong}" : "no"),
            ("marked as errors", $"{_marked}"));
        output.HasFindings = _wrong > 0 || _marked > 0;
    }

    private async Task StreamAsync(int[] place, int places, CancellationToken cancelled)
    {
        while (_done < options.Frames)
        {
            var (errno, buffer) = await device.DequeueAsync(UserPtr, cancellationToken: cancelled);
            if (errno != Errno.None) throw new ErrnoException($"{V4l2.DequeueBuffer}: {errno} after {_done} frames");
            if ((buffer.Flags & V4l2.FlagError) != 0) _marked++;
            _done++;
            await LookAsync(place[buffer.Index], buffer.Sequence, cancelled);
            if (options.IsFresh) place[buffer.Index] = (place[buffer.Index] + place.Length) % places;
            await QueueAsync(buffer.Index, place[buffer.Index]);
        }
    }

    private async Task QueueAsync(uint index, int place)
    {
        var (errno, _) = await device.QueueUserPtrAsync(index, First + ((ulong)place * Step), Length);
        if (errno != Errno.None) throw new ErrnoException($"{V4l2.QueueBuffer}: {errno} after {_done} frames");
    }

    private async Task LookAsync(int place, uint sequence, CancellationToken cancelled)
    {
        var isLast = _done == options.Frames;
        var isSaved = options.SavePath is { } path && (isLast || path.Contains("%d", StringComparison.Ordinal));
        if (!options.IsChecked && !isSaved) return;
        if (_mirrors[place] is { } mirror)
        {
            Look(mirror.Bytes[..(int)Length], sequence, isSaved);
            return;
        }

        var bytes = new byte[Length];
        var target = new MemoryTarget { Name = space, Position = First + ((ulong)place * Step) };
        await _remote.ReadAsync(target.Name, target.Position, bytes, cancelled);
        Look(bytes, sequence, isSaved);
    }

    private void Look(ReadOnlySpan<byte> bytes, uint sequence, bool isSaved)
    {
        if (options.IsChecked && pattern.FirstWrongRow(0, sequence, bytes) is var row && row >= 0)
        {
            if (_wrong++ == 0) _firstWrong = $", the first is frame {sequence} from row {row} on";
        }

        if (isSaved)
            Pictures.Save(
                options.SavePath!.Replace("%d", $"{sequence}", StringComparison.Ordinal), pattern.Format, bytes);
    }

    private async Task MapAsync(ulong length, CancellationToken cancelled)
    {
        const uint readWrite = 3;
        const uint privateAnonymousFixed = 0x32;
        var call = new MemoryCall
        {
            Mmap = new MmapCall
            {
                Address = First,
                Length = length,
                Prot = readWrite,
                Flags = privateAnonymousFixed
            }
        };
        await client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = space, Call = call }, cancellationToken: cancelled);
        if (!options.IsHuge) return;
        const int hugePage = 14;
        call = new MemoryCall { Madvise = new MadviseCall { Address = First, Length = length, Advice = hugePage } };
        await client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = space, Call = call }, cancellationToken: cancelled);
    }
}
