using FramePin.Client;
using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>
/// SIGTERM (fault S4): each stream that is open is told that the daemon ends, and none holds up the end.
/// </summary>
public sealed class ShutdownTests
{
    private const ulong At = 0x10_0000;
    private const ulong Length = 64UL << 20;

    /// <summary>Far more than an end in order takes, and less than the grace of calls in flight.</summary>
    private static readonly TimeSpan Bound = TimeSpan.FromSeconds(7);

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task S4_every_open_stream_is_told_and_the_daemon_ends_with_0(bool isLocal)
    {
        var cancelled = TestContext.Current.CancellationToken;
        await using var daemon = await DaemonProcess.StartAsync();
        using var client = FramePinClient.Connect(daemon.Endpoint, options => options.IsLocal = isLocal);
        var space = (await client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest(), cancellationToken: cancelled)).Name;
        var map = new MmapCall { Address = At, Length = Length, Prot = 3, Flags = 0x32 };
        await client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = space, Call = new MemoryCall { Mmap = map } },
            cancellationToken: cancelled);
        var lease = await client.Leases.OpenLeaseAsync(
            new OpenLeaseRequest { Owner = "test" }, cancellationToken: cancelled);

        using var pins = client.Pinning.PinStream(cancellationToken: cancelled);
        await pins.RequestStream.WriteAsync(new PinBatch { Sequence = 1, AddressSpace = space }, cancelled);
        Assert.True(await pins.ResponseStream.MoveNext(cancelled));

        using var write = client.Memory.WriteMemory(cancellationToken: cancelled);
        var target = new MemoryTarget { Name = space, Position = At };
        await write.RequestStream.WriteAsync(
            new WriteMemoryRequest { Target = target, Data = ByteString.CopyFrom(1, 2, 3) }, cancelled);

        using var alive = client.Leases.KeepAlive(cancellationToken: cancelled);
        await alive.RequestStream.WriteAsync(new KeepAliveRequest { Lease = lease.Name }, cancelled);
        Assert.True(await alive.ResponseStream.MoveNext(cancelled));

        using var watch = client.Watches.WatchInvalidations(cancellationToken: cancelled);
        await watch.RequestStream.WriteAsync(
            new WatchRequest { Open = new OpenWatch { AddressSpace = space } }, cancelled);
        Assert.True(await watch.ResponseStream.MoveNext(cancelled));

        // Far more than the windows of HTTP/2 hold, of which its reader takes one message.
        using var read = client.Memory.ReadMemory(
            new ReadMemoryRequest { Target = target, Length = Length }, cancellationToken: cancelled);
        Assert.True(await read.ResponseStream.MoveNext(cancelled));

        daemon.Terminate();
        await ToldAsync(() => pins.ResponseStream.MoveNext(cancelled));
        await ToldAsync(() => write.ResponseAsync);
        await ToldAsync(() => alive.ResponseStream.MoveNext(cancelled));
        await ToldAsync(() => watch.ResponseStream.MoveNext(cancelled));
        // Its reader is not told: what it has not read stands in front of the end.
        // The grace of a call in flight is 10 s, which a stream does not get.
        Assert.Equal(0, await daemon.ExitCodeAsync(cancelled).WaitAsync(Bound, cancelled));
        await Assert.ThrowsAsync<RpcException>(async () =>
        {
            while (await read.ResponseStream.MoveNext(cancelled))
            {
            }
        });
    }

    private static async Task ToldAsync<T>(Func<Task<T>> ending)
    {
        var refusal = FramePinException.From(await Assert.ThrowsAsync<RpcException>(ending));
        Assert.Equal((StatusCode.Unavailable, "SHUTTING_DOWN"), (refusal.StatusCode, refusal.Reason));
    }
}
