using System.CommandLine;
using System.Globalization;
using FramePin.Client;
using FramePin.V1;

namespace FramePin.Cli;

/// <summary>Machines and address spaces.</summary>
internal static class SpaceCommands
{
    private static readonly Argument<string> Space =
        new("space") { Description = "Address space, full name or last segment." };

    private static readonly Argument<ulong> Length =
        new("length") { Description = "Bytes.", CustomParser = Values.Size };

    public static IEnumerable<Command> Create(CommandLine line)
    {
        yield return CreateSpace(line);
        yield return Map(line);
        yield return Unmap(line);
        yield return line.Create("maps", "Prints the mappings as /proc/PID/maps does.", "maps as1", [Space],
            async (parsed, client, output, cancelled) =>
                await Maps(client, line.SpaceName(parsed, Space), output, false, cancelled));
        yield return line.Create(
            "smaps", "Prints the mappings as /proc/PID/smaps does, in short.", "smaps as1", [Space],
            async (parsed, client, output, cancelled) =>
                await Maps(client, line.SpaceName(parsed, Space), output, true, cancelled));
        yield return Fork(line);
        yield return Audit(line);
        yield return Machines(line);
    }

    private static Command CreateSpace(CommandLine line)
    {
        var profile = new Option<string?>(
            "--profile")
        { Description = "Make a machine of this kernel profile first, such as 6.18." };
        var memory = new Option<ulong>("--memory")
        {
            Description = "Memory of that machine.",
            CustomParser = Values.Size,
            DefaultValueFactory = _ => 1UL << 30
        };
        var swap = new Option<ulong>("--swap")
        {
            Description = "Swap of that machine, for MADV_PAGEOUT.",
            CustomParser = Values.Size
        };
        return line.Create("create", "Makes an address space.", "create --profile 6.18 --swap 64M",
            [profile, memory, swap], async (parsed, client, output, cancelled) =>
        {
            var parent = Values.Machine(parsed.GetValue(line.Machine)!);
            if (parsed.GetValue(profile) is { } wanted)
            {
                var spec = new MachineSpec
                {
                    Profile = wanted,
                    MemoryBytes = parsed.GetValue(memory),
                    SwapBytes = parsed.GetValue(swap)
                };
                parent = (await client.Machines.CreateMachineAsync(
                    new CreateMachineRequest { Spec = spec }, cancellationToken: cancelled)).Name;
            }

            var space = await client.AddressSpaces.CreateAddressSpaceAsync(
                new CreateAddressSpaceRequest { Parent = parent }, cancellationToken: cancelled);
            output.Write(space, ("address space", space.Name), ("mmap base", Values.Hex(space.Layout.MmapBase)));
        });
    }

    private static Command Map(CommandLine line)
    {
        var at = new Option<ulong>("--at")
        {
            Description = "Address; the kernel chooses when absent.",
            CustomParser = Values.Size
        };
        var prot = new Option<string>("--prot")
        {
            Description = "Some of r, w, x; '-' for none.",
            DefaultValueFactory = _ => "rw"
        };
        var shared = new Option<bool>("--shared") { Description = "MAP_SHARED instead of MAP_PRIVATE." };
        var fill = new Option<bool>("--touch") { Description = "Store to every page at once." };
        return line.Create(
            "map", "Maps anonymous memory.", "map as1 64K --touch", [Space, Length, at, prot, shared, fill],
            async (parsed, client, output, cancelled) =>
            {
                const uint fixedAnonymous = 0x20;
                var letters = parsed.GetValue(prot)!;
                var bits = (letters.Contains('r', StringComparison.Ordinal) ? 1u : 0)
                    | (letters.Contains('w', StringComparison.Ordinal) ? 2u : 0)
                    | (letters.Contains('x', StringComparison.Ordinal) ? 4u : 0);
                var call = new MmapCall
                {
                    Address = parsed.GetValue(at),
                    Length = parsed.GetValue(Length),
                    Prot = bits,
                    Flags = fixedAnonymous | (parsed.GetValue(shared) ? 1u : 2u)
                        | (parsed.GetValue(at) != 0 ? 0x10u : 0),
                };
                var name = line.SpaceName(parsed, Space);
                var mapped = await Call(client, name, new MemoryCall { Mmap = call }, cancelled);
                if (parsed.GetValue(fill))
                    output.HasFindings = !await Touch(client, name, mapped.Value, parsed.GetValue(Length), cancelled);
                output.Write(mapped, ("address", Values.Hex(mapped.Value)));
            });
    }

    /// <summary>Stores to every page of a range, and tells when memory was out before its end.</summary>
    private static async Task<bool> Touch(
        FramePinClient client, string space, ulong address, ulong length, CancellationToken cancelled)
    {
        var pages = (uint)Math.Min((length + 4095) >> 12, uint.MaxValue);
        var touch = new TouchCall { Address = address, Pages = pages, Write = true };
        var touched = await Call(client, space, new MemoryCall { Touch = touch }, cancelled);
        if (touched.Errno == 0) return true;
        Console.Error.WriteLine($"only {touched.Value} of {pages} pages could be touched: memory is out");
        return false;
    }

    private static Command Unmap(CommandLine line)
    {
        return line.Create(
            "unmap", "Unmaps a range.", "unmap as1 0x10000 64K", [Space, Address(out var from), Length],
            async (parsed, client, output, cancelled) => output.Write(await Call(
                client, line.SpaceName(parsed, Space),
                new MemoryCall
                {
                    Munmap = new MunmapCall
                    {
                        Address = parsed.GetValue(from),
                        Length = parsed.GetValue(Length)
                    }
                }, cancelled),
                ("unmapped", "yes")));
    }

    private static Command Fork(CommandLine line)
    {
        return line.Create(
            "fork", "Forks an address space.", "fork as1", [Space], async (parsed, client, output, cancelled) =>
        {
            var child = await client.AddressSpaces.ForkAddressSpaceAsync(
                new ForkAddressSpaceRequest { Name = line.SpaceName(parsed, Space) }, cancellationToken: cancelled);
            output.Write(
                child, ("child", child.Name), ("mappings", child.MapCount.ToString(CultureInfo.InvariantCulture)));
        });
    }

    private static Command Audit(CommandLine line)
    {
        return line.Create(
            "audit", "Checks a machine's books.", "audit -m default", [], async (parsed, client, output, cancelled) =>
        {
            var audit = await client.Machines.AuditMachineAsync(
                new AuditMachineRequest { Name = Values.Machine(parsed.GetValue(line.Machine)!) },
                cancellationToken: cancelled);
            output.HasFindings = audit.Findings.Count > 0;
            output.Write(audit, ("findings", audit.Findings.Count == 0 ? "none" : string.Join('\n', audit.Findings)),
                ("digest", audit.Digest));
        });
    }

    private static Command Machines(CommandLine line)
    {
        return line.Create(
            "machines", "Lists the machines.", "machines", [], async (_, client, output, cancelled) =>
        {
            var list = await Pages.AllAsync(
                async token => await client.Machines.ListMachinesAsync(
                    new ListMachinesRequest { PageSize = Pages.Largest, PageToken = token },
                    cancellationToken: cancelled),
                page => page.NextPageToken,
                (all, page) => all.Machines.AddRange(page.Machines));
            output.WriteTable(list, ["name", "profile", "free frames", "spaces", "vectors", "pinned", "quarantined"],
                list.Machines.Select(machine => new[]
            {
                machine.Name, machine.Spec.Profile, $"{machine.Statistics.FreeFrames}/{machine.Statistics.Frames}",
                $"{machine.Statistics.AddressSpaces}", $"{machine.Statistics.FrameVectors}",
                $"{machine.Statistics.PinsAcquired - machine.Statistics.PinsReleased}",
                $"{machine.Statistics.QuarantinedFrames}",
            }));
        });
    }

    private static async Task<CallResponse> Call(
        FramePinClient client, string space, MemoryCall call, CancellationToken cancelled) =>
        await client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = space, Call = call }, cancellationToken: cancelled);

    private static Argument<ulong> Address(out Argument<ulong> argument) =>
        argument = new Argument<ulong>("address")
        {
            Description = "Address, in hex with 0x.",
            CustomParser = Values.Size
        };

    private static async Task Maps(
        FramePinClient client, string space, Output output, bool withUsage, CancellationToken cancelled)
    {
        var maps = await client.AddressSpaces.GetMapsAsync(
            new GetMapsRequest { AddressSpace = space, WithUsage = withUsage }, cancellationToken: cancelled);
        if (output.IsJson)
        {
            output.Write(maps);
            return;
        }

        foreach (var entry in maps.Entries)
        {
            Console.WriteLine(entry.Line);
            if (!withUsage) continue;
            Console.WriteLine($"Size:           {(entry.End - entry.Start) >> 10,8} kB");
            Console.WriteLine($"KernelPageSize: {entry.KernelPageSize >> 10,8} kB");
            Console.WriteLine($"Rss:            {entry.Rss >> 10,8} kB");
            Console.WriteLine($"Anonymous:      {entry.Anonymous >> 10,8} kB");
            Console.WriteLine($"AnonHugePages:  {entry.AnonHuge >> 10,8} kB");
            Console.WriteLine($"VmFlags: {entry.VmFlags}");
        }
    }
}
