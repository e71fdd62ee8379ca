using System.CommandLine;
using System.Globalization;
using FramePin.Client;
using FramePin.V1;

namespace FramePin.Cli;

/// <summary>Machines and address spaces.</summary>
internal static class SpaceCommands
{
    public static IEnumerable<Command> Create(CommandLine line)
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
        yield return line.Create("create", "Makes an address space.", "create --profile 6.18 --swap 64M",
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

        var space = new Argument<string>("space") { Description = "Address space, full name or last segment." };
        var length = new Argument<ulong>("length") { Description = "Bytes.", CustomParser = Values.Size };
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
        yield return line.Create(
            "map", "Maps anonymous memory.", "map as1 64K --touch", [space, length, at, prot, shared, fill],
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
                    Length = parsed.GetValue(length),
                    Prot = bits,
                    Flags = fixedAnonymous | (parsed.GetValue(shared) ? 1u : 2u)
                        | (parsed.GetValue(at) != 0 ? 0x10u : 0),
                };
                var name = line.SpaceName(parsed, space);
                var mapped = await Call(client, name, new MemoryCall { Mmap = call }, cancelled);
                if (parsed.GetValue(fill))
                {
                    var pages = (uint)Math.Min((parsed.GetValue(length) + 4095) >> 12, uint.MaxValue);
                    var touch = new MemoryCall
                    {
                        Touch = new TouchCall
                        {
                            Address = mapped.Value,
                            Pages = pages,
                            Write = true
                        }
                    };
                    var touched = await Call(client, name, touch, cancelled);
                    output.HasFindings = touched.Errno != 0;
                    if (touched.Errno != 0)
                        Console.Error.WriteLine(
                            $"only {touched.Value} of {pages} pages could be touched: memory is out");
                }

                output.Write(mapped, ("address", Values.Hex(mapped.Value)));
            });

        yield return line.Create(
            "unmap", "Unmaps a range.", "unmap as1 0x10000 64K", [space, Address(out var from), length],
            async (parsed, client, output, cancelled) => output.Write(await Call(
                client, line.SpaceName(parsed, space),
                new MemoryCall
                {
                    Munmap = new MunmapCall
                    {
                        Address = parsed.GetValue(from),
                        Length = parsed.GetValue(length)
                    }
                }, cancelled),
                ("unmapped", "yes")));

        yield return line.Create("maps", "Prints the mappings as /proc/PID/maps does.", "maps as1", [space],
            async (parsed, client, output, cancelled) =>
                await Maps(client, line.SpaceName(parsed, space), output, false, cancelled));
        yield return line.Create(
            "smaps", "Prints the mappings as /proc/PID/smaps does, in short.", "smaps as1", [space],
            async (parsed, client, output, cancelled) =>
                await Maps(client, line.SpaceName(parsed, space), output, true, cancelled));
        yield return line.Create(
            "fork", "Forks an address space.", "fork as1", [space], async (parsed, client, output, cancelled) =>
        {
            var child = await client.AddressSpaces.ForkAddressSpaceAsync(
                new ForkAddressSpaceRequest { Name = line.SpaceName(parsed, space) }, cancellationToken: cancelled);
            output.Write(
                child, ("child", child.Name), ("mappings", child.MapCount.ToString(CultureInfo.InvariantCulture)));
        });
        yield return line.Create(
            "audit", "Checks a machine's books.", "audit -m default", [], async (parsed, client, output, cancelled) =>
        {
            var audit = await client.Machines.AuditMachineAsync(
                new AuditMachineRequest { Name = Values.Machine(parsed.GetValue(line.Machine)!) },
                cancellationToken: cancelled);
            output.HasFindings = audit.Findings.Count > 0;
            output.Write(audit, ("findings", audit.Findings.Count == 0 ? "none" : string.Join('\n', audit.Findings)),
                ("digest", audit.Digest));
        });
        yield return line.Create(
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
