using System.Collections.Concurrent;
using System.Diagnostics;
using System.Threading.Channels;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Errno = FramePin.Core.Abi.Errno;
using Lease = FramePin.Server.Sessions.Lease;

namespace FramePin.Server.Drivers;

/// <summary>
/// A driver process that serves a node: the calls on their way to it, and the files that applications opened.
/// </summary>
/// <remarks>
/// Any thread. Ends with the driver's stream or lease. Calls that wait then, and later ones, are answered ENODEV.
/// </remarks>
internal sealed class ServedDriver(MachineHost host, string node, string driver, bool polls, int callsMax)
{
    /// <summary>The writer's thread runs the send continuation inline, so no pool thread is scheduled.</summary>
    private readonly Channel<DriverCall> _outgoing = Channel.CreateUnbounded<DriverCall>(
        new UnboundedChannelOptions { SingleReader = true, AllowSynchronousContinuations = true });

    private readonly ConcurrentDictionary<ulong, TaskCompletionSource<DriverAnswer>> _pending = new();
    private readonly Lock _lock = new();
    private ulong _nextCall;
    private long _answered;
    private bool _isGone;

    public MachineHost Host { get; } = host;

    public string Node { get; } = node;

    /// <summary>What it calls itself.</summary>
    public string Driver { get; } = driver;

    /// <summary>Its files have a poll method. Others are always ready.</summary>
    public bool Polls { get; } = polls;

    /// <summary>Files open now, by number.</summary>
    public ConcurrentDictionary<ulong, OpenDriverFile> Files { get; } = new();

    public long Answered => Interlocked.Read(ref _answered);

    /// <summary>Calls for the driver, in order.</summary>
    public ChannelReader<DriverCall> Outgoing => _outgoing.Reader;

    /// <summary>
    /// Asks the driver and waits for its answer; ENODEV when it is gone, or goes meanwhile. A cancelled caller leaves
    /// at once, and the driver is told by an interrupt that nobody takes its answer.
    /// </summary>
    /// <param name="call">The call.</param>
    /// <param name="cancelled">The caller gives up.</param>
    /// <param name="sent">Told when the call is on its way; null for nobody.</param>
    public async Task<DriverAnswer> CallAsync(
        DriverCall call, CancellationToken cancelled, Action<ulong>? sent = null)
    {
        if (Send(call) is not { } answer) return new DriverAnswer { Errno = (uint)Errno.ENODEV };
        sent?.Invoke(call.Call);
        using var registration = cancelled.Register(() => answer.TrySetCanceled(cancelled));
        try
        {
            var given = await answer.Task.ConfigureAwait(false);
            // The caller may have given up between the answer and here.
            cancelled.ThrowIfCancellationRequested();
            return given;
        }
        catch (OperationCanceledException)
        {
            Abandon(call.File, call.Call);
            throw;
        }
    }

    /// <summary>Nobody takes the answer of a call: what it gives away comes back.</summary>
    public void Abandon(ulong file, ulong call) =>
        _outgoing.Writer.TryWrite(new DriverCall { File = file, Interrupt = call, Abandoned = true });

    /// <summary>
    /// Asks the driver and waits for its answer also when it is cancelled, which the driver is told by an interrupt.
    /// </summary>
    /// <param name="call">The call.</param>
    /// <param name="cancelled">The caller gives up.</param>
    /// <param name="sent">Told when the call is on its way; null for nobody.</param>
    public async Task<DriverAnswer> CallToEndAsync(
        DriverCall call, CancellationToken cancelled, Action<ulong>? sent = null)
    {
        if (Send(call) is not { } answer) return new DriverAnswer { Errno = (uint)Errno.ENODEV };
        sent?.Invoke(call.Call);
        using var registration = cancelled.Register(
            () => _outgoing.Writer.TryWrite(new DriverCall { File = call.File, Interrupt = call.Call }));
        return await answer.Task.ConfigureAwait(false);
    }

    /// <summary>A signal for a call that is under way. Its caller takes the answer.</summary>
    public void Interrupt(ulong file, ulong call) =>
        _outgoing.Writer.TryWrite(new DriverCall { File = file, Interrupt = call });

    /// <summary>Tells the driver that an answer of it was not taken.</summary>
    public void Refuse(ulong call, Grpc.Core.RpcException refusal) =>
        _outgoing.Writer.TryWrite(new DriverCall { Call = call, Refusal = Refusals.InStream(refusal, out _) });

    /// <summary>The driver answers. False: no such call, or answered before.</summary>
    public bool Answer(DriverAnswer answer)
    {
        if (!_pending.TryRemove(answer.Call, out var waiting)) return false;
        Interlocked.Increment(ref _answered);
        waiting.TrySetResult(answer);
        return true;
    }

    /// <summary>
    /// The driver is gone. The calls that wait are answered on the pool: the thread of a lease's end has things to give
    /// back, and no time for the clients of these calls.
    /// </summary>
    public void End()
    {
        lock (_lock) _isGone = true;
        _outgoing.Writer.TryComplete();
        foreach (var (number, waiting) in _pending)
            if (_pending.TryRemove(number, out _))
                ThreadPool.UnsafeQueueUserWorkItem(
                    static waiting => waiting.TrySetResult(new DriverAnswer { Errno = (uint)Errno.ENODEV }), waiting,
                    preferLocal: false);
    }

    private TaskCompletionSource<DriverAnswer>? Send(DriverCall call)
    {
        // Goes on where the driver's answer is read, which takes it to the application.
        var answer = new TaskCompletionSource<DriverAnswer>();
        lock (_lock)
        {
            if (_isGone) return null;
            if (_pending.Count >= callsMax)
                throw Refusals.Limit("driver_calls_max", (ulong)callsMax, (ulong)_pending.Count + 1);
            call.Call = ++_nextCall;
            call.Traceparent = Activity.Current?.Id ?? "";
            _pending[call.Call] = answer;
        }

        // Outside the lock, as sending may run in it. Between calls that come side by side there is no order.
        _outgoing.Writer.TryWrite(call);
        return answer;
    }
}

/// <summary>A node's file that an application has open.</summary>
internal sealed class OpenDriverFile(
    ulong number, ServedDriver driver, Lease? lease, bool isNonBlocking, Action<OpenDriverFile> close)
    : ILeased
{
    public ulong Number => number;

    public ServedDriver Driver => driver;

    /// <summary>The lease that closes the file at its end; null: the driver's stream does.</summary>
    public Lease? Lease => lease;

    /// <summary>O_NONBLOCK.</summary>
    public bool IsNonBlocking => isNonBlocking;

    /// <summary>Closed, or its driver is gone. Set once, before the driver is told.</summary>
    public bool IsClosed { get; set; }

    /// <summary>Calls that InterruptDriverCall can find.</summary>
    public TaggedCalls Tagged { get; } = new(driver, number);

    bool ILeased.IsVector => false;

    long ILeased.Pages => 0;

    bool ILeased.Release(out long pages)
    {
        pages = 0;
        close(this);
        return true;
    }
}
