using System.Globalization;
using System.Text.Json;
using Google.Protobuf.Reflection;
using Google.Rpc;
using Xunit;

namespace FramePin.Tests.Integration.Wire;

/// <summary>
/// The daemon tells of itself by reflection: a client that has neither protos nor stubs calls it, in JSON.
/// </summary>
public sealed class BufCurlTests
{
    private const string V1 = "framepin.v1";

    private static readonly CancellationToken Cancelled = TestContext.Current.CancellationToken;

    [Fact]
    public async Task A_client_without_protos_pins_converts_and_unpins()
    {
        await using var daemon = await DaemonProcess.StartAsync();
        var curl = await BufCurl.InstallAsync(daemon.Socket, Cancelled);
        var machine = await curl.CallAsync(
            $"{V1}.MachineService/CreateMachine",
            new { machineId = "curl", spec = new { profile = "6.18", memoryBytes = "67108864" } }, Cancelled);
        Assert.Equal("machines/curl", Text(machine, "name"));
        Assert.Equal("6.18", Text(machine.GetProperty("spec"), "profile"));
        var space = Text(
            await curl.CallAsync(
                $"{V1}.AddressSpaceService/CreateAddressSpace", new { parent = "machines/curl" }, Cancelled), "name");
        Assert.Equal("machines/curl/addressSpaces/as1", space);

        // PROT_READ and PROT_WRITE; MAP_PRIVATE and MAP_ANONYMOUS.
        var mapped = await curl.CallAsync(
            $"{V1}.AddressSpaceService/Call",
            new { addressSpace = space, call = new { mmap = new { length = "8192", prot = 3, flags = 0x22 } } },
            Cancelled);
        var address = Text(mapped, "value");
        Assert.Equal(0UL, ulong.Parse(address, CultureInfo.InvariantCulture) % 4096);

        var pin = await curl.CallAsync(
            $"{V1}.PinningService/Pin", new { addressSpace = space, start = address, pages = "2", write = true },
            Cancelled);
        var vector = Text(pin, "frameVector");
        Assert.StartsWith("machines/curl/frameVectors/", vector, StringComparison.Ordinal);
        Assert.Equal(("2", "FRAME_KIND_PAGES"), (Text(pin, "frames"), Text(pin, "kind")));
        var pfns = pin.GetProperty("runs").GetProperty("firstPfns");
        Assert.NotEqual(0, pfns.GetArrayLength());

        var converted = await curl.CallAsync(
            $"{V1}.PinningService/Convert", new { frameVector = vector, to = "FRAME_KIND_PFNS" }, Cancelled);
        Assert.Equal("FRAME_KIND_PFNS", Text(converted, "kind"));
        Assert.Equal(pfns.GetRawText(), converted.GetProperty("runs").GetProperty("firstPfns").GetRawText());

        var unpinned = await curl.CallAsync($"{V1}.PinningService/Unpin", new { frameVector = vector }, Cancelled);
        Assert.Equal("2", Text(unpinned, "frames"));
        var left = await curl.CallAsync(
            $"{V1}.PinningService/ListFrameVectors", new { parent = "machines/curl" }, Cancelled);
        Assert.False(left.TryGetProperty("frameVectors", out _));
    }

    [Fact]
    public async Task A_refusal_tells_its_errno_to_a_client_without_protos()
    {
        await using var daemon = await DaemonProcess.StartAsync();
        var curl = await BufCurl.InstallAsync(daemon.Socket, Cancelled);
        var space = Text(
            await curl.CallAsync($"{V1}.AddressSpaceService/CreateAddressSpace", new { }, Cancelled), "name");
        var refusal = await curl.RefusedAsync(
            $"{V1}.PinningService/Pin", new { addressSpace = space, start = "1048576", pages = "1" }, Cancelled);
        Assert.Equal("failed_precondition", Text(refusal, "code"));
        var info = Assert.Single(
            refusal.GetProperty("details").EnumerateArray(),
            detail => Text(detail, "type") == "google.rpc.ErrorInfo");
        // buf shows a detail as it came: base64 without the padding.
        var value = Text(info, "value");
        var bytes = Convert.FromBase64String(value.PadRight((value.Length + 3) / 4 * 4, '='));
        var read = ErrorInfo.Parser.ParseFrom(bytes);
        Assert.Equal(("EFAULT", "framepin.dev"), (read.Reason, read.Domain));
        Assert.Equal(("14", "0x100000"), (read.Metadata["errno"], read.Metadata["address"]));
    }

    [Theory]
    [InlineData("google.rpc.ErrorInfo")]
    [InlineData("google.rpc.BadRequest")]
    [InlineData("framepin.v1.PinRequest")]
    public async Task Reflection_knows_the_messages_of_calls_and_the_details_of_refusals(string symbol)
    {
        await using var daemon = await DaemonProcess.StartAsync();
        var curl = await BufCurl.InstallAsync(daemon.Socket, Cancelled);
        var answer = await curl.CallAsync(
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo", new { fileContainingSymbol = symbol },
            Cancelled);
        var file = FileDescriptorProto.Parser.ParseFrom(
            answer.GetProperty("fileDescriptorResponse").GetProperty("fileDescriptorProto")[0].GetBytesFromBase64());
        Assert.Contains(file.MessageType, message => $"{file.Package}.{message.Name}" == symbol);
    }

    [Fact]
    public async Task Every_service_of_the_wire_is_listed()
    {
        await using var daemon = await DaemonProcess.StartAsync();
        var curl = await BufCurl.InstallAsync(daemon.Socket, Cancelled);
        var answer = await curl.CallAsync(
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo", new { listServices = "" }, Cancelled);
        var listed = answer.GetProperty("listServicesResponse").GetProperty("service").EnumerateArray()
            .Select(service => Text(service, "name")).ToList();
        Assert.Superset(
            DescriptorTests.Methods.Select(method => method.Service.FullName).ToHashSet(), listed.ToHashSet());
    }

    private static string Text(JsonElement element, string property) => element.GetProperty(property).GetString()!;
}
