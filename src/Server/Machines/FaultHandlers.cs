using System.Collections.Concurrent;
using System.Diagnostics;
using System.Threading.Channels;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Inspection;
using FramePin.Core.Kernel;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.V1;
using DeviceMapping = FramePin.Core.Backing.DeviceMapping;
using Errno = FramePin.Core.Abi.Errno;
using Machine = FramePin.Core.Machines.Machine;

namespace FramePin.Server.Machines;

/// <summary>A process that handles the faults of a device or a range: the questions to it, in order.</summary>
/// <param name="owner">The device or userfaultfd that it serves.</param>
internal sealed class FaultHandler(FaultOwner owner)
{
    private readonly Channel<FaultEvent> _outgoing = Channel.CreateUnbounded<FaultEvent>(
        new UnboundedChannelOptions { SingleReader = true });

    public FaultOwner Owner { get; } = owner;

    public ChannelReader<FaultEvent> Outgoing => _outgoing.Reader;

    public void Tell(FaultEvent happened) => _outgoing.Writer.TryWrite(happened);
}

/// <summary>The fault handlers of a machine, and the calls that wait for them. Any thread.</summary>
/// <remarks>
/// A fault is open from the moment when it is asked about until its answer is taken, its handler ends or its address
/// space exits.
/// </remarks>
internal sealed class FaultHandlers
{
    private readonly Machine _machine;
    private readonly Func<SpaceId, string> _nameOf;
    private readonly Action<ParkedPin> _resume;
    private readonly TimeSpan _patience;
    private readonly TimeProvider _time;
    private readonly ConcurrentDictionary<FaultOwner, FaultHandler> _handlers = new();
    private readonly ConcurrentDictionary<ulong, ServedFault> _open = new();
    private readonly ConcurrentDictionary<ServedFault, TaskCompletionSource> _waiting = new();
    private volatile bool _isStopping;

    /// <param name="machine">The machine whose faults are served.</param>
    /// <param name="nameOf">Full name of an address space.</param>
    /// <param name="resume">Takes a parked pin up.</param>
    /// <param name="limits">Longest wait of a touch.</param>
    /// <param name="time">The clock.</param>
    public FaultHandlers(Machine machine, Func<SpaceId, string> nameOf, Action<ParkedPin> resume,
        DaemonLimits limits, TimeProvider time)
    {
        _machine = machine;
        _nameOf = nameOf;
        _resume = resume;
        _patience = limits.DefaultDeadline;
        _time = time;
        machine.FaultAsked = Ask;
    }

    /// <summary>Serves a device from now on.</summary>
    public FaultHandler Register(Named<DeviceId> device)
    {
        if (_machine.Query<DeviceQuery, DeviceView?>(new(device.Thing)) is { } view
            && view.Mapping is not (DeviceMapping.ServedPfns or DeviceMapping.ServedPages))
            throw Refusals.Bad("register.device", $"is {view.Mapping}: only the served kinds ask a handler");
        var handler = new FaultHandler(FaultOwner.Of(device.Thing));
        // Known before the first fault can come.
        if (!_handlers.TryAdd(handler.Owner, handler)) throw Refusals.Exists($"{device.Name}/faultHandler");
        if (_machine.Call(new ServeDeviceCall(device.Thing)).IsOk) return handler;
        _handlers.TryRemove(handler.Owner, out _);
        throw Refusals.NotFound("DEVICE", device.Name);
    }

    /// <summary>Serves missing pages of a range from now on, through a userfaultfd of its own.</summary>
    public FaultHandler Register(SpaceId space, ulong start, ulong length)
    {
        var created = _machine.Call(new CreateUffdCall(space));
        if (!created.IsOk) throw Refusals.Errno("userfaultfd", created.Error);
        var fd = new UffdId((int)created.Value);
        var handler = new FaultHandler(FaultOwner.Of(fd));
        _handlers[handler.Owner] = handler;
        _machine.Call(new ServeUffdCall(fd));
        var result = _machine.Call(new RegisterUffdCall(fd, start, length, UffdModes.Missing));
        if (result.Error == Errno.None) return handler;
        End(handler);
        throw Refusals.Errno("UFFDIO_REGISTER", result.Error);
    }

    /// <summary>
    /// Takes a handler's answer. The handler is told of an answer that cannot be taken, and its fault waits on.
    /// </summary>
    public void Answer(FaultHandler handler, FaultAnswer answer)
    {
        var error = Errno.ENOENT;
        if (_open.TryGetValue(answer.Fault, out var fault) && fault.Owner == handler.Owner)
        {
            error = IsRange(handler) ? Fill(handler.Owner.Uffd, fault, answer) : Reply(fault, answer);
            if (error is Errno.None or Errno.ENOENT) Finish(fault);
        }

        if (error == Errno.None) return;
        var refusal = Refusals.Errno($"fault {answer.Kind}", error, ("fault", $"{answer.Fault}"));
        handler.Tell(new FaultEvent
        {
            Fault = answer.Fault,
            Errno = (uint)error,
            Refusal = Refusals.InStream(refusal, out _),
        });
    }

    /// <summary>The handler is gone: the calls that wait for it go on.</summary>
    public void End(FaultHandler handler)
    {
        if (!_handlers.TryRemove(new KeyValuePair<FaultOwner, FaultHandler>(handler.Owner, handler))) return;
        try
        {
            if (IsRange(handler)) _machine.Call(new CloseUffdCall(handler.Owner.Uffd));
            else _machine.Call(new StopServingCall(handler.Owner.Device));
            foreach (var fault in _open.Values.Where(fault => fault.Owner == handler.Owner)) Finish(fault);
        }
        catch (ObjectDisposedException)
        {
            // The machine was deleted before. Its calls wait no more.
        }
    }

    /// <summary>The address space has exited: nobody in it has anything to wait for.</summary>
    public void Drop(SpaceId space)
    {
        foreach (var fault in _open.Values.Where(fault => fault.Space == space)) Finish(fault);
    }

    /// <summary>The machine goes: nobody waits any more.</summary>
    public void StopWaiting()
    {
        _isStopping = true;
        foreach (var waiting in _waiting.Values) waiting.TrySetResult();
    }

    /// <summary>
    /// Waits until the fault at an address may be tried anew. FAILED_PRECONDITION (HANDLER_SILENT) when the handler
    /// takes longer than a call without a deadline may.
    /// </summary>
    public async Task WaitAsync(SpaceId space, ulong address, CancellationToken cancelled)
    {
        // Answered meanwhile.
        if (_machine.Query<WaitingFaultQuery, ServedFault?>(new(space, address)) is not { } fault) return;
        var waiting = _waiting.GetOrAdd(
            fault, static _ => new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously));
        if (!_open.ContainsKey(fault.Number)) Finish(fault);
        if (_isStopping) waiting.TrySetResult();
        try
        {
            await waiting.Task.WaitAsync(_patience, _time, cancelled).ConfigureAwait(false);
        }
        catch (TimeoutException)
        {
            throw Refusals.State(
                "HANDLER_SILENT",
                $"the handler of the fault at 0x{address:x} has not answered for {_patience.TotalSeconds:f0} s",
                ("address", $"0x{address:x}"));
        }

        if (_isStopping)
            throw Refusals.Unavailable("SHUTTING_DOWN", "the machine is going and nobody will answer this fault");
    }

    /// <summary>Under the machine's turn: takes note.</summary>
    private void Ask(ServedFault fault)
    {
        _open[fault.Number] = fault;
        if (!_handlers.TryGetValue(fault.Owner, out var handler)) return;
        handler.Tell(new FaultEvent
        {
            Fault = fault.Number,
            AddressSpace = _nameOf(fault.Space),
            Address = fault.Address,
            Page = fault.Page,
            Write = fault.IsWrite,
            Traceparent = Activity.Current?.Id ?? "",
        });
    }

    private Errno Reply(ServedFault fault, FaultAnswer answer)
    {
        var reply = WireEnums.ToCore(answer.Kind);
        return reply is { } known
            ? _machine.Call(new AnswerFaultCall(fault.Number, known, answer.Page)).Error
            : Errno.EINVAL;
    }

    private static bool IsRange(FaultHandler handler) => handler.Owner.Device == DeviceId.None;

    private Errno Fill(UffdId fd, ServedFault fault, FaultAnswer answer)
    {
        const int page = 4096;
        var isFilled = answer.Kind is FaultAnswerKind.Copy or FaultAnswerKind.ZeroPage;
        if (!isFilled && answer.Kind != FaultAnswerKind.Wake) return Errno.EINVAL;
        if (answer.Kind == FaultAnswerKind.Copy && answer.Data.Length != page) return Errno.EINVAL;
        if (isFilled)
        {
            var content = answer.Kind == FaultAnswerKind.Copy ? answer.Data.Span : default;
            var error = _machine.Call(new FillUffdCall(fd, fault.Address, content)).Error;
            if (error != Errno.None) return error == Errno.ESRCH ? Errno.ENOENT : error;
        }

        return _machine.Call(new WakeFaultCall(fault.Number)).Error;
    }

    /// <summary>The fault is open no more: pins that wait at it are taken up, and touches.</summary>
    private void Finish(ServedFault fault)
    {
        _open.TryRemove(fault.Number, out _);
        if (_waiting.TryRemove(fault, out var waiting)) waiting.TrySetResult();
        var parkedThere = new ParkedAtQuery(fault.Space, fault.Address);
        foreach (var parked in _machine.Query<ParkedAtQuery, IReadOnlyList<ParkedPin>>(parkedThere)) _resume(parked);
    }
}
