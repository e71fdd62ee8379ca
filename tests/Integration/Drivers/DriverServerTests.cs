using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Calls that reach a driver's process at the wrong moment or with values at their ends: entries R18, R21, R26 and R27.
/// </summary>
public sealed class DriverServerTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const uint Mmap = (uint)Vb2Memory.Mmap;
    private const long LongestSeconds = 315_576_000_000;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    // R18: vb2_mmap tests VM_SHARED, which both kinds of shared mappings have.
    [Fact]
    public async Task R18_a_buffer_is_mapped_shared_in_both_ways_and_never_privately()
    {
        const uint readWrite = 3, isPrivate = 2, validate = 3, dropped = 8, sync = 0x8_0000;
        await using var rig = await VividRig.CreateAsync(daemon, "6.12", new VividOptions { FramesPerSecond = 0 });
        await rig.Device.RequestBuffersAsync(2, Mmap);
        Assert.Equal(Errno.EINVAL, await MapAsync(isPrivate));
        Assert.Equal(Errno.EINVAL, await MapAsync(0));
        Assert.Equal(Errno.EINVAL, await MapAsync(dropped | 1));
        Assert.Equal(Errno.None, await MapAsync(1));
        Assert.Equal(Errno.None, await MapAsync(validate));
        // MAP_SYNC is passed over by the one and refused by the other.
        Assert.Equal(Errno.None, await MapAsync(1 | sync));
        Assert.Equal((Errno)FramePin.Core.Abi.Errno.EOPNOTSUPP, await MapAsync(validate | sync));

        async Task<Errno> MapAsync(uint flags)
        {
            var (errno, address) = await rig.Device.File.MapAsync(rig.SpaceName, 4096, readWrite, flags, offset: 0);
            if (errno == Errno.None) rig.Machine.Munmap(rig.Lab.Space, address, 4096);
            return errno;
        }
    }

    // R21: a Duration has at most 10,000 years.
    [Fact]
    public async Task R21_durations_end_where_those_of_the_wire_do()
    {
        await using var rig = await VividRig.CreateAsync(daemon, "6.12", new VividOptions { FramesPerSecond = 0 });
        foreach (var (seconds, nanos) in new[]
        {
            (LongestSeconds + 1, 0), (400_000_000_000, 0), (long.MaxValue, 0), (-1L, 0), (0, -1), (0, 1_000_000_000),
        })
        {
            var time = new Duration { Seconds = seconds, Nanos = nanos };
            await RefusedAsync(() => PollAsync(time));
            await RefusedAsync(() => daemon.Client.Leases.OpenLeaseAsync(
                new OpenLeaseRequest { Parent = rig.MachineName, Ttl = time }).ResponseAsync);
        }

        // A capture without buffers begins read(), and has a frame soon.
        foreach (var seconds in new[] { LongestSeconds, 40L * 24 * 60 * 60, 1 })
        {
            var answer = await PollAsync(new Duration { Seconds = seconds, Nanos = 999_999_999 }).WaitAsync(Patience);
            Assert.Equal((0U, (uint)PollEvents.In), (answer.Errno, answer.Events));
        }

        Task<PollDriverFileResponse> PollAsync(Duration time) => daemon.Client.Drivers.PollDriverFileAsync(
            new PollDriverFileRequest
            {
                File = rig.Device.File.File,
                Events = (uint)PollEvents.In,
                Timeout = time,
            }).ResponseAsync;

        static async Task RefusedAsync(Func<Task> call) => Assert.Equal(
            "BAD_FIELD", FramePinException.From(await Assert.ThrowsAsync<RpcException>(call)).Reason);
    }

    // R26: the caller, and each later release of the file, waited for ever.
    [Fact]
    public async Task R26_a_call_is_answered_when_the_one_who_is_told_of_its_bug_throws_too()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        var driver = new Faulty { BugFound = _ => throw new InvalidOperationException("told") };
        await rig.ServeAsync("dev0", driver);
        for (var i = 0; i < 2; i++)
        {
            var file = await rig.OpenHandleAsync("dev0");
            Assert.Equal(
                Errno.EIO, (await file.IoctlAsync("", "BUG", new V4l2Control()).WaitAsync(Patience)).Errno);
            await file.DisposeAsync().AsTask().WaitAsync(Patience);
            Assert.Equal(i + 1, driver.Releases);
        }
    }

    // R27: calls side by side have no order, so that one may reach the driver's process behind the release.
    [Fact]
    public async Task R27_a_call_behind_the_release_finds_the_file_closed()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.12");
        var late = new LateCalls();
        using var client = FramePinClient.Connect(daemon.Endpoint, options => options.Interceptors.Add(late));
        // The release lasts until the late call is answered.
        var driver = new Faulty { Releasing = () => late.NextAnswerAsync() };
        using var stop = new CancellationTokenSource();
        var ready = new TaskCompletionSource();
        var serving = DriverServer.RunAsync(client, rig.MachineName, "dev0", driver, ready.SetResult, stop.Token);
        await ready.Task.WaitAsync(Patience, CancellationToken.None);
        for (var i = 0; i < 20; i++)
        {
            var file = await rig.OpenHandleAsync("dev0");
            await file.DisposeAsync().AsTask().WaitAsync(Patience);
            Assert.Equal((i + 1, Errno.ENODEV), (driver.Releases, late.Last));
        }

        Assert.Equal(0, driver.Ioctls);
        await stop.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => serving.WaitAsync(Patience));
    }

    /// <summary>A driver whose ioctls are bugs.</summary>
    private sealed class Faulty : DriverModule
    {
        private int _ioctls;

        public Func<Task>? Releasing { get; init; }

        public int Ioctls => _ioctls;

        public int Releases { get; private set; }

        public override string Name => "faulty";

        public override ValueTask<(Errno Errno, DriverFile? File)> OpenAsync(
            CancellationToken cancellationToken = default) =>
            ValueTask.FromResult<(Errno, DriverFile?)>((Errno.None, new FaultyFile(this)));

        private sealed class FaultyFile(Faulty driver) : DriverFile
        {
            public override ValueTask<IoctlResult> IoctlAsync(
                IoctlContext context, CancellationToken signal = default)
            {
                Interlocked.Increment(ref driver._ioctls);
                throw new InvalidOperationException(context.Command);
            }

            public override async ValueTask ReleaseAsync(CancellationToken cancellationToken = default)
            {
                if (driver.Releasing is { } releasing) await releasing();
                driver.Releases++;
            }
        }
    }

    /// <summary>Puts an ioctl behind each release on a driver's stream, and sees what it is answered.</summary>
    private sealed class LateCalls : Interceptor
    {
        private const ulong Late = 1UL << 40;
        private readonly System.Threading.Channels.Channel<Errno> _answers =
            System.Threading.Channels.Channel.CreateUnbounded<Errno>();

        public Errno Last { get; private set; }

        public async Task NextAnswerAsync() => Last = await _answers.Reader.ReadAsync().AsTask().WaitAsync(Patience);

        public override AsyncDuplexStreamingCall<TRequest, TResponse> AsyncDuplexStreamingCall<TRequest, TResponse>(
            ClientInterceptorContext<TRequest, TResponse> context,
            AsyncDuplexStreamingCallContinuation<TRequest, TResponse> continuation)
        {
            var call = continuation(context);
            if (call is not AsyncDuplexStreamingCall<DriverReply, DriverCall> driver) return call;
            return (AsyncDuplexStreamingCall<TRequest, TResponse>)(object)
                new AsyncDuplexStreamingCall<DriverReply, DriverCall>(
                    new Writer(this, driver.RequestStream), new Reader(driver.ResponseStream),
                    driver.ResponseHeadersAsync, driver.GetStatus, driver.GetTrailers, driver.Dispose);
        }

        private sealed class Reader(IAsyncStreamReader<DriverCall> stream) : IAsyncStreamReader<DriverCall>
        {
            private DriverCall? _late;

            public DriverCall Current { get; private set; } = new();

            public async Task<bool> MoveNext(CancellationToken cancellationToken)
            {
                if (_late is { } late)
                {
                    (Current, _late) = (late, null);
                    return true;
                }

                if (!await stream.MoveNext(cancellationToken)) return false;
                Current = stream.Current;
                if (Current.OperationCase == DriverCall.OperationOneofCase.Release)
                {
                    var ioctl = new IoctlCall { Command = "LATE" };
                    _late = new DriverCall { Call = Current.Call | Late, File = Current.File, Ioctl = ioctl };
                }

                return true;
            }
        }

        private sealed class Writer(LateCalls calls, IClientStreamWriter<DriverReply> stream)
            : IClientStreamWriter<DriverReply>
        {
            public WriteOptions? WriteOptions
            {
                get => stream.WriteOptions;
                set => stream.WriteOptions = value;
            }

            public Task CompleteAsync() => stream.CompleteAsync();

            public Task WriteAsync(DriverReply message) => WriteAsync(message, CancellationToken.None);

            public Task WriteAsync(DriverReply message, CancellationToken cancellationToken)
            {
                if (message.Answer is not { Call: >= Late } late)
                    return stream.WriteAsync(message, cancellationToken);
                calls._answers.Writer.TryWrite((Errno)late.Errno);
                return Task.CompletedTask;
            }
        }
    }
}
