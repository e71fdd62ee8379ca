using System.CommandLine;
using System.Globalization;
using FramePin.Client;
using FramePin.V1;

namespace FramePin.Cli;

/// <summary>Pins, frames and bytes.</summary>
internal static class PinCommands
{
    /// <summary>Bytes that read and write hold at a time.</summary>
    private const ulong Chunk = 1 << 20;

    private static readonly Argument<string> Space =
        new("space") { Description = "Address space, full name or last segment." };

    private static readonly Argument<ulong> Address =
        new("address") { Description = "Address, in hex with 0x.", CustomParser = Values.Size };

    private static readonly Argument<string> Vector =
        new("vector") { Description = "Frame vector: its number or full name." };

    private static readonly Argument<string> Target =
        new("target") { Description = "Address space, or the full name of a vector or file." };

    public static IEnumerable<Command> Create(CommandLine line) =>
        [Pin(line), Unpin(line), Convert(line), Frames(line), Read(line), Write(line)];

    private static Command Pin(CommandLine line)
    {
        var pages = Numbers.Argument("pages", "Pages of 4 KiB.", 1UL, ulong.MaxValue >> 12);
        var write = new Option<bool>("--write", "-w") { Description = "Pin for writing by the device." };
        var force = new Option<bool>("--force") { Description = "FOLL_FORCE, in the eras that have it." };
        var lease = new Option<string>("--lease")
        {
            Description = "Lease that the pin ends with.",
            DefaultValueFactory = _ => ""
        };
        var all = new Option<bool>("--all-or-nothing") { Description = "Refuse a partial pin and hold nothing." };
        return line.Create(
            "pin", "Pins pages and names the frame vector that holds them.", "pin as1 0x7ffff7fef000 16 --write",
            [Space, Address, pages, write, force, lease, all], async (parsed, client, output, cancelled) =>
            {
                var pin = await client.Pinning.PinAsync(
                    new PinRequest
                    {
                        AddressSpace = line.SpaceName(parsed, Space),
                        Start = parsed.GetValue(Address),
                        Pages = parsed.GetValue(pages),
                        Write = parsed.GetValue(write),
                        Force = parsed.GetValue(force),
                        AllOrNothing = parsed.GetValue(all),
                        Lease = parsed.GetValue(lease) is { Length: > 0 } given
                            ? Values.Name(given, parsed.GetValue(line.Machine)!, "leases")
                            : "",
                    },
                    cancellationToken: cancelled);
                output.Write(pin, ("vector", pin.FrameVector),
                    ("frames", $"{pin.Frames} of {parsed.GetValue(pages)} ({pin.Kind})"),
                    ("stopped", pin.StopReason == StopReason.Unspecified ? "at the end" : pin.StopReason.ToString()),
                    ("runs", CommandLine.Describe(pin.Runs)));
            });
    }

    private static Command Unpin(CommandLine line)
    {
        var dirty = new Option<bool>("--dirty") { Description = "Mark the pages dirty first." };
        return line.Create("unpin", "Gives a vector's frames back and destroys it.", "unpin 1", [Vector, dirty],
            async (parsed, client, output, cancelled) =>
            {
                var request = new UnpinRequest
                {
                    FrameVector = line.VectorName(parsed, Vector),
                    Dirty = parsed.GetValue(dirty)
                };
                var unpin = await client.Pinning.UnpinAsync(request, cancellationToken: cancelled);
                output.Write(unpin, ("frames released", unpin.Frames.ToString(CultureInfo.InvariantCulture)));
            });
    }

    private static Command Convert(CommandLine line)
    {
        var kind = new Argument<string>("kind") { Description = "pages or pfns." };
        kind.AcceptOnlyFromAmong("pages", "pfns");
        return line.Create("convert", "Converts a vector in place.", "convert 1 pfns", [Vector, kind],
            async (parsed, client, output, cancelled) =>
            {
                var to = parsed.GetValue(kind) == "pages" ? FrameKind.Pages : FrameKind.Pfns;
                var converted = await client.Pinning.ConvertAsync(
                    new ConvertRequest { FrameVector = line.VectorName(parsed, Vector), To = to },
                    cancellationToken: cancelled);
                output.Write(
                    converted, ("kind", converted.Kind.ToString()), ("runs", CommandLine.Describe(converted.Runs)));
            });
    }

    private static Command Frames(CommandLine line)
    {
        return line.Create(
            "frames", "Lists the live frame vectors: who holds what, since when, from which trace.", "frames", [],
            async (parsed, client, output, cancelled) =>
            {
                var all = await ListVectors(parsed.GetValue(line.Machine)!, client, cancelled);
                output.WriteTable(all, ["vector", "frames", "kind", "from", "start", "since", "trace"],
                    all.FrameVectors.Select(v => new[]
                {
                    Output.Name(v.Name), $"{v.Frames}", v.Kind.ToString(), Output.Name(v.AddressSpace)
                        + (v.AddressSpaceExited ? " (exited)" : ""), Values.Hex(v.Start),
                    v.PinnedAt?.ToDateTimeOffset().ToString("u", CultureInfo.InvariantCulture) ?? "", v.TraceId,
                }));
            });
    }

    private static Command Read(CommandLine line)
    {
        var length = new Argument<ulong>("length") { Description = "Bytes.", CustomParser = Values.Size };
        return line.Create(
            "read", "Writes bytes to standard output.", "read as1 0x7ffff7fef000 64 | xxd", [Target, Address, length],
            async (parsed, client, _, cancelled) =>
            {
                var left = parsed.GetValue(length);
                var position = parsed.GetValue(Address);
                if (left > 0 && position + (left - 1) < position)
                    throw new FormatException(
                        $"{left} bytes from {Values.Hex(position)} on end behind the last address");
                var buffer = new byte[Math.Min(left, Chunk)];
                await using var stdout = Console.OpenStandardOutput();
                while (left > 0)
                {
                    var part = buffer.AsMemory(0, (int)Math.Min(left, Chunk));
                    var done = await new RemoteFrameMemory(client).ReadAsync(
                        line.SpaceName(parsed, Target), position, part, cancelled);
                    await stdout.WriteAsync(part[..done], cancelled);
                    if (done < part.Length) return;
                    (position, left) = (position + (ulong)done, left - (ulong)done);
                }
            });
    }

    private static Command Write(CommandLine line)
    {
        return line.Create(
            "write", "Stores standard input.", "write as1 0x7ffff7fef000 < file", [Target, Address],
            async (parsed, client, output, cancelled) =>
            {
                var buffer = new byte[Chunk];
                var written = 0UL;
                await using var stdin = Console.OpenStandardInput();
                // A read of standard input hears of no cancellation: the wait for it does.
                while (await stdin.ReadAtLeastAsync(buffer, (int)Chunk, false, cancelled).AsTask().WaitAsync(cancelled)
                    is var read && read > 0)
                {
                    await new RemoteFrameMemory(client).WriteAsync(
                        line.SpaceName(parsed, Target), parsed.GetValue(Address) + written, buffer.AsMemory(0, read),
                        cancelled);
                    written += (ulong)read;
                }

                output.Write(new WriteMemoryResponse { Written = written }, ("written", $"{written}"));
            });
    }

    /// <summary>Every live vector of a machine.</summary>
    public static Task<ListFrameVectorsResponse> ListVectors(
        string machine, FramePinClient client, CancellationToken cancelled) =>
        Pages.AllAsync(
            async token => await client.Pinning.ListFrameVectorsAsync(
                new ListFrameVectorsRequest
                {
                    Parent = Values.Machine(machine),
                    PageSize = Pages.Largest,
                    PageToken = token,
                },
                cancellationToken: cancelled),
            page => page.NextPageToken,
            (all, page) => all.FrameVectors.AddRange(page.FrameVectors));
}
