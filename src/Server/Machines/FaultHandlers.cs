using System.Collections.Concurrent;
using System.Diagnostics;
using System.Threading.Channels;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.V1;
using AddressSpace = FramePin.Core.Vmas.AddressSpace;
using Device = FramePin.Core.Backing.Device;
using Errno = FramePin.Core.Abi.Errno;
using FaultReply = FramePin.Core.Kernel.FaultReply;
using Machine = FramePin.Core.Machines.Machine;

namespace FramePin.Server.Machines;

/// <summary>A process that handles the faults of a device or a range: what it is asked, in order.</summary>
/// <param name="owner">The <see cref="Device"/> or <see cref="Userfaultfd"/> that it serves.</param>
internal sealed class FaultHandler(object owner)
{
    private readonly Channel<FaultEvent> _outgoing = Channel.CreateUnbounded<FaultEvent>(
        new UnboundedChannelOptions { SingleReader = true });

    public object Owner { get; } = owner;

    public ChannelReader<FaultEvent> Outgoing => _outgoing.Reader;

    public void Tell(FaultEvent happened) => _outgoing.Writer.TryWrite(happened);
}

/// <summary>The fault handlers of a machine, and whoever waits for them. Any thread.</summary>
/// <remarks>
/// A fault is open from the moment when it is asked about until its answer is taken, its handler ends or its address
/// space exits.
/// </remarks>
internal sealed class FaultHandlers
{
    private readonly Machine _machine;
    private readonly Func<AddressSpace, string> _nameOf;
    private readonly Action<ParkedPin> _resume;
    private readonly TimeSpan _patience;
    private readonly TimeProvider _time;
    private readonly ConcurrentDictionary<object, FaultHandler> _handlers = new();
    private readonly ConcurrentDictionary<ulong, ServedFault> _open = new();
    private readonly ConcurrentDictionary<ServedFault, TaskCompletionSource> _waiting = new();
    private volatile bool _isStopping;

    /// <param name="machine">Whose faults.</param>
    /// <param name="nameOf">Full name of an address space.</param>
    /// <param name="resume">Takes a parked pin up.</param>
    /// <param name="limits">How long a touch waits at most.</param>
    /// <param name="time">What that is measured by.</param>
    public FaultHandlers(Machine machine, Func<AddressSpace, string> nameOf, Action<ParkedPin> resume,
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
    public FaultHandler Register(Device device, string name)
    {
        if (device.Mapping is not (Core.Backing.DeviceMapping.ServedPfns or Core.Backing.DeviceMapping.ServedPages))
            throw Refusals.Bad("register.device", $"is {device.Mapping}: only the served kinds ask a handler");
        var handler = new FaultHandler(device);
        // Known before the first fault can come.
        if (!_handlers.TryAdd(device, handler)) throw Refusals.Exists($"{name}/faultHandler");
        if (_machine.Serve(device)) return handler;
        _handlers.TryRemove(device, out _);
        throw Refusals.NotFound("DEVICE", name);
    }

    /// <summary>Serves missing pages of a range from now on, through a userfaultfd of its own.</summary>
    public FaultHandler Register(AddressSpace space, ulong start, ulong length)
    {
        if (_machine.CreateUserfaultfd(space, out var error) is not { } fd) throw Refusals.Errno("userfaultfd", error);
        var handler = new FaultHandler(fd);
        _handlers[fd] = handler;
        _machine.Serve(fd);
        var result = _machine.RegisterUffd(fd, start, length, Core.Abi.UffdModes.Missing);
        if (result.Error == Errno.None) return handler;
        End(handler);
        throw Refusals.Errno("UFFDIO_REGISTER", result.Error);
    }

    /// <summary>Takes a handler's answer; what cannot be taken is told to the handler, and waits on.</summary>
    public void Answer(FaultHandler handler, FaultAnswer answer)
    {
        var error = Errno.ENOENT;
        if (_open.TryGetValue(answer.Fault, out var fault) && fault.Owner == handler.Owner)
        {
            error = handler.Owner is Userfaultfd fd ? Fill(fd, fault, answer) : Reply(fault, answer);
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

    /// <summary>The handler is gone: whoever waits for it goes on.</summary>
    public void End(FaultHandler handler)
    {
        if (!_handlers.TryRemove(new KeyValuePair<object, FaultHandler>(handler.Owner, handler))) return;
        try
        {
            if (handler.Owner is Userfaultfd fd) _machine.Close(fd);
            else _machine.StopServing((Device)handler.Owner);
            foreach (var fault in _open.Values.Where(fault => fault.Owner == handler.Owner)) Finish(fault);
        }
        catch (ObjectDisposedException)
        {
            // Deleted before, with whoever waited.
        }
    }

    /// <summary>The address space has exited: nobody in it has anything to wait for.</summary>
    public void Drop(AddressSpace space)
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
    public async Task WaitAsync(AddressSpace space, ulong address, CancellationToken cancelled)
    {
        // Answered meanwhile.
        if (_machine.WaitingFault(space, address) is not { } fault) return;
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
        return reply is { } known ? _machine.Answer(fault, known, answer.Page) : Errno.EINVAL;
    }

    private Errno Fill(Userfaultfd fd, ServedFault fault, FaultAnswer answer)
    {
        const int page = 4096;
        var isFilled = answer.Kind is FaultAnswerKind.Copy or FaultAnswerKind.ZeroPage;
        if (!isFilled && answer.Kind != FaultAnswerKind.Wake) return Errno.EINVAL;
        if (answer.Kind == FaultAnswerKind.Copy && answer.Data.Length != page) return Errno.EINVAL;
        if (isFilled)
        {
            var error = _machine.FillUffd(
                fd, fault.Address, answer.Kind == FaultAnswerKind.Copy ? answer.Data.Span : default).Error;
            if (error != Errno.None) return error == Errno.ESRCH ? Errno.ENOENT : error;
        }

        return _machine.Wake(fault) ? Errno.None : Errno.ENOENT;
    }

    /// <summary>The fault is open no more: pins that wait at it are taken up, and touches.</summary>
    private void Finish(ServedFault fault)
    {
        _open.TryRemove(fault.Number, out _);
        if (_waiting.TryRemove(fault, out var waiting)) waiting.TrySetResult();
        foreach (var parked in _machine.ParkedAt(fault.Space, fault.Address)) _resume(parked);
    }
}
