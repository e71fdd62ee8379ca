using System.CommandLine;
using FramePin.Client;
using FramePin.V1;

namespace FramePin.Cli;

/// <summary>Anonymous memory: mapped and, where it is wanted, stored to. Refused stores leave nothing mapped.</summary>
internal sealed class MapCommand(CommandLine line, Argument<string> space, Argument<ulong> length)
{
    private const uint MapShared = 1;
    private const uint MapPrivate = 2;
    private const uint MapFixed = 0x10;
    private const uint MapAnonymous = 0x20;

    /// <summary>Pages of one call that stores: below every daemon's touch_pages_max.</summary>
    private const ulong TouchPages = 1 << 16;

    private readonly Option<ulong> _at = new("--at")
    {
        Description = "Address; the kernel chooses when absent.",
        CustomParser = Values.Size
    };

    private readonly Option<uint> _prot = new("--prot")
    {
        Description = "Some of r, w, x; '-' for none.",
        DefaultValueFactory = _ => 3,
        CustomParser = result => Protection(result),
    };

    private readonly Option<bool> _shared = new("--shared") { Description = "MAP_SHARED instead of MAP_PRIVATE." };
    private readonly Option<bool> _touch = new("--touch") { Description = "Store to every page at once." };

    public Command Create() => line.Create(
        "map", "Maps anonymous memory.", "map as1 64K --touch", [space, length, _at, _prot, _shared, _touch], RunAsync);

    private async Task RunAsync(ParseResult parsed, FramePinClient client, Output output, CancellationToken cancelled)
    {
        var call = new MmapCall
        {
            Address = parsed.GetValue(_at),
            Length = parsed.GetValue(length),
            Prot = parsed.GetValue(_prot),
            Flags = MapAnonymous | (parsed.GetValue(_shared) ? MapShared : MapPrivate)
                | (CommandLine.IsGiven(parsed, _at) ? MapFixed : 0),
        };
        var name = line.SpaceName(parsed, space);
        var mapped = await CallAsync(client, name, new MemoryCall { Mmap = call }, cancelled);
        if (parsed.GetValue(_touch)) await TouchOrUnmapAsync(client, name, mapped.Value, call.Length, cancelled);
        output.Write(
            mapped, json => JsonMessages.ShowAddress(json, "value"), [("address", Values.Hex(mapped.Value))]);
    }

    /// <summary>Stores to every page of a range. What cannot be stored to whole is unmapped, and the command is
    /// refused.</summary>
    private static async Task TouchOrUnmapAsync(
        FramePinClient client, string space, ulong address, ulong length, CancellationToken cancelled)
    {
        var isTouched = false;
        try
        {
            var pages = (length >> 12) + ((length & 4095) == 0 ? 0UL : 1);
            for (var done = 0UL; done < pages; done += TouchPages)
            {
                var part = (uint)Math.Min(TouchPages, pages - done);
                var touch = new TouchCall { Address = address + (done << 12), Pages = part, Write = true };
                var touched = await CallAsync(client, space, new MemoryCall { Touch = touch }, cancelled);
                if (touched.Errno == 0 && touched.Signal == 0) continue;
                throw new ErrnoException(
                    $"the store to page {done + touched.Value} of {pages} ended with {Reason(touched)}; the memory is "
                    + "unmapped again");
            }

            isTouched = true;
        }
        finally
        {
            if (!isTouched)
                await CallAsync(
                    client, space,
                    new MemoryCall { Munmap = new MunmapCall { Address = address, Length = length } },
                    CancellationToken.None);
        }
    }

    private static string Reason(CallResponse touched) => touched.Signal switch
    {
        7 => "SIGBUS",
        9 => "SIGKILL (memory is out)",
        11 => "SIGSEGV",
        _ => $"{(FramePin.Drivers.Errno)touched.Errno}",
    };

    /// <summary>"rw", "r-x", "-": each letter at most once, and nothing else.</summary>
    private static uint Protection(System.CommandLine.Parsing.ArgumentResult result)
    {
        var text = result.Tokens.Count > 0 ? result.Tokens[0].Value : "";
        var bits = 0u;
        foreach (var letter in text)
        {
            var bit = letter switch { 'r' => 1u, 'w' => 2u, 'x' => 4u, _ => 0u };
            if (letter != '-' && (bit == 0 || (bits & bit) != 0)) return Refuse();
            bits |= bit;
        }

        return text.Length is > 0 and <= 3 ? bits : Refuse();

        uint Refuse()
        {
            result.AddError(
                $"--prot: '{text}' is no protection: write some of r, w and x, such as rw, or '-' for none");
            return 0;
        }
    }

    private static async Task<CallResponse> CallAsync(
        FramePinClient client, string space, MemoryCall call, CancellationToken cancelled) =>
        await client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = space, Call = call }, cancellationToken: cancelled);
}
