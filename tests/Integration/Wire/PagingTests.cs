using FramePin.Client;
using FramePin.Tests.Integration.Drivers;
using FramePin.V1;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration.Wire;

/// <summary>Lists come in pages, each entry once and in order, and a token belongs to its list.</summary>
public sealed class PagingTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const int Entries = 12;
    private const ulong At = 0x10_0000;

    /// <summary>Every List call, by the last part of the names that it lists.</summary>
    private static readonly Dictionary<string, ListCall> Lists = new(StringComparer.Ordinal)
    {
        ["machines"] = async (client, _, size, token) =>
        {
            var page = await client.Machines.ListMachinesAsync(new() { PageSize = size, PageToken = token });
            return ([.. page.Machines.Select(one => one.Name)], page.NextPageToken);
        },
        ["addressSpaces"] = async (client, parent, size, token) =>
        {
            var page = await client.AddressSpaces.ListAddressSpacesAsync(
                new() { Parent = parent, PageSize = size, PageToken = token });
            return ([.. page.AddressSpaces.Select(one => one.Name)], page.NextPageToken);
        },
        ["files"] = async (client, parent, size, token) =>
        {
            var page = await client.Files.ListFilesAsync(
                new() { Parent = parent, PageSize = size, PageToken = token });
            return ([.. page.Files.Select(one => one.Name)], page.NextPageToken);
        },
        ["devices"] = async (client, parent, size, token) =>
        {
            var page = await client.Devices.ListDevicesAsync(
                new() { Parent = parent, PageSize = size, PageToken = token });
            return ([.. page.Devices.Select(one => one.Name)], page.NextPageToken);
        },
        ["frameVectors"] = async (client, parent, size, token) =>
        {
            var page = await client.Pinning.ListFrameVectorsAsync(
                new() { Parent = parent, PageSize = size, PageToken = token });
            return ([.. page.FrameVectors.Select(one => one.Name)], page.NextPageToken);
        },
        ["leases"] = async (client, parent, size, token) =>
        {
            var page = await client.Leases.ListLeasesAsync(
                new() { Parent = parent, PageSize = size, PageToken = token });
            return ([.. page.Leases.Select(one => one.Name)], page.NextPageToken);
        },
        ["drivers"] = async (client, parent, size, token) =>
        {
            var page = await client.Drivers.ListDriversAsync(
                new() { Parent = parent, PageSize = size, PageToken = token });
            return ([.. page.Drivers.Select(one => one.Name)], page.NextPageToken);
        },
    };

    private delegate Task<(List<string> Names, string Next)> ListCall(
        FramePinClient client, string parent, uint size, string token);

    public static TheoryData<string> Collections => [.. Lists.Keys];

    [Fact]
    public void Every_list_call_of_the_wire_is_tested()
    {
        var listed = DescriptorTests.Methods.Where(method => method.Name.StartsWith("List", StringComparison.Ordinal))
            .Select(method => char.ToLowerInvariant(method.Name[4]) + method.Name[5..]);
        Assert.Equal(listed.Order(StringComparer.Ordinal), Lists.Keys.Order(StringComparer.Ordinal));
    }

    [Theory]
    [MemberData(nameof(Collections))]
    public async Task Pages_of_one_entry_hold_every_entry_once_and_in_order(string collection)
    {
        await using var rig = await FilledAsync(collection);
        var whole = await Lists[collection](daemon.Client, rig.Parent, 0, "");
        Assert.Equal("", whole.Next);
        Assert.True(whole.Names.Count >= Entries);
        // A sub-resource stands under its machine.
        var prefix = collection == "machines" ? "machines/" : $"{rig.Parent}/{collection}/";
        Assert.All(whole.Names, name => Assert.StartsWith(prefix, name, StringComparison.Ordinal));
        Assert.All(whole.Names, name => Assert.DoesNotContain('/', name[prefix.Length..]));
        foreach (var size in new uint[] { 1, 5, (uint)whole.Names.Count })
        {
            var found = new List<string>();
            var token = "";
            do
            {
                var page = await Lists[collection](daemon.Client, rig.Parent, size, token);
                Assert.InRange(page.Names.Count, 1, (int)size);
                found.AddRange(page.Names);
                token = page.Next;
            }
            while (token.Length > 0);
            Assert.Equal(whole.Names, found);
        }
    }

    [Theory]
    [MemberData(nameof(Collections))]
    public async Task A_token_that_the_list_has_not_given_out_is_refused(string collection)
    {
        await using var rig = await FilledAsync(collection);
        var first = await Lists[collection](daemon.Client, rig.Parent, 1, "");
        var foreign = collection == "files" ? "devices" : "files";
        foreach (var token in new[] { "no token", "0", $"{rig.Parent}/{foreign}:1", first.Next.Split(':')[0] + ":" })
        {
            var refusal = FramePinException.From(await Assert.ThrowsAsync<RpcException>(
                () => Lists[collection](daemon.Client, rig.Parent, 1, token)));
            Assert.Equal((StatusCode.InvalidArgument, "BAD_FIELD"), (refusal.StatusCode, refusal.Reason));
            Assert.Equal("page_token", refusal.Metadata["field"]);
        }
    }

    [Theory]
    [MemberData(nameof(Collections))]
    public async Task A_token_belongs_to_its_machine(string collection)
    {
        // Machines have no parent.
        if (collection == "machines") return;
        await using var rig = await FilledAsync(collection);
        var (other, _) = await daemon.CreateAsync();
        var first = await Lists[collection](daemon.Client, rig.Parent, 1, "");
        var refusal = FramePinException.From(await Assert.ThrowsAsync<RpcException>(
            () => Lists[collection](daemon.Client, other, 1, first.Next)));
        Assert.Equal((StatusCode.InvalidArgument, "BAD_FIELD"), (refusal.StatusCode, refusal.Reason));
    }

    [Theory]
    [MemberData(nameof(Collections))]
    public async Task A_page_larger_than_the_limit_is_refused_with_the_limit(string collection)
    {
        var (machine, _) = await daemon.CreateAsync();
        // page_size is unsigned: the wire has no negative one, and -1 of another language is its largest.
        foreach (var size in new uint[] { 1001, uint.MaxValue })
        {
            var refusal = FramePinException.From(await Assert.ThrowsAsync<RpcException>(
                () => Lists[collection](daemon.Client, machine, size, "")));
            Assert.Equal(StatusCode.ResourceExhausted, refusal.StatusCode);
            Assert.Equal(new FramePinLimit("page_size_max", 1000, size), refusal.Limit);
        }

        Assert.Equal("", (await Lists[collection](daemon.Client, machine, 1000, "")).Next);
    }

    [Fact]
    public async Task An_entry_that_goes_between_two_pages_takes_no_other_along()
    {
        var (machine, _) = await daemon.CreateAsync();
        for (var i = 0; i < 3; i++) await daemon.Client.Leases.OpenLeaseAsync(new() { Parent = machine });
        var first = await Lists["leases"](daemon.Client, machine, 1, "");
        await daemon.Client.Leases.CloseLeaseAsync(new() { Name = first.Names[0] });
        var rest = await Lists["leases"](daemon.Client, machine, 5, first.Next);
        Assert.Equal(2, rest.Names.Count);
        Assert.DoesNotContain(first.Names[0], rest.Names);
    }

    /// <summary>A machine that holds entries of a collection until it is disposed.</summary>
    private async Task<Filled> FilledAsync(string collection)
    {
        var (machine, space) = await daemon.CreateAsync();
        var client = daemon.Client;
        var filled = new Filled(client, machine);
        for (var i = 0; i < Entries; i++)
            switch (collection)
            {
                case "machines":
                    filled.Machines.Add((await daemon.CreateAsync()).Machine);
                    break;
                case "addressSpaces":
                    await client.AddressSpaces.CreateAddressSpaceAsync(new() { Parent = machine });
                    break;
                case "files":
                    await client.Files.CreateFileAsync(new() { Parent = machine, Kind = FileKind.Shmem });
                    break;
                case "devices":
                    await client.Devices.CreateDeviceAsync(
                        new() { Parent = machine, Mapping = DeviceMapping.Pfnmap, Pages = 1 });
                    break;
                case "frameVectors":
                    if (i == 0) await daemon.MapAsync(space, At, 1);
                    await client.Pinning.PinAsync(new() { AddressSpace = space, Start = At, Pages = 1 });
                    break;
                case "leases":
                    await client.Leases.OpenLeaseAsync(new() { Parent = machine });
                    break;
                default:
                    await filled.ServeAsync($"video{i}");
                    break;
            }

        return filled;
    }

    private sealed class Filled(FramePinClient client, string parent) : IAsyncDisposable
    {
        private readonly List<AsyncDuplexStreamingCall<DriverReply, DriverCall>> _served = [];

        public string Parent => parent;

        /// <summary>Machines that go with it.</summary>
        public List<string> Machines { get; } = [parent];

        public async Task ServeAsync(string node)
        {
            var serving = client.Drivers.ServeDriver();
            _served.Add(serving);
            await serving.RequestStream.WriteAsync(
                new DriverReply { Register = new RegisterDriver { Machine = parent, Node = node, Driver = "test" } });
            Assert.True(await serving.ResponseStream.MoveNext(TestContext.Current.CancellationToken));
        }

        public async ValueTask DisposeAsync()
        {
            foreach (var serving in _served) serving.Dispose();
            foreach (var machine in Machines)
                await client.Machines.DeleteMachineAsync(new() { Name = machine, Force = true });
        }
    }
}
