using FramePin.Client;
using FramePin.V1;
using Google.Protobuf;
using Google.Rpc;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration.Wire;

/// <summary>
/// A refusal carries one ErrorInfo, whoever refuses. Where a part of a call stays done, the refusal or its page in the
/// protos says so.
/// </summary>
public sealed class RefusalTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x10_0000;

    private static readonly Marshaller<byte[]> Bytes = new(bytes => bytes, bytes => bytes);

    [Theory]
    [InlineData("framepin.v1.PinningService", "Nothing", StatusCode.Unimplemented)]
    [InlineData("framepin.v1.NoService", "Pin", StatusCode.Unimplemented)]
    [InlineData("framepin.v1.PinningService", "Pin", StatusCode.InvalidArgument)]
    public async Task What_gRPC_itself_refuses_carries_an_ErrorInfo_too(string service, string name, StatusCode code)
    {
        var method = new Method<byte[], byte[]>(MethodType.Unary, service, name, Bytes, Bytes);
        // Field 1, a string, with a length that the message does not have.
        using var call = daemon.Client.Invoker.AsyncUnaryCall(method, null, default, [0x0a, 0x40, 0x61]);
        var refusal = await Assert.ThrowsAsync<RpcException>(() => call.ResponseAsync);
        Assert.Equal(code, refusal.StatusCode);
        Assert.Equal("framepin.dev", InfoOf(refusal).Domain);
    }

    [Fact]
    public async Task A_limit_is_named_with_its_value_and_the_value_that_was_asked()
    {
        var (_, space) = await daemon.CreateAsync();
        var refusal = await Assert.ThrowsAsync<RpcException>(() => daemon.Client.Pinning.PinAsync(
            new() { AddressSpace = space, Start = At, Pages = 1UL << 40 }).ResponseAsync);
        Assert.Equal(StatusCode.ResourceExhausted, refusal.StatusCode);
        var info = InfoOf(refusal);
        Assert.Equal(("LIMIT_EXCEEDED", "vector_pages_max"), (info.Reason, info.Metadata["limit"]));
        Assert.Equal("1099511627776", info.Metadata["asked"]);
        Assert.True(ulong.TryParse(info.Metadata["limit_value"], out _));
    }

    [Fact]
    public async Task A_write_that_is_refused_counts_the_bytes_of_all_its_messages()
    {
        var (_, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 2);
        using var call = daemon.Client.Memory.WriteMemory();
        var half = ByteString.CopyFrom([.. Enumerable.Repeat((byte)7, 2048)]);
        await call.RequestStream.WriteAsync(
            new() { Target = new MemoryTarget { Name = space, Position = At + 2048 }, Data = half });
        await call.RequestStream.WriteAsync(new() { Data = half });
        // 2048 bytes of these fit; the area ends then.
        await call.RequestStream.WriteAsync(new() { Data = ByteString.CopyFrom(new byte[4096]) });
        await call.RequestStream.CompleteAsync();
        var refusal = await Assert.ThrowsAsync<RpcException>(() => call.ResponseAsync);
        var info = InfoOf(refusal);
        Assert.Equal(("SIGSEGV", "6144"), (info.Reason, info.Metadata["written"]));
        Assert.Equal(("11", "SEGV_MAPERR"), (info.Metadata["signal"], info.Metadata["signal_code"]));
        Assert.Equal($"0x{At + 8192:x}", info.Metadata["address"]);
        Assert.Equal(11, FramePinException.From(refusal).Signal);
        var stored = new byte[4096];
        await new RemoteFrameMemory(daemon.Client).ReadAsync(space, At + 2048, stored);
        Assert.All(stored, one => Assert.Equal(7, one));
    }

    [Fact]
    public async Task A_second_target_in_a_write_is_refused_and_the_bytes_before_it_are_counted()
    {
        var (_, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 1);
        using var call = daemon.Client.Memory.WriteMemory();
        var message = new WriteMemoryRequest
        {
            Target = new MemoryTarget { Name = space, Position = At },
            Data = ByteString.CopyFrom(new byte[100]),
        };
        await call.RequestStream.WriteAsync(message);
        await call.RequestStream.WriteAsync(message);
        await call.RequestStream.CompleteAsync();
        var info = InfoOf(await Assert.ThrowsAsync<RpcException>(() => call.ResponseAsync));
        Assert.Equal(("BAD_FIELD", "target"), (info.Reason, info.Metadata["field"]));
        Assert.Equal("100", info.Metadata["written"]);
    }

    [Fact]
    public async Task Mappings_before_one_that_cannot_be_installed_stay()
    {
        var (_, space) = await daemon.CreateAsync();
        var good = new InstalledMapping { Start = At, End = At + 4096, Prot = 3 };
        var refusal = await Assert.ThrowsAsync<RpcException>(() => daemon.Client.AddressSpaces.InstallMappingsAsync(
            new() { AddressSpace = space, Mappings = { good, good } }).ResponseAsync);
        Assert.NotEqual("", InfoOf(refusal).Metadata["errno"]);
        var maps = await daemon.Client.AddressSpaces.GetMapsAsync(new() { AddressSpace = space });
        Assert.Equal(At, Assert.Single(maps.Entries).Start);
    }

    private static ErrorInfo InfoOf(RpcException refusal) => Assert.Single(
        refusal.GetRpcStatus()!.Details, detail => detail.Is(ErrorInfo.Descriptor)).Unpack<ErrorInfo>();
}
