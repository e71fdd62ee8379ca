using System.Collections.Concurrent;
using System.Diagnostics;
using FramePin.Client;
using FramePin.Server;
using FramePin.Server.Configuration;
using FramePin.Server.Telemetry;
using FramePin.V1;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.DependencyInjection;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>
/// How spans end (fault S6): the code in capitals, and an error only where the semantic conventions of RPC call a
/// status the server's.
/// </summary>
public sealed class SpanStatusTests : IAsyncLifetime
{
    private readonly string _folder = Directory.CreateTempSubdirectory("framepin-spans-").FullName;
    private readonly ConcurrentQueue<Activity> _spans = new();
    private ActivityListener? _listener;
    private WebApplication? _app;
    private FramePinClient _client = null!;

    public async ValueTask InitializeAsync()
    {
        var socket = Path.Combine(_folder, "s");
        _app = Daemon.Build(new DaemonOptions { SocketPath = socket });
        var source = _app.Services.GetRequiredService<ServerTelemetry>().Activities;
        _listener = new ActivityListener
        {
            ShouldListenTo = heard => ReferenceEquals(heard, source),
            Sample = (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllDataAndRecorded,
            ActivityStopped = _spans.Enqueue,
        };
        ActivitySource.AddActivityListener(_listener);
        await _app.StartAsync();
        _client = FramePinClient.Connect($"unix:{socket}");
    }

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        await _app!.StopAsync();
        await _app.DisposeAsync();
        _listener?.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public async Task S6_what_the_caller_brought_about_is_no_error()
    {
        await _client.Machines.GetMachineAsync(new GetMachineRequest());
        await Assert.ThrowsAsync<RpcException>(
            async () => await _client.Machines.GetMachineAsync(new GetMachineRequest { Name = "machines/none" }));
        var space = (await _client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        await Assert.ThrowsAsync<RpcException>(async () => await _client.Pinning.PinAsync(
            new PinRequest { AddressSpace = space, Start = 0x10_0000, Pages = 1 }));
        Assert.Equal(
            [("OK", ActivityStatusCode.Unset, null), ("NOT_FOUND", ActivityStatusCode.Unset, null)],
            Of("framepin.v1.MachineService/GetMachine"));
        Assert.Equal(
            [("FAILED_PRECONDITION", ActivityStatusCode.Unset, null)], Of("framepin.v1.PinningService/Pin"));
    }

    [Fact]
    public async Task S6_the_end_of_a_stream_is_no_error()
    {
        using (var ended = _client.Pinning.PinStream())
        {
            await ended.RequestStream.CompleteAsync();
            Assert.False(await ended.ResponseStream.MoveNext(default));
        }

        using (var cancelled = _client.Pinning.PinStream())
        {
            await cancelled.RequestStream.WriteAsync(new PinBatch { Sequence = 1 });
            Assert.True(await cancelled.ResponseStream.MoveNext(default));
        }

        const string name = "framepin.v1.PinningService/PinStream";
        while (Of(name).Count < 2) await Task.Yield();
        Assert.Equal(
            [("OK", ActivityStatusCode.Unset, null), ("CANCELLED", ActivityStatusCode.Unset, null)], Of(name));
    }

    [Theory]
    [InlineData(StatusCode.Internal, true)]
    [InlineData(StatusCode.Unknown, true)]
    [InlineData(StatusCode.DeadlineExceeded, true)]
    [InlineData(StatusCode.Unimplemented, true)]
    [InlineData(StatusCode.Unavailable, true)]
    [InlineData(StatusCode.DataLoss, true)]
    [InlineData(StatusCode.OK, false)]
    [InlineData(StatusCode.Cancelled, false)]
    [InlineData(StatusCode.InvalidArgument, false)]
    [InlineData(StatusCode.NotFound, false)]
    [InlineData(StatusCode.AlreadyExists, false)]
    [InlineData(StatusCode.PermissionDenied, false)]
    [InlineData(StatusCode.ResourceExhausted, false)]
    [InlineData(StatusCode.FailedPrecondition, false)]
    [InlineData(StatusCode.Aborted, false)]
    [InlineData(StatusCode.OutOfRange, false)]
    [InlineData(StatusCode.Unauthenticated, false)]
    public void S6_six_codes_are_errors_of_the_server(StatusCode code, bool isError)
    {
        using var span = new Activity("call");
        StatusNames.Note(span, code, "why");
        var name = StatusNames.Of(code);
        Assert.Equal(code.ToString(), name.Replace("_", "", StringComparison.Ordinal), ignoreCase: true);
        Assert.Equal(name.ToUpperInvariant(), name);
        Assert.Equal(name, span.GetTagItem(TelemetryNames.RpcStatus));
        Assert.Equal(isError ? ActivityStatusCode.Error : ActivityStatusCode.Unset, span.Status);
        Assert.Equal(isError ? name : null, span.GetTagItem(TelemetryNames.ErrorType));
    }

    private List<(string?, ActivityStatusCode, string?)> Of(string name) =>
        [.. _spans.Where(span => span.DisplayName == name).Select(span => (
            (string?)span.GetTagItem(TelemetryNames.RpcStatus), span.Status,
            (string?)span.GetTagItem(TelemetryNames.ErrorType)))];
}
