using System.Collections.Concurrent;
using System.Diagnostics;
using System.Threading.Channels;
using FramePin.Client;
using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;

namespace FramePin.Drivers;

/// <summary>Serves a driver's files to applications through the daemon: the driver's process.</summary>
/// <remarks>
/// Calls run beside each other, as threads of several processes do; the driver locks. A file is released when no call
/// is under way on it. The node hangs on the driver's lease: a process that is frozen past it is gone for everybody.
/// </remarks>
public sealed partial class DriverServer
{
    /// <summary>Name of the ActivitySource of the spans of a driver's calls.</summary>
    public const string ActivitySourceName = "FramePin.Drivers";

    private static readonly ActivitySource Activities = new(ActivitySourceName);

    private readonly DriverModule _module;
    private readonly Channel<DriverReply> _replies = Channel.CreateUnbounded<DriverReply>(
        new UnboundedChannelOptions { SingleReader = true });
    private readonly ConcurrentDictionary<ulong, OpenFile> _files = new();
    private readonly ConcurrentDictionary<ulong, CancellationTokenSource> _underWay = new();

    private DriverServer(DriverModule module) => _module = module;

    /// <summary>
    /// Registers a node and serves it until it is cancelled or the daemon ends the stream. Releases every file at the
    /// end.
    /// </summary>
    /// <param name="client">The daemon.</param>
    /// <param name="machine">"machines/{m}".</param>
    /// <param name="node">The node as applications open it, such as "video0".</param>
    /// <param name="module">The driver, which stays the caller's. An exception from it is a bug of the driver: its
    /// caller is answered EIO, <see cref="DriverModule.BugFound"/> is told, and the other calls go on.</param>
    /// <param name="ready">Called once the node can be opened; null for none.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="FramePinException">The node is taken, the connection broke, or the lease has ended.
    /// </exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancellationToken"/> was signalled.</exception>
    public static async Task RunAsync(
        FramePinClient client, string machine, string node, DriverModule module, Action? ready = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(client);
        ArgumentNullException.ThrowIfNull(module);
        if (module.Lease.Length > 0)
        {
            await ServeAsync(client, machine, node, module, module.Lease, ready, cancellationToken)
                .ConfigureAwait(false);
            return;
        }

        await using var lease = await FramePinLease.OpenAsync(
            client, machine, module.Name, cancellationToken: cancellationToken).ConfigureAwait(false);
        await ServeAsync(client, machine, node, module, lease.Name, ready, cancellationToken).ConfigureAwait(false);
    }

    private static async Task ServeAsync(
        FramePinClient client, string machine, string node, DriverModule module, string lease, Action? ready,
        CancellationToken cancellationToken)
    {
        var server = new DriverServer(module);
        using var stream = client.Drivers.ServeDriver(cancellationToken: cancellationToken);
        var register = new RegisterDriver
        {
            Machine = machine,
            Node = node,
            Driver = module.Name,
            Lease = lease,
            Polls = true,
        };
        await stream.RequestStream.WriteAsync(
            new DriverReply { Register = register }, cancellationToken).ConfigureAwait(false);
        var sending = server.SendAsync(stream.RequestStream);
        try
        {
            while (await stream.ResponseStream.MoveNext(cancellationToken).ConfigureAwait(false))
            {
                var call = stream.ResponseStream.Current;
                if (call.OperationCase != DriverCall.OperationOneofCase.None) server.Take(call);
                else if (call.Refusal is { } refusal) throw refusal.ToRpcException();
                else ready?.Invoke();
            }
        }
        catch (RpcException exception)
        {
            cancellationToken.ThrowIfCancellationRequested();
            throw FramePinException.From(exception);
        }
        finally
        {
            server._replies.Writer.TryComplete();
            await sending.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            foreach (var (number, file) in server._files)
                await server.ReleaseAtEndAsync(number, file).ConfigureAwait(false);
        }
    }

    private async Task SendAsync(IClientStreamWriter<DriverReply> stream)
    {
        await foreach (var reply in _replies.Reader.ReadAllAsync().ConfigureAwait(false))
            await stream.WriteAsync(reply).ConfigureAwait(false);
    }

    private void Take(DriverCall call)
    {
        if (call.OperationCase == DriverCall.OperationOneofCase.Interrupt)
        {
            if (call.Abandoned && _files.TryGetValue(call.File, out var asked)
                && asked.Abandon(call.Interrupt) is { } takeBack)
                _ = TakeBackAsync(takeBack);
            if (_underWay.TryGetValue(call.Interrupt, out var signal)) TryCancel(signal);
            return;
        }

        if (call.OperationCase == DriverCall.OperationOneofCase.Open) _files.TryAdd(call.File, new OpenFile());
        var isRelease = call.OperationCase == DriverCall.OperationOneofCase.Release;
        // Counted here, in the order of the stream: a release behind this call waits for it. Calls that come side by
        // side have no order: one behind the release finds the file closed, and nothing is made for it.
        if (!_files.TryGetValue(call.File, out var file) || !(isRelease ? file.TryEnd() : file.TryEnter(call.Call)))
        {
            var answer = new DriverAnswer { Call = call.Call, Errno = isRelease ? 0 : (uint)Errno.ENODEV };
            _replies.Writer.TryWrite(new DriverReply { Answer = answer });
            return;
        }

        var interrupt = CancellationTokenSource.CreateLinkedTokenSource(file.Killed);
        _underWay[call.Call] = interrupt;
        _ = Task.Run(() => AnswerAsync(call, file, interrupt));
    }

    private async Task AnswerAsync(DriverCall call, OpenFile file, CancellationTokenSource interrupt)
    {
        DriverAnswer answer;
        Func<Task>? takeBack = null;
        using var span = StartSpan(call);
        try
        {
            (answer, takeBack) = await RunAsync(call, file, interrupt.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (interrupt.IsCancellationRequested)
        {
            answer = new DriverAnswer { Errno = (uint)Errno.ERESTARTSYS };
        }
        catch (InvalidProtocolBufferException)
        {
            // The argument is not what the command wants: as a pointer that leads nowhere.
            answer = new DriverAnswer { Errno = (uint)Errno.EFAULT };
        }
        catch (Exception exception) when (exception is RpcException or FramePinException)
        {
            // The daemon refused a call of the driver's, or is gone: the device does not work.
            span?.SetStatus(ActivityStatusCode.Error, exception.Message);
            answer = new DriverAnswer { Errno = (uint)Errno.EIO };
        }
        catch (Exception exception)
        {
            // A bug of the driver's ends this call alone: the node is not taken away from the other applications.
            span?.SetStatus(ActivityStatusCode.Error, exception.Message);
            TellBug(exception);
            answer = new DriverAnswer { Errno = (uint)Errno.EIO };
        }
        finally
        {
            _underWay.TryRemove(call.Call, out _);
            interrupt.Dispose();
        }

        // An open that failed left no file, which nobody will release.
        if (call.OperationCase == DriverCall.OperationOneofCase.Open && file.File is null)
            _files.TryRemove(call.File, out _);

        if (call.OperationCase != DriverCall.OperationOneofCase.Release && file.Leave(call.Call, takeBack)
            && takeBack is not null)
            await TakeBackAsync(takeBack).ConfigureAwait(false);
        answer.Call = call.Call;
        _replies.Writer.TryWrite(new DriverReply { Answer = answer });
    }

    private async Task<(DriverAnswer Answer, Func<Task>? TakeBack)> RunAsync(
        DriverCall call, OpenFile file, CancellationToken signal)
    {
        switch (call.OperationCase)
        {
            case DriverCall.OperationOneofCase.Open:
                var (errno, opened) = await _module.OpenAsync(signal).ConfigureAwait(false);
                file.File = opened;
                return (new DriverAnswer { Errno = (uint)errno }, null);
            case DriverCall.OperationOneofCase.Ioctl when file.File is { } open:
                return await RunIoctlAsync(open, call.Ioctl, signal).ConfigureAwait(false);
            case DriverCall.OperationOneofCase.Transfer when file.File is { } open:
                var (refused, bytes) = await open.TransferAsync(call.Transfer, signal).ConfigureAwait(false);
                return (new DriverAnswer { Errno = (uint)refused, Bytes = bytes }, null);
            case DriverCall.OperationOneofCase.Poll when file.File is { } open:
                return (await PollAsync(open, call.Poll, signal).ConfigureAwait(false), null);
            case DriverCall.OperationOneofCase.Map when file.File is { } open:
                var (error, device) = await open.MapAsync(call.Map, signal).ConfigureAwait(false);
                return (new DriverAnswer { Errno = (uint)error, Device = device }, null);
            case DriverCall.OperationOneofCase.Release:
                await ReleaseAsync(call.File, file).ConfigureAwait(false);
                return (new DriverAnswer(), null);
            default:
                return (new DriverAnswer { Errno = (uint)Errno.ENODEV }, null);
        }
    }

    private static async Task<(DriverAnswer Answer, Func<Task>? TakeBack)> RunIoctlAsync(
        DriverFile file, IoctlCall call, CancellationToken signal)
    {
        if (call.Request == 0)
        {
            var context = new IoctlContext(call.Command, call.Argument, call.AddressSpace, call.NonBlocking);
            var result = await file.IoctlAsync(context, signal).ConfigureAwait(false);
            var argument = result.Argument?.ToByteString() ?? call.Argument;
            return (new DriverAnswer { Errno = (uint)result.Errno, Argument = argument }, result.TakeBack);
        }

        var uapi = new UapiIoctl(
            call.Request, call.Argument.Memory, call.Value, call.AddressSpace, call.NonBlocking);
        var answer = await file.UapiIoctlAsync(uapi, signal).ConfigureAwait(false);
        return (new DriverAnswer
        {
            Errno = (uint)answer.Errno,
            Argument = answer.Argument is { } left ? UnsafeByteOperations.UnsafeWrap(left) : call.Argument,
            Value = answer.Value,
        }, answer.TakeBack);
    }

    /// <summary>The time of poll runs out as a signal that the caller does not see.</summary>
    private static async Task<DriverAnswer> PollAsync(DriverFile file, PollCall call, CancellationToken signal)
    {
        var longest = TimeSpan.FromDays(40);
        // Longer ones may lie outside of what a TimeSpan holds.
        var time = call.Timeout is { } timeout
            ? timeout.Seconds < (long)longest.TotalSeconds ? timeout.ToTimeSpan() : longest
            : (TimeSpan?)null;
        using var end = CancellationTokenSource.CreateLinkedTokenSource(signal);
        if (time > TimeSpan.Zero) end.CancelAfter(time.Value);
        var (errno, events) = await file.PollAsync(
            (PollEvents)call.Events, waits: time != TimeSpan.Zero, end.Token).ConfigureAwait(false);
        if (errno == Errno.ERESTARTSYS && !signal.IsCancellationRequested) (errno, events) = (Errno.None, default);
        return new DriverAnswer { Errno = (uint)errno, Events = (uint)events };
    }

    /// <summary>Takes back what an answer gave away that nobody took.</summary>
    private async Task TakeBackAsync(Func<Task> takeBack)
    {
        try
        {
            await takeBack().ConfigureAwait(false);
        }
        catch (Exception exception) when (exception is RpcException or FramePinException or ObjectDisposedException)
        {
            // The daemon or the driver is gone, and what was given away with it.
        }
        catch (Exception exception)
        {
            TellBug(exception);
        }
    }

    /// <summary>Releases a file, which stays known until then. Its end has begun, and comes once.</summary>
    private async Task ReleaseAsync(ulong number, OpenFile file)
    {
        try
        {
            await file.EndAsync().ConfigureAwait(false);
            if (file.File is { } open) await open.ReleaseAsync().ConfigureAwait(false);
        }
        finally
        {
            _files.TryRemove(number, out _);
            file.Released();
            file.Dispose();
        }
    }

    /// <summary>A bug in the release of one file leaves the others theirs.</summary>
    private async Task ReleaseAtEndAsync(ulong number, OpenFile file)
    {
        if (!file.TryEnd())
        {
            await file.IsReleased.ConfigureAwait(false);
            return;
        }

        try
        {
            await ReleaseAsync(number, file).ConfigureAwait(false);
        }
        catch (Exception exception) when (exception is RpcException or FramePinException)
        {
            // The daemon is gone, and what the file held with it.
        }
        catch (Exception exception)
        {
            TellBug(exception);
        }
    }

    /// <summary>
    /// Tells <see cref="DriverModule.BugFound"/>. What that throws is left to
    /// <see cref="TaskScheduler.UnobservedTaskException"/>: the call is answered all the same.
    /// </summary>
    private void TellBug(Exception bug)
    {
        try
        {
            _module.BugFound?.Invoke(bug);
        }
        catch (Exception exception)
        {
            _ = Task.FromException(exception);
        }
    }

    private static void TryCancel(CancellationTokenSource signal)
    {
        try
        {
            signal.Cancel();
        }
        catch (ObjectDisposedException)
        {
            // The call has ended meanwhile.
        }
    }

    private static Activity? StartSpan(DriverCall call)
    {
        if (!ActivityContext.TryParse(call.Traceparent, null, isRemote: true, out var parent)) return null;
        var name = call.OperationCase == DriverCall.OperationOneofCase.Ioctl
            ? call.Ioctl.Command
            : call.OperationCase.ToString();
        return Activities.StartActivity(name, ActivityKind.Server, parent);
    }
}
