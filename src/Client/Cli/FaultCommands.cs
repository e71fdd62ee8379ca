using System.CommandLine;
using FramePin.Drivers;
using FramePin.V1;
using Google.Protobuf;

namespace FramePin.Cli;

/// <summary>Fault handlers: this process fills the missing pages of a range.</summary>
internal static class FaultCommands
{
    private const int Page = 4096;

    public static IEnumerable<Command> Create(CommandLine line)
    {
        var space = new Argument<string>("space") { Description = "Address space, full name or last segment." };
        var address = new Argument<ulong>(
            "address")
        {
            Description = "Start of the range, in hex with 0x; page-aligned.",
            CustomParser = Values.Size
        };
        var length = new Argument<ulong>("length")
        {
            Description = "Bytes, or with K, M; whole pages.",
            CustomParser = Values.Size
        };
        var from = new Option<FileInfo?>(
            "--from")
        { Description = "File whose bytes fill the range, from its start on; zeroes behind its end, and without it." };
        yield return line.Create(
            "serve-faults",
            "Fills missing pages of a range when somebody faults on them, as a userfaultfd handler does, until it is "
            + "ended (Ctrl-C, SIGTERM).",
            "map as1 1M --at 0x10000000\n  framepin serve-faults as1 0x10000000 1M --from snapshot.bin",
            [space, address, length, from],
            async (parsed, client, _, cancelled) =>
            {
                var start = parsed.GetValue(address);
                using var source = parsed.GetValue(from) is { } file ? System.IO.File.OpenHandle(file.FullName) : null;
                var range = new RegisterFaultHandler
                {
                    AddressSpace = line.SpaceName(parsed, space),
                    Start = start,
                    Length = parsed.GetValue(length)
                };
                try
                {
                    await FaultServer.RunAsync(
                        client, range, Fill, () =>
                            Console.WriteLine($"serving {range.AddressSpace} from {Values.Hex(start)} on"), cancelled);
                    Console.Error.WriteLine("the daemon ended the handler's stream");
                }
                catch (OperationCanceledException) when (cancelled.IsCancellationRequested)
                {
                    // Ended by its user.
                }

                ValueTask<FaultAnswer> Fill(FaultEvent fault)
                {
                    var refused = fault.Errno == 0 ? "" : $", not taken: {(Errno)fault.Errno}";
                    var access = fault.Write ? "write" : "read";
                    Console.WriteLine(
                        $"{Output.Name(fault.AddressSpace)} {Values.Hex(fault.Address)} {access}{refused}");
                    // Somebody else has filled it meanwhile, or the range ends here: whoever waits looks again.
                    if (fault.Errno != 0) return ValueTask.FromResult(new FaultAnswer { Kind = FaultAnswerKind.Wake });
                    var bytes = new byte[Page];
                    var read = source is null ? 0 : RandomAccess.Read(source, bytes, (long)(fault.Address - start));
                    return ValueTask.FromResult(read == 0
                        ? new FaultAnswer { Kind = FaultAnswerKind.ZeroPage }
                        : new FaultAnswer
                        {
                            Kind = FaultAnswerKind.Copy,
                            Data = UnsafeByteOperations.UnsafeWrap(bytes)
                        });
                }
            });
    }
}
