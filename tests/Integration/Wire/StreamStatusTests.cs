using FramePin.V1;
using Google.Rpc;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration.Wire;

/// <summary>
/// A refused operation of a stream answers the google.rpc.Status that would end the unary call, and the stream goes on.
/// </summary>
public sealed class StreamStatusTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x10_0000;
    private const ulong Hole = 0x900_0000;

    [Fact]
    public async Task A_refused_pin_answers_its_errno_and_the_stream_goes_on()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 1);
        using var stream = daemon.Client.Pinning.PinStream();
        var good = new PinOperation { Pin = new PinRange { Start = At, Pages = 1, Write = true } };
        var bad = new PinOperation { Pin = new PinRange { Start = Hole, Pages = 1, Write = true } };
        var first = await SendAsync(stream, 1, space, bad, good);
        var refused = first.Results[0];
        Assert.Equal((14U, 0UL, 0UL), (refused.Errno, refused.FrameVector, refused.Frames));
        var info = InfoOf(refused.Refusal);
        Assert.Equal((int)StatusCode.FailedPrecondition, refused.Refusal.Code);
        Assert.Equal(("EFAULT", "framepin.dev"), (info.Reason, info.Domain));
        Assert.Equal(("14", "EFAULT"), (info.Metadata["errno"], info.Metadata["errno_name"]));
        Assert.Equal("0x9000000", info.Metadata["address"]);
        Assert.Null(first.Results[1].Refusal);
        Assert.Equal(1UL, first.Results[1].Frames);

        var second = await SendAsync(
            stream, 2, space, bad, new PinOperation { Unpin = first.Results[1].FrameVector });
        Assert.Equal("EFAULT", InfoOf(second.Results[0].Refusal).Reason);
        Assert.Null(second.Results[1].Refusal);
        await stream.RequestStream.CompleteAsync();
        Assert.False(await stream.ResponseStream.MoveNext(TestContext.Current.CancellationToken));
        Assert.Equal(StatusCode.OK, stream.GetStatus().StatusCode);
        Assert.Empty((await daemon.Client.Pinning.ListFrameVectorsAsync(new() { Parent = machine })).FrameVectors);
        await daemon.DigestAsync(machine);
    }

    [Fact]
    public async Task A_refusal_in_the_stream_is_that_of_the_unary_call()
    {
        var (machine, space) = await daemon.CreateAsync();
        var client = daemon.Client.Pinning;
        var vector = $"{machine}/frameVectors/77";
        (PinOperation Operation, Func<Task> Unary)[] pairs =
        [
            (new() { Pin = new PinRange { Start = Hole, Pages = 3 } },
                () => client.PinAsync(new() { AddressSpace = space, Start = Hole, Pages = 3 }).ResponseAsync),
            (new() { Pin = new PinRange { Start = Hole, Pages = ulong.MaxValue } },
                () => client.PinAsync(new() { AddressSpace = space, Start = Hole, Pages = ulong.MaxValue })
                    .ResponseAsync),
            (new() { Pin = new PinRange { Start = At, Pages = 0 } },
                () => client.PinAsync(new() { AddressSpace = space, Start = At }).ResponseAsync),
            (new() { Unpin = 77 }, () => client.UnpinAsync(new() { FrameVector = vector }).ResponseAsync),
            (new() { UnpinVector = new UnpinVector { FrameVector = 77 } },
                () => client.UnpinAsync(new() { FrameVector = vector }).ResponseAsync),
            (new() { Convert = new ConvertVector { FrameVector = 77, To = FrameKind.Pfns } },
                () => client.ConvertAsync(new() { FrameVector = vector, To = FrameKind.Pfns }).ResponseAsync),
        ];
        using var stream = client.PinStream();
        var result = await SendAsync(stream, 1, space, [.. pairs.Select(pair => pair.Operation)]);
        foreach (var ((_, unary), answer) in pairs.Zip(result.Results))
        {
            var status = (await Assert.ThrowsAsync<RpcException>(unary)).GetRpcStatus();
            Assert.Equal(status, answer.Refusal);
            Assert.NotEqual("", InfoOf(answer.Refusal).Reason);
        }
    }

    [Fact]
    public async Task A_conversion_of_frames_without_pages_answers_EINVAL()
    {
        var (machine, space) = await daemon.CreateAsync("4.3");
        var device = await daemon.Client.Devices.CreateDeviceAsync(
            new() { Parent = machine, Mapping = DeviceMapping.Pfnmap, Pages = 1 });
        var map = new MmapCall { Address = At, Length = 4096, Prot = 3, Flags = 0x11, Target = device.Name };
        await daemon.Client.AddressSpaces.CallAsync(
            new() { AddressSpace = space, Call = new MemoryCall { Mmap = map } });
        using var stream = daemon.Client.Pinning.PinStream();
        var pinned = await SendAsync(
            stream, 1, space, new PinOperation { Pin = new PinRange { Start = At, Pages = 1, Write = true } });
        var vector = Assert.Single(pinned.Results).FrameVector;
        var converted = await SendAsync(
            stream, 2, space,
            new PinOperation { Convert = new ConvertVector { FrameVector = vector, To = FrameKind.Pages } });
        Assert.Equal(22U, converted.Results[0].Errno);
        Assert.Equal("EINVAL", InfoOf(converted.Results[0].Refusal).Reason);
        var unpinned = await SendAsync(stream, 3, space, new PinOperation { Unpin = vector });
        Assert.Null(unpinned.Results[0].Refusal);
    }

    private static ErrorInfo InfoOf(Google.Rpc.Status refusal) =>
        Assert.Single(refusal.Details, detail => detail.Is(ErrorInfo.Descriptor)).Unpack<ErrorInfo>();

    private static async Task<PinBatchResult> SendAsync(
        AsyncDuplexStreamingCall<PinBatch, PinBatchResult> stream, ulong sequence, string space,
        params PinOperation[] operations)
    {
        await stream.RequestStream.WriteAsync(
            new PinBatch { Sequence = sequence, AddressSpace = space, Operations = { operations } });
        Assert.True(await stream.ResponseStream.MoveNext(TestContext.Current.CancellationToken));
        return stream.ResponseStream.Current;
    }
}
