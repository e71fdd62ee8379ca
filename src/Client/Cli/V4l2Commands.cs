using System.CommandLine;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.V1;

namespace FramePin.Cli;

/// <summary>
/// The application's side of a video node: the ioctls one by one on a file that stays open, and capture in one go
/// (<see cref="CaptureCommand"/>).
/// </summary>
internal static class V4l2Commands
{
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;

    private static readonly Argument<string> Node = new("node") { Description = "Such as video0." };
    private static readonly Argument<string> OpenFile =
        new("file") { Description = "Open file: its number or full name." };

    private static readonly Argument<uint> Index = Numbers.Argument("index", "Which buffer.", 0u, uint.MaxValue);
    private static readonly Argument<string> Space =
        new("space") { Description = "Address space that the buffer lies in." };

    private static readonly Argument<ulong> Address =
        new("address") { Description = "Where, in hex with 0x.", CustomParser = Values.Size };

    private static readonly Argument<ulong> Length =
        new("length") { Description = "Bytes, or with K, M.", CustomParser = Values.Size };

    private static readonly Option<uint> BufferType = Numbers.Option(
        "--type", "V4L2_BUF_TYPE_*: 1 capture, 2 output, 9 and 10 the same with planes;", V4l2.BufferType.Capture, 1u,
        14u);

    public static IEnumerable<Command> Create(CommandLine line)
    {
        yield return new Command("v4l2", "Uses video nodes as an application does.\n\nExamples:\n"
            + "  framepin v4l2 open video0          # prints the file; then, with it:\n"
            + "  framepin v4l2 reqbufs 1 3\n  framepin v4l2 qbuf 1 0 as1 0x10000000 614400\n"
            + "  framepin v4l2 streamon 1\n  framepin v4l2 dqbuf 1 --wait\n  framepin v4l2 close 1\n"
            + "  framepin v4l2 capture video0 --frames 100 --width 1920 --height 1080 --check --save frame.png")
        {
            new CaptureCommand(line).Create(), Open(line), Close(line), RequestBuffers(line), Queue(line),
            Dequeue(line), Read(line), Stream(line, "streamon", V4l2.StreamOn),
            Stream(line, "streamoff", V4l2.StreamOff),
        };
    }

    public static string NodeName(string machine, string node) =>
        node.Contains('/', StringComparison.Ordinal) ? node : $"{machine}/drivers/{node}";

    public static void Must(Errno errno, string call)
    {
        if (errno != Errno.None) throw new ErrnoException($"{call}: {errno}");
    }

    private static Command Open(CommandLine line)
    {
        return line.Create("open", "Opens a node; the file stays open until it is closed or its driver ends.",
            "v4l2 open video0", [Node],
            async (parsed, client, output, cancelled) =>
            {
                var driver = NodeName(DriverCommands.MachineName(line, parsed), parsed.GetValue(Node)!);
                var (errno, opened) = await DriverHandle.OpenAsync(client, driver, cancellationToken: cancelled);
                Must(errno, "open");
                output.Write(new OpenDriverFileResponse { File = opened!.File }, ("file", opened.File));
            });
    }

    private static Command Close(CommandLine line)
    {
        return line.Create("close", "Closes a file: what it queued is given back.", "v4l2 close 1", [OpenFile],
            async (parsed, client, _, _) => await File(line, parsed, client).DisposeAsync());
    }

    private static Command RequestBuffers(CommandLine line)
    {
        // The driver takes any number, and answers with as many as its queue has.
        var count = Numbers.Argument("count", "How many buffers; 0 frees them.", 0u, uint.MaxValue);
        return line.Create("reqbufs", "VIDIOC_REQBUFS, USERPTR.", "v4l2 reqbufs 1 3", [OpenFile, count, BufferType],
            async (parsed, client, output, cancelled) =>
            {
                var argument = new V4l2RequestBuffers
                {
                    Count = parsed.GetValue(count),
                    Type = parsed.GetValue(BufferType),
                    Memory = UserPtr
                };
                var (errno, answer) = await File(line, parsed, client).IoctlAsync(
                    "", V4l2.RequestBuffers, argument, cancellationToken: cancelled);
                Must(errno, V4l2.RequestBuffers);
                output.Write(answer, ("buffers", $"{answer.Count}"), ("capabilities", Values.Hex(answer.Capabilities)));
            });
    }

    private static Command Queue(CommandLine line)
    {
        return line.Create("qbuf", "VIDIOC_QBUF, USERPTR.", "v4l2 qbuf 1 0 as1 0x10000000 614400",
            [OpenFile, Index, Space, Address, Length, BufferType],
            async (parsed, client, output, cancelled) =>
            {
                var argument = new V4l2Buffer
                {
                    Index = parsed.GetValue(Index),
                    Type = parsed.GetValue(BufferType),
                    Memory = UserPtr,
                    Planes = { new V4l2Plane { UserPointer = parsed.GetValue(Address),
                        Length = Length32(parsed) } },
                };
                var (errno, answer) = await File(line, parsed, client)
                    .IoctlAsync(
                        line.SpaceName(parsed, Space), V4l2.QueueBuffer, argument, cancellationToken: cancelled);
                Must(errno, V4l2.QueueBuffer);
                Write(output, answer);
            });
    }

    private static Command Dequeue(CommandLine line)
    {
        var wait = new Option<bool>("--wait") { Description = "Wait for a frame; else EAGAIN when there is none." };
        return line.Create("dqbuf", "VIDIOC_DQBUF.", "v4l2 dqbuf 1 --wait", [OpenFile, wait, BufferType],
            async (parsed, client, output, cancelled) =>
        {
            var argument = new V4l2Buffer { Type = parsed.GetValue(BufferType), Memory = UserPtr };
            var (errno, answer) = await File(line, parsed, client)
                .IoctlAsync("", V4l2.DequeueBuffer, argument, isNonBlocking: !parsed.GetValue(wait), cancelled);
            Must(errno, V4l2.DequeueBuffer);
            Write(output, answer);
        });
    }

    private static Command Read(CommandLine line)
    {
        return line.Create("read", "read(): a frame, or the rest of one, into memory of an address space.",
            "v4l2 read 1 as1 0x10000000 614400", [OpenFile, Space, Address, Length],
            async (parsed, client, output, cancelled) =>
            {
                var (errno, bytes) = await File(line, parsed, client)
                    .ReadAsync(line.SpaceName(parsed, Space), parsed.GetValue(Address), parsed.GetValue(Length),
                        cancellationToken: cancelled);
                Must(errno, "read");
                output.Write(new TransferDriverFileResponse { Bytes = bytes }, ("bytes", $"{bytes}"));
            });
    }

    private static Command Stream(CommandLine line, string name, string command) => line.Create(
        name, $"{command}.", $"v4l2 {name} 1", [OpenFile, BufferType], async (parsed, client, _, cancelled) =>
        {
            var argument = new V4l2Stream { Type = parsed.GetValue(BufferType) };
            var (errno, _) = await File(line, parsed, client).IoctlAsync(
                "", command, argument, cancellationToken: cancelled);
            Must(errno, command);
        });

    private static void Write(Output output, V4l2Buffer buffer) =>
        output.Write(buffer, ("index", $"{buffer.Index}"), ("sequence", $"{buffer.Sequence}"),
            ("flags", Values.Hex(buffer.Flags)),
            ("bytes used", string.Join(' ', buffer.Planes.Select(plane => plane.BytesUsed))));

    /// <summary>A length as struct v4l2_plane holds it.</summary>
    private static uint Length32(ParseResult parsed)
    {
        var bytes = parsed.GetValue(Length);
        return bytes <= uint.MaxValue
            ? (uint)bytes
            : throw new FormatException($"a buffer has at most {uint.MaxValue} bytes, not {bytes}");
    }

    private static DriverHandle File(CommandLine line, ParseResult parsed, FramePinClient client) =>
        new(
            client,
            Values.Number(parsed.GetValue(OpenFile)!, parsed.GetValue(line.Machine)!, "driverFiles", "open file"));
}
