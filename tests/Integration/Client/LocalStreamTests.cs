using FramePin.Client;
using FramePin.V1;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration.Client;

/// <summary>A stream that its caller gives up answers the same over packets and over HTTP/2.</summary>
public sealed class LocalStreamTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_stream_that_was_cancelled_answers_CANCELLED_to_writes_too(bool isLocal)
    {
        using var client = FramePinClient.Connect(daemon.Endpoint, options => options.IsLocal = isLocal);
        using var cancel = new CancellationTokenSource();
        using var stream = client.Pinning.PinStream(cancellationToken: cancel.Token);
        // The stream is under way.
        await stream.RequestStream.WriteAsync(new PinBatch { Sequence = 1 }, TestContext.Current.CancellationToken);
        Assert.True(await stream.ResponseStream.MoveNext(TestContext.Current.CancellationToken));
        await cancel.CancelAsync();
        Assert.Equal(
            StatusCode.Cancelled,
            (await Assert.ThrowsAsync<RpcException>(() => stream.RequestStream.WriteAsync(
                new PinBatch { Sequence = 2 }, TestContext.Current.CancellationToken))).StatusCode);
        Assert.Equal(
            StatusCode.Cancelled,
            (await Assert.ThrowsAsync<RpcException>(() => stream.ResponseStream.MoveNext(
                TestContext.Current.CancellationToken))).StatusCode);
    }
}
