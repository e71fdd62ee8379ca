using System.Globalization;
using System.Net.Sockets;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;
using Grpc.Net.Client;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Deadlines beside frames, as fault D14 was found: no frame is lost that the daemon could give back.
/// </summary>
public sealed class DeadlineTests(DaemonFixture daemon, ITestOutputHelper output) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const uint Size = 230_400;
    private const int Pages = 57;
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;
    private const uint Buffers = 8;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    /// <summary>How the taker of a frame gives up.</summary>
    public enum Form
    {
        /// <summary>The library's token, which is a signal to the driver.</summary>
        Signal,

        /// <summary>
        /// A grpc-timeout that the daemon alone keeps: the client reads whatever the daemon says. What went out as
        /// taken is taken, and the rest comes back.
        /// </summary>
        Deadline,

        /// <summary>A deadline of both sides, and repeats under the same request_id.</summary>
        Repeat,
    }

    [Theory]
    [InlineData(Form.Signal)]
    [InlineData(Form.Deadline)]
    [InlineData(Form.Repeat)]
    public async Task D14_deadlines_beside_frames_lose_none(Form form)
    {
        var seed = int.TryParse(Environment.GetEnvironmentVariable("FRAMEPIN_SEED"), CultureInfo.InvariantCulture,
            out var from) ? from : Random.Shared.Next();
        output.WriteLine($"seed {seed}; FRAMEPIN_SEED={seed} repeats it");
        var random = new Random(seed);
        const int frames = 200;
        await using var rig = await VividRig.CreateAsync(daemon, "6.12", new VividOptions { FramesPerSecond = 100 });
        using var timeouts = new Timeouts(daemon.Endpoint["unix:".Length..]);
        using var channel = GrpcChannel.ForAddress(
            "http://localhost", new GrpcChannelOptions { HttpHandler = timeouts, DisposeHttpClient = true });
        var remote = new DriverService.DriverServiceClient(channel);
        await rig.Device.SetFormatAsync("YUYV", 320, 360);
        rig.Lab.Anon(At, Pages);
        await rig.Device.RequestBuffersAsync(Buffers, UserPtr);
        for (var i = 0U; i < Buffers; i++) await rig.Device.QueueUserPtrAsync(i, At, Size);
        await rig.Device.StreamOnAsync();
        var (taken, gaveUp) = (0, 0);
        while (taken < frames)
        {
            var time = TimeSpan.FromMilliseconds(1 + (random.NextDouble() * 8.5));
            var (errno, index) = form switch
            {
                Form.Signal => await SignalledAsync(rig.Device, time),
                Form.Deadline => await TimedAsync(rig.Device, remote, timeouts, time),
                _ => await RepeatedAsync(rig.Device, remote, time, random.Next(), () => gaveUp++),
            };
            if (errno is not { } answer)
            {
                gaveUp++;
                continue;
            }

            Assert.Equal(Errno.None, answer);
            taken++;
            Assert.Equal(Errno.None, (await rig.Device.QueueUserPtrAsync(index, At, Size)).Errno);
        }

        output.WriteLine($"{taken} frames taken, {gaveUp} calls given up");
        // Buffers that a DQBUF took and nobody got are neither queued nor done. The last ones may be on their way back.
        using var patience = new CancellationTokenSource(Patience);
        while (await LostAsync(rig.Device) is var lost and > 0)
            if (patience.IsCancellationRequested) Assert.Fail($"{lost} frames lost");
        await rig.Device.StreamOffAsync();
        await rig.Device.RequestBuffersAsync(0, UserPtr);
    }

    private static async Task<int> LostAsync(V4l2Device device)
    {
        var lost = 0;
        for (var i = 0U; i < Buffers; i++)
            if ((await device.QueryAsync(i)).Buffer.Flags == V4l2.FlagTimestampMonotonic) lost++;
        return lost;
    }

    /// <summary>A DQBUF until a token is signalled; no errno when it was.</summary>
    private static async Task<(Errno? Errno, uint Index)> SignalledAsync(V4l2Device device, TimeSpan time)
    {
        using var signal = new CancellationTokenSource(time);
        try
        {
            var (errno, frame) = await device.DequeueAsync(UserPtr, cancellationToken: signal.Token)
                .WaitAsync(Patience, CancellationToken.None);
            return (errno, frame.Index);
        }
        catch (OperationCanceledException)
        {
            return (null, 0);
        }
    }

    /// <summary>A DQBUF with a deadline of the daemon's; no errno when the daemon says that it has passed.</summary>
    private static async Task<(Errno? Errno, uint Index)> TimedAsync(
        V4l2Device device, DriverService.DriverServiceClient remote, Timeouts timeouts, TimeSpan time)
    {
        timeouts.Next = time;
        try
        {
            return Read(await remote.IoctlAsync(Dequeue(device)).ResponseAsync.WaitAsync(Patience));
        }
        catch (RpcException)
        {
            return (null, 0);
        }
    }

    /// <summary>A DQBUF that is repeated under its request_id until an answer arrives.</summary>
    private static async Task<(Errno? Errno, uint Index)> RepeatedAsync(
        V4l2Device device, DriverService.DriverServiceClient remote, TimeSpan time, int id, Action gaveUp)
    {
        var request = Dequeue(device);
        request.RequestId = $"frame {id} {Guid.NewGuid():N}";
        while (true)
            try
            {
                return Read(await remote.IoctlAsync(request, deadline: DateTime.UtcNow + time)
                    .ResponseAsync.WaitAsync(Patience));
            }
            catch (RpcException exception) when (exception.StatusCode is StatusCode.DeadlineExceeded
                or StatusCode.Cancelled)
            {
                gaveUp();
            }
    }

    private static IoctlRequest Dequeue(V4l2Device device) => new()
    {
        File = device.File.File,
        Command = V4l2.DequeueBuffer,
        Argument = new V4l2Buffer { Type = V4l2.BufferType.Capture, Memory = UserPtr }.ToByteString(),
        AddressSpace = device.Space,
    };

    private static (Errno? Errno, uint Index) Read(IoctlResponse answer) =>
        ((Errno)answer.Errno, V4l2Buffer.Parser.ParseFrom(answer.Argument).Index);

    /// <summary>Sends a grpc-timeout that the client itself does not measure.</summary>
    private sealed class Timeouts(string path) : DelegatingHandler(new SocketsHttpHandler
    {
        ConnectCallback = async (_, cancelled) =>
        {
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), cancelled);
            return new NetworkStream(socket, ownsSocket: true);
        },
    })
    {
        public TimeSpan? Next { get; set; }

        protected override Task<HttpResponseMessage> SendAsync(
            HttpRequestMessage request, CancellationToken cancellationToken)
        {
            if (Next is { } time)
                request.Headers.TryAddWithoutValidation(
                    "grpc-timeout", string.Create(CultureInfo.InvariantCulture, $"{time.TotalMicroseconds:0}u"));
            Next = null;
            return base.SendAsync(request, cancellationToken);
        }
    }
}
