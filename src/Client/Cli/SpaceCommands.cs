using System.CommandLine;
using System.CommandLine.Parsing;
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
        yield return new MapCommand(line, Space, Length).Create();
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
        { Description = "Make a machine of this kernel profile first, such as 6.18; --machine names it." };
        var memory = new Option<ulong>("--memory")
        {
            Description = "Memory of that machine.",
            CustomParser = MachineSize,
            DefaultValueFactory = _ => 1UL << 30
        };
        var swap = new Option<ulong>("--swap")
        {
            Description = "Swap of that machine, for MADV_PAGEOUT.",
            CustomParser = Values.Size
        };
        var levels = new Option<uint>("--page-table-levels")
        {
            Description = "Levels of page tables of that machine: 4, or 5 for addresses up to 2^56."
        };
        levels.AcceptOnlyFromAmong("4", "5");
        var command = line.Create("create", "Makes an address space.", "create --profile 6.18 --swap 64M",
            [profile, memory, swap, levels], async (parsed, client, output, cancelled) =>
        {
            var parent = Values.Machine(parsed.GetValue(line.Machine)!);
            if (parsed.GetValue(profile) is { } wanted)
            {
                var spec = new MachineSpec
                {
                    Profile = wanted,
                    MemoryBytes = parsed.GetValue(memory),
                    SwapBytes = parsed.GetValue(swap),
                    PageTableLevels = parsed.GetValue(levels)
                };
                var request = new CreateMachineRequest { Spec = spec };
                if (CommandLine.IsGiven(parsed, line.Machine))
                    request.MachineId = parent[(parent.LastIndexOf('/') + 1)..];
                parent = (await client.Machines.CreateMachineAsync(request, cancellationToken: cancelled)).Name;
            }

            var space = await client.AddressSpaces.CreateAddressSpaceAsync(
                new CreateAddressSpaceRequest { Parent = parent }, cancellationToken: cancelled);
            output.Write(space, ("address space", space.Name), ("mmap base", Values.Hex(space.Layout.MmapBase)));
        });
        command.Validators.Add(result =>
        {
            if (result.GetResult(profile) is { Implicit: false }) return;
            foreach (var option in new Option[] { memory, swap, levels })
                if (result.GetResult(option) is { Implicit: false })
                    result.AddError($"{option.Name} is a property of a new machine: it goes with --profile");
        });
        return command;
    }

    /// <summary>0 of the wire means the usual size, which a user who writes 0 does not mean.</summary>
    private static ulong MachineSize(ArgumentResult result)
    {
        var size = Values.Size(result);
        if (size == 0 && !result.Errors.Any()) result.AddError("--memory: a machine without memory cannot be");
        return size;
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
            var findings = audit.Findings.Count == 0 ? ["none"] : audit.Findings.ToArray();
            output.Write(
                audit, [.. findings.Select(finding => ("findings", finding)), ("digest", audit.Digest)]);
        });
    }

    private static Command Machines(CommandLine line)
    {
        return line.Create(
            "machines", "Lists the machines, or the one that --machine names.", "machines", [],
            async (parsed, client, output, cancelled) =>
        {
            var list = CommandLine.IsGiven(parsed, line.Machine)
                ? new ListMachinesResponse
                {
                    Machines =
                    {
                        await client.Machines.GetMachineAsync(
                            new GetMachineRequest { Name = Values.Machine(parsed.GetValue(line.Machine)!) },
                            cancellationToken: cancelled),
                    },
                }
                : await Pages.AllAsync(
                async token => await client.Machines.ListMachinesAsync(
                    new ListMachinesRequest { PageSize = Pages.Largest, PageToken = token },
                    cancellationToken: cancelled),
                page => page.NextPageToken,
                (all, page) => all.Machines.AddRange(page.Machines));
            output.WriteTable(list, ["name", "profile", "free frames", "spaces", "vectors", "pinned", "quarantined"],
                list.Machines.Select(machine => new[]
            {
                Output.Name(machine.Name), machine.Spec.Profile,
                $"{machine.Statistics.FreeFrames}/{machine.Statistics.Frames}",
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
            Console.WriteLine(Values.Show(entry.Line));
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
