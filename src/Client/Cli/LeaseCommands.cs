using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using FramePin.Client;
using FramePin.V1;
using Google.Protobuf.WellKnownTypes;

namespace FramePin.Cli;

/// <summary>Who holds what, and for how long still.</summary>
internal static class LeaseCommands
{
    public static IEnumerable<Command> Create(CommandLine line)
    {
        yield return line.Create("leases", "Lists the open leases of a machine: the lives of clients.", "leases", [],
            async (parsed, client, output, cancelled) =>
        {
            var all = await ListAsync(parsed.GetValue(line.Machine)!, client, cancelled);
            output.WriteTable(
                all, ["lease", "owner", "left", "vectors", "pages", "since", "trace"], all.Leases.Select(lease => new[]
            {
                Output.Name(lease.Name), lease.Owner, Left(lease), $"{lease.FrameVectors}",
                $"{lease.PinnedPages}",
                Time(lease.OpenedAt), lease.TraceId,
            }));
        });

        yield return line.Create(
            "who", "Lists what is pinned: by whom, how long, where, from which trace.", "who -m m1", [],
            async (parsed, client, output, cancelled) =>
            {
                var held = await Held(parsed.GetValue(line.Machine)!, client, cancelled);
                Write(output, held);
            });

        var older = Numbers.Option(
            "--older", "Seconds after which a pin counts as forgotten though its owner lives:", 600d, 0, 1e9);
        yield return line.Create(
            "leaks",
            "Lists pins that look forgotten: without a lease, of an address space that has exited, or old. Ends with 1 "
            + "when there are any.",
            "leaks --older 60", [older], async (parsed, client, output, cancelled) =>
            {
                var held = await Held(parsed.GetValue(line.Machine)!, client, cancelled);
                var oldest = TimeProvider.System.GetUtcNow().AddSeconds(-parsed.GetValue(older));
                held.RemoveAll(pin => pin.Vector.Lease.Length > 0 && !pin.Vector.AddressSpaceExited
                    && PinnedAt(pin.Vector) > oldest);
                Write(output, held);
                output.HasFindings = held.Count > 0;
            });
    }

    private static async Task<List<(FrameVector Vector, string Owner)>> Held(
        string machine, FramePinClient client, CancellationToken cancelled)
    {
        var leases = await ListAsync(machine, client, cancelled);
        var owners = leases.Leases.ToDictionary(lease => lease.Name, lease => lease.Owner, StringComparer.Ordinal);
        var vectors = await PinCommands.ListVectors(machine, client, cancelled);
        return [.. vectors.FrameVectors.Where(vector => vector.Frames > 0).OrderBy(PinnedAt)
            .Select(vector => (vector, owners.GetValueOrDefault(vector.Lease, "")))];
    }

    private static void Write(Output output, List<(FrameVector Vector, string Owner)> held)
    {
        var now = TimeProvider.System.GetUtcNow();
        var all = new ListFrameVectorsResponse();
        all.FrameVectors.AddRange(held.Select(pin => pin.Vector));
        output.WriteTable(
            all, ["vector", "owner", "lease", "age", "range", "frames", "from", "trace"], held.Select(pin => new[]
        {
            Output.Name(pin.Vector.Name), pin.Owner,
            pin.Vector.Lease.Length > 0 ? Output.Name(pin.Vector.Lease) : "none",
            string.Create(CultureInfo.InvariantCulture, $"{Age(pin.Vector):f1} s"),
            $"{Values.Hex(pin.Vector.Start)}+{pin.Vector.Frames}", $"{pin.Vector.Frames} {pin.Vector.Kind}",
            Output.Name(pin.Vector.AddressSpace) + (pin.Vector.AddressSpaceExited ? " (exited)" : ""),
            pin.Vector.TraceId,
        }), AddHolders);

        double Age(FrameVector vector) => Math.Max(0, (now - PinnedAt(vector)).TotalSeconds);

        // The answer of the daemon has neither: the owner stands in the lease, and the age is of now.
        void AddHolders(JsonObject json)
        {
            foreach (var (vector, pin) in json["frameVectors"]!.AsArray().Zip(held))
            {
                vector!["owner"] = pin.Owner;
                vector["ageSeconds"] = Math.Round(Age(pin.Vector), 3);
            }
        }
    }

    private static Task<ListLeasesResponse> ListAsync(
        string machine, FramePinClient client, CancellationToken cancelled) =>
        Pages.AllAsync(
            async token => await client.Leases.ListLeasesAsync(
                new ListLeasesRequest
                {
                    Parent = Values.Machine(machine),
                    PageSize = Pages.Largest,
                    PageToken = token,
                },
                cancellationToken: cancelled),
            page => page.NextPageToken,
            (all, page) => all.Leases.AddRange(page.Leases));

    private static DateTimeOffset PinnedAt(FrameVector vector) =>
        vector.PinnedAt?.ToDateTimeOffset() ?? DateTimeOffset.UnixEpoch;

    private static string Left(Lease lease) =>
        string.Create(
            CultureInfo.InvariantCulture,
            $"{lease.Left.ToTimeSpan().TotalMilliseconds:0} of {lease.Ttl.ToTimeSpan().TotalMilliseconds:0} ms");

    private static string Time(Timestamp time) =>
        time.ToDateTimeOffset().ToString("u", CultureInfo.InvariantCulture);
}
