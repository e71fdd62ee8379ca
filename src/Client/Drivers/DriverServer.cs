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
/// is under way on it.
/// </remarks>
public sealed class DriverServer
{
    /// <summary>Name of the ActivitySource of the spans of a driver's calls.</summary>
    public const string ActivitySourceName = "FramePin.Drivers";

    private static readonly ActivitySource Activities = new(ActivitySourceName);

    private readonly DriverModule _module;
    private readonly Channel<DriverReply> _replies = Channel.CreateUnbounded<DriverReply>(
        new UnboundedChannelOptions { SingleReader = true });
    private readonly ConcurrentDictionary<ulong, OpenFile> _files = new();
    private readonly ConcurrentDictionary<ulong, CancellationTokenSource> _underWay = new();

    private readonly TaskCompletionSource _broken = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>The call that is waited for.</summary>
    private Task<bool> _next = Task.FromResult(false);

    private DriverServer(DriverModule module) => _module = module;

    /// <summary>
    /// Registers a node and serves it until it is cancelled or the daemon ends the stream. Releases every file at the
    /// end.
    /// </summary>
    /// <param name="client">The daemon.</param>
    /// <param name="machine">"machines/{m}".</param>
    /// <param name="node">The node as applications open it, such as "video0".</param>
    /// <param name="module">The driver, which stays the caller's. An exception from it is a bug of the driver: its
    /// caller is answered EIO, and the method ends with that exception.</param>
    /// <param name="ready">Called once the node can be opened; null for none.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="FramePinException">The node is taken, or the connection broke.</exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancellationToken"/> was signalled.</exception>
    public static async Task RunAsync(
        FramePinClient client, string machine, string node, DriverModule module, Action? ready = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(client);
        ArgumentNullException.ThrowIfNull(module);
        var server = new DriverServer(module);
        using var stream = client.Drivers.ServeDriver(cancellationToken: cancellationToken);
        var register = new RegisterDriver { Machine = machine, Node = node, Driver = module.Name };
        await stream.RequestStream.WriteAsync(
            new DriverReply { Register = register }, cancellationToken).ConfigureAwait(false);
        var sending = server.SendAsync(stream.RequestStream);
        try
        {
            while (await server.NextAsync(stream.ResponseStream, cancellationToken).ConfigureAwait(false))
            {
                var call = stream.ResponseStream.Current;
                if (call.OperationCase != DriverCall.OperationOneofCase.None) server.Take(call);
                else if (call.Refusal is { } refusal) throw refusal.ToRpcException();
                else ready?.Invoke();
            }
        }
        catch (RpcException exception) when (cancellationToken.IsCancellationRequested
            || !server._broken.Task.IsFaulted)
        {
            cancellationToken.ThrowIfCancellationRequested();
            throw FramePinException.From(exception);
        }
        catch when (server._broken.Task.IsFaulted)
        {
            await server.FinishAsync(
                stream, sending, cancellationToken).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            throw;
        }
        finally
        {
            server._replies.Writer.TryComplete();
            await sending.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            foreach (var file in server._files.Values) await ReleaseAsync(file).ConfigureAwait(false);
        }
    }

    /// <summary>Waits for the next call. Throws what the driver threw, if it did.</summary>
    private async Task<bool> NextAsync(
        IAsyncStreamReader<DriverCall> calls, CancellationToken cancellationToken)
    {
        _next = calls.MoveNext(cancellationToken);
        if (await Task.WhenAny(_next, _broken.Task).ConfigureAwait(false) == _broken.Task)
            await _broken.Task.ConfigureAwait(false);
        return await _next.ConfigureAwait(false);
    }

    /// <summary>
    /// Ends the stream in order, so that the daemon has every answer: what a stream that is torn down still carries may
    /// be lost.
    /// </summary>
    private async Task FinishAsync(
        AsyncDuplexStreamingCall<DriverReply, DriverCall> stream, Task sending,
        CancellationToken cancellationToken)
    {
        _replies.Writer.TryComplete();
        await sending.ConfigureAwait(false);
        await stream.RequestStream.CompleteAsync().ConfigureAwait(false);
        while (await _next.ConfigureAwait(false)) _next = stream.ResponseStream.MoveNext(cancellationToken);
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
            if (_underWay.TryGetValue(call.Interrupt, out var signal)) TryCancel(signal);
            return;
        }

        var file = _files.GetOrAdd(call.File, static _ => new OpenFile());
        var isRelease = call.OperationCase == DriverCall.OperationOneofCase.Release;
        // Counted here, in the order of the stream: a release behind this call waits for it.
        if (!isRelease) file.Enter();
        var interrupt = CancellationTokenSource.CreateLinkedTokenSource(file.Killed);
        _underWay[call.Call] = interrupt;
        _ = Task.Run(() => AnswerAsync(call, file, interrupt));
    }

    private async Task AnswerAsync(DriverCall call, OpenFile file, CancellationTokenSource interrupt)
    {
        DriverAnswer answer;
        Exception? bug = null;
        using var span = StartSpan(call);
        try
        {
            answer = await RunAsync(call, file, interrupt.Token).ConfigureAwait(false);
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
            // A bug of the driver's: its caller is not left waiting, and whoever runs the driver learns of it.
            span?.SetStatus(ActivityStatusCode.Error, exception.Message);
            bug = exception;
            answer = new DriverAnswer { Errno = (uint)Errno.EIO };
        }
        finally
        {
            if (call.OperationCase != DriverCall.OperationOneofCase.Release) file.Leave();
            _underWay.TryRemove(call.Call, out _);
            interrupt.Dispose();
        }

        answer.Call = call.Call;
        _replies.Writer.TryWrite(new DriverReply { Answer = answer });
        // Behind the answer, which goes out before the stream ends.
        if (bug is not null) _broken.TrySetException(bug);
    }

    private async Task<DriverAnswer> RunAsync(DriverCall call, OpenFile file, CancellationToken signal)
    {
        switch (call.OperationCase)
        {
            case DriverCall.OperationOneofCase.Open:
                var (errno, opened) = await _module.OpenAsync(signal).ConfigureAwait(false);
                file.File = opened;
                if (opened is null) _files.TryRemove(call.File, out _);
                return new DriverAnswer { Errno = (uint)errno };
            case DriverCall.OperationOneofCase.Ioctl when file.File is { } open && call.Ioctl.Request != 0:
                var uapi = new UapiIoctl(
                    call.Ioctl.Request, call.Ioctl.Argument.Memory, call.Ioctl.Value, call.Ioctl.AddressSpace,
                    call.Ioctl.NonBlocking);
                var (failed, argument, value) = await open.UapiIoctlAsync(uapi, signal).ConfigureAwait(false);
                return new DriverAnswer
                {
                    Errno = (uint)failed,
                    Argument = argument is { } left ? UnsafeByteOperations.UnsafeWrap(left) : call.Ioctl.Argument,
                    Value = value,
                };
            case DriverCall.OperationOneofCase.Ioctl when file.File is { } open:
                var context = new IoctlContext(
                    call.Ioctl.Command, call.Ioctl.Argument, call.Ioctl.AddressSpace, call.Ioctl.NonBlocking);
                var result = await open.IoctlAsync(context, signal).ConfigureAwait(false);
                return new DriverAnswer
                {
                    Errno = (uint)result.Errno,
                    Argument = result.Argument?.ToByteString()
                    ?? call.Ioctl.Argument
                };
            case DriverCall.OperationOneofCase.Transfer when file.File is { } open:
                var (refused, bytes) = await open.TransferAsync(call.Transfer, signal).ConfigureAwait(false);
                return new DriverAnswer { Errno = (uint)refused, Bytes = bytes };
            case DriverCall.OperationOneofCase.Map when file.File is { } open:
                var (error, device) = await open.MapAsync(call.Map, signal).ConfigureAwait(false);
                return new DriverAnswer { Errno = (uint)error, Device = device };
            case DriverCall.OperationOneofCase.Release:
                _files.TryRemove(call.File, out _);
                await ReleaseAsync(file).ConfigureAwait(false);
                return new DriverAnswer();
            default:
                return new DriverAnswer { Errno = (uint)Errno.ENODEV };
        }
    }

    private static async Task ReleaseAsync(OpenFile file)
    {
        await file.EndAsync().ConfigureAwait(false);
        if (file.File is { } open) await open.ReleaseAsync().ConfigureAwait(false);
        file.File = null;
        file.Dispose();
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

    /// <summary>A file and the calls that are under way on it.</summary>
    private sealed class OpenFile : IDisposable
    {
        private readonly Lock _lock = new();
        private readonly CancellationTokenSource _killed = new();
        private readonly TaskCompletionSource _idle = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private int _users;
        private bool _isEnding;

        public OpenFile() => Killed = _killed.Token;

        public DriverFile? File { get; set; }

        /// <summary>Cancelled when the file is released: who waits in it leaves.</summary>
        public CancellationToken Killed { get; }

        public void Dispose() => _killed.Dispose();

        public void Enter()
        {
            lock (_lock) _users++;
        }

        public void Leave()
        {
            lock (_lock)
            {
                _users--;
                if (_isEnding && _users == 0) _idle.TrySetResult();
            }
        }

        /// <summary>Signals who is in it and waits until nobody is.</summary>
        public Task EndAsync()
        {
            lock (_lock)
            {
                _isEnding = true;
                if (_users == 0) _idle.TrySetResult();
            }

            _killed.Cancel();
            return _idle.Task;
        }
    }
}
