using System.Globalization;
using FramePin.Client;
using FramePin.V1;

namespace FramePin.Replay;

/// <summary>
/// Builds an address space that looks like the one of a live process: the same mappings, and as many touched pages as
/// the process has resident.
/// </summary>
public static class Importer
{
    private const int TouchChunk = 65_536;

    /// <summary>
    /// Reads /proc/PID/maps and smaps of a process and rebuilds them in a new address space, which lives until it
    /// exits.
    /// </summary>
    /// <param name="client">The daemon.</param>
    /// <param name="machine">"machines/{m}".</param>
    /// <param name="pid">Number of the process. This process needs the right to read its maps.</param>
    /// <param name="cancellationToken">Ends the import early. What it has made stays.</param>
    /// <exception cref="IOException">The process cannot be read.</exception>
    /// <exception cref="FramePinException">The daemon refuses, or cannot be reached.</exception>
    public static async Task<AddressSpace> RunAsync(
        FramePinClient client, string machine, int pid, CancellationToken cancellationToken = default)
    {
        var lines = MapsFile.Parse(System.IO.File.ReadLines($"/proc/{pid}/maps"));
        var details = ReadSmaps(System.IO.File.ReadLines($"/proc/{pid}/smaps"));
        var stack = lines.FirstOrDefault(line => line.Name == "[stack]");
        var below = lines.Where(
            line => line.Name is not ("[stack]" or "[vsyscall]") && (stack is null || line.End <= stack.Start));
        var heap = lines.FirstOrDefault(line => line.Name == "[heap]");
        var space = await client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest
            {
                Parent = machine,
                Layout = new Layout
                {
                    MmapBase = below.Select(line => line.End).DefaultIfEmpty(0UL).Max(),
                    StartBrk = heap?.Start ?? 0,
                },
            },
            cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        var files = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var group in lines.Where(line => line.Inode != 0).GroupBy(line => line.Name, StringComparer.Ordinal))
        {
            var first = group.First();
            var created = await client.Files.CreateFileAsync(
                new CreateFileRequest
                {
                    Parent = machine,
                    Kind = FileKind.Disk,
                    Path = group.Key,
                    Device = first.Device,
                    Inode = first.Inode,
                    SizeBytes = group.Max(line => line.Offset + line.End - line.Start),
                },
                cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
            files[group.Key] = created.Name;
        }

        var install = new InstallMappingsRequest { AddressSpace = space.Name };
        var touches = new CallBatchRequest { AddressSpace = space.Name };
        if (heap is not null) touches.Calls.Add(new MemoryCall { Brk = new BrkCall { Address = heap.End } });
        foreach (var line in lines)
        {
            var detail = details.GetValueOrDefault(line.Start, (Rss: 0UL, Flags: []));
            if (line.Name != "[heap]")
            {
                var mapping = Recording.ToInstalled(line, line.Inode != 0 ? files[line.Name] : "");
                mapping.VmFlags.AddRange(
                    detail.Flags.Where(flag => flag is "nr" or "dc" or "dd" or "nh" or "hg" or "wf" or "sr" or "rr"));
                install.Mappings.Add(mapping);
            }

            if (line.Name.StartsWith("[v", StringComparison.Ordinal) || line.Permissions[0] != 'r') continue;
            // smaps counts the resident pages and does not name them. The first pages stand for them.
            for (var (done, pages) = (0UL, detail.Rss >> 12); done < pages; done += TouchChunk)
                touches.Calls.Add(new MemoryCall
                {
                    Touch = new TouchCall
                    {
                        Address = line.Start + (done << 12),
                        Pages = (uint)Math.Min(TouchChunk, pages - done),
                        Write = line.Permissions[1] == 'w',
                    },
                });
        }

        await client.AddressSpaces.InstallMappingsAsync(install, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        await client.AddressSpaces.CallBatchAsync(touches, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return await client.AddressSpaces.GetAddressSpaceAsync(
            new GetAddressSpaceRequest { Name = space.Name }, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
    }

    private static Dictionary<ulong, (ulong Rss, string[] Flags)> ReadSmaps(IEnumerable<string> lines)
    {
        var result = new Dictionary<ulong, (ulong Rss, string[] Flags)>();
        var start = 0UL;
        var rss = 0UL;
        foreach (var line in lines)
        {
            var first = line.Split([' ', '-'], 2)[0];
            if (line.Length > first.Length && line[first.Length] == '-')
                start = ulong.Parse(first, NumberStyles.HexNumber, CultureInfo.InvariantCulture);
            else if (line.StartsWith("Rss:", StringComparison.Ordinal))
                rss = ulong.Parse(
                    line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) << 10;
            else if (line.StartsWith("VmFlags:", StringComparison.Ordinal))
                result[start] = (rss, line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1..]);
        }

        return result;
    }
}
