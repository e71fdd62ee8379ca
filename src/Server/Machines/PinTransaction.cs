using System.Diagnostics;
using System.Globalization;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Inspection;
using FramePin.Core.Pinning;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.Server.Telemetry;
using Grpc.Core;

namespace FramePin.Server.Machines;

/// <summary>Begins pins. Any thread.</summary>
internal sealed class PinTransactions(
    DaemonOptions options, ServerTelemetry telemetry, PinTracing tracing, TimeProvider time)
{
    /// <summary>A pin without a deadline of its own waits at most this long.</summary>
    public TimeSpan Patience => options.Limits.DefaultDeadline;

    public ServerTelemetry Telemetry => telemetry;

    public TimeProvider Time => time;

    /// <summary>Begins a pin, whose caller looks up names next.</summary>
    /// <param name="span">The pin's span, which gets the pin's tags; null: it has none of its own.</param>
    public PinTransaction Begin(Activity? span) => new(this, tracing(span), span);
}

/// <summary>
/// One pin from the first look-up until its caller can name it: make a vector, fill it, hold its frames, publish it,
/// count it. Disposing a transaction that was not committed gives back everything that it has by then.
/// </summary>
/// <remarks>
/// Pin, Gup, GetVaddrFrames, PinStream, ExportDevice and ImportDmaBuf go through here. One thread at a time. Takes the
/// vector's gate for moments, and holds no lock while a pin waits.
/// </remarks>
internal sealed class PinTransaction(PinTransactions owner, IPinSteps? steps, Activity? span) : IDisposable
{
    private PinScope _scope;
    private VectorRecord? _record;
    private ulong _hold;
    private bool _isReused;

    /// <summary>The vector held frames before, which stay whatever becomes of this pin.</summary>
    private bool _heldFrames;
    private bool _isOver;

    /// <summary>The vector. Its frames are the transaction's until <see cref="Commit"/>.</summary>
    public VectorRecord Record => _record ?? throw new InvalidOperationException("the pin has no vector yet");

    /// <summary>Makes a vector of <paramref name="slots"/> slots. RESOURCE_EXHAUSTED at a limit.</summary>
    public void Create(in PinScope scope, ulong slots)
    {
        steps?.Entered(PinStep.Create);
        _scope = scope;
        _record = scope.Host.Vectors.Create(slots, scope.Lease);
    }

    /// <summary>
    /// Takes a published, empty vector. FAILED_PRECONDITION when it holds frames or another pin is filling it,
    /// NOT_FOUND when it is gone.
    /// </summary>
    /// <param name="host">Machine of the vector.</param>
    /// <param name="record">The vector.</param>
    /// <param name="pages">Pages that will be asked for; 0 is allowed on a vector that holds frames.</param>
    public void Reuse(MachineHost host, VectorRecord record, ulong pages)
    {
        steps?.Entered(PinStep.Create);
        lock (record.Gate)
        {
            record.CheckReady();
            _heldFrames = record.Vector.Count > 0;
            if (_heldFrames && pages > 0)
                throw Refusals.State(
                    "VECTOR_NOT_EMPTY", "the vector holds frames, which a second get would leak: put them first");
            record.BeginFilling();
        }

        _scope = new PinScope(host, record.Lease, null);
        (_record, _isReused) = (record, true);
    }

    /// <summary>
    /// Makes a vector that holds a device's pages: created and filled in one step. NOT_FOUND when the device was
    /// deleted meanwhile, RESOURCE_EXHAUSTED at a limit.
    /// </summary>
    public void Export(in PinScope scope, Named<DeviceId> device)
    {
        steps?.Entered(PinStep.Create);
        _scope = scope;
        var view = scope.Host.Machine.Query<DeviceQuery, DeviceView?>(new(device.Thing));
        if (view is not { IsRam: true })
            throw Refusals.State("NO_PAGES", "the device's range is MMIO, which has no pages to hold");
        _record = scope.Host.Vectors.Create(device, view.Frames, scope.Lease);
        FilledAtOnce();
    }

    /// <summary>
    /// Makes a vector that holds the pages of a dma-buf too: created and filled in one step. FAILED_PRECONDITION for
    /// another vector, RESOURCE_EXHAUSTED at a limit.
    /// </summary>
    public void Import(in PinScope scope, VectorRecord source)
    {
        steps?.Entered(PinStep.Create);
        _scope = scope;
        _record = scope.Host.Vectors.Import(source, scope.Lease);
        FilledAtOnce();
    }

    private void FilledAtOnce()
    {
        steps?.Entered(PinStep.Fill);
        var outcome = new PinOutcome
        {
            Result = GupResult.Of(Record.Vector.Count),
            Reason = StopReason.None,
            Epoch = _scope.Host.Machine.CommandNumber,
        };
        Filled(new PinRange { Pages = (ulong)outcome.Result.Pages, Trace = span?.Context ?? default }, outcome);
    }

    /// <summary>
    /// Takes the frames, and waits where the pin parks: until the fault is answered, the caller gives up, the lease
    /// ends or the daemon's default deadline has passed.
    /// </summary>
    /// <returns>Frames taken (fewer is a legal partial result), or the errno of the first.</returns>
    /// <remarks>
    /// <see cref="OperationCanceledException"/> for a caller that gave up meanwhile. Allocates nothing where the pin
    /// does not park.
    /// </remarks>
    public ValueTask<PinOutcome> FillAsync(in PinRange range, CancellationToken cancelled)
    {
        steps?.Entered(PinStep.Fill);
        // The record is published already. Frames that it holds keep their origin.
        if (_isReused && !_heldFrames) Record.Note(OriginOf(range, epoch: 0));
        var pages = (long)Math.Min(range.Pages, long.MaxValue);
        var request = new PinRequest(range.Space!.Thing, range.Start, pages, range.Flags)
        {
            Call = range.Gup,
            Locked = range.Gup is null ? default : LockedArgument.Held,
        };
        var filling = _scope.Host.Commands.PinAsync(request, Record.Vector, steps, cancelled);
        return filling.IsCompletedSuccessfully
            ? EndAsync(range, filling.Result, cancelled)
            : WatchedAsync(range, filling, cancelled);
    }

    /// <summary>
    /// The scope's holder, if there is one, holds the frames from now on. The hold's number; 0 for frames without
    /// references, which nothing can hold. NOT_FOUND when the holder has ended.
    /// </summary>
    public ulong Hold()
    {
        if (_scope.Holder is not { } holder || !Record.Vector.GotRef) return 0;
        steps?.Entered(PinStep.Hold);
        return _hold = holder.Hold(Record);
    }

    /// <summary>
    /// Gives the vector its name, hangs it on its lease and counts its pages. NOT_FOUND when the lease has ended
    /// meanwhile.
    /// </summary>
    public void Commit()
    {
        steps?.Entered(PinStep.Publish);
        // Once it is published, another call may empty the vector.
        var pages = _heldFrames ? 0 : Record.Vector.Count;
        if (!_isReused) _scope.Host.Vectors.Publish(Record);
        else if (IsLeaseOver) throw LeaseRegistry.Gone(_scope.Lease!.Name);
        steps?.Entered(PinStep.Done);
        _isOver = true;
        owner.Telemetry.CountPinned(pages);
        if (_isReused) EndReuse();
    }

    /// <summary>
    /// The caller of a committed pin whose answer does not go out learns of no vector: the pin is given back. A pin
    /// with a request_id stays, since a repeat gets its answer.
    /// </summary>
    public void GiveBackWhenLost(ServerCallContext context, string requestId)
    {
        if (requestId.Length > 0) return;
        context.WhenLost(() =>
        {
            if (_hold != 0) _scope.Holder!.Release(_hold);
            if (((ILeased)Record).Release(out var pages)) owner.Telemetry.CountReleased(pages);
        });
    }

    /// <summary>Gives back what the pin has by now, unless it was committed.</summary>
    public void Dispose()
    {
        if (_isOver || _record is not { } record) return;
        _isOver = true;
        if (_hold != 0) _scope.Holder!.Release(_hold);
        if (!_isReused)
        {
            _scope.Host.Vectors.Release(record, dirty: false, out _);
            return;
        }

        if (!_heldFrames) _scope.Host.Machine.Put(record.Vector, isDirty: false);
        EndReuse();
    }

    /// <summary>The refusal of a pin that got no page, or fewer than it must.</summary>
    public static RpcException Refused(in PinRange range, in PinOutcome outcome)
    {
        var pages = outcome.Result.Pages;
        var stoppedAt = (range.Start & ~0xfffUL) + ((ulong)pages << 12);
        (string, string)[] metadata =
        [
            ("address", $"0x{stoppedAt:x}"), ("stop_reason", outcome.Reason.ToString()),
            ("pages", pages.ToString(CultureInfo.InvariantCulture)),
            ("pages_asked", range.Pages.ToString(CultureInfo.InvariantCulture)),
        ];
        return outcome.Result.Error == Errno.None
            ? Refusals.State(
                "PARTIAL_PIN",
                $"only {pages} of {range.Pages} pages could be pinned: {outcome.Reason} at 0x{stoppedAt:x}", metadata)
            : Refusals.Errno(range.Call, outcome.Result.Error, metadata);
    }

    private bool IsLeaseOver => _scope.Lease is { Ended.IsCancellationRequested: true };

    /// <summary>The pin has waited for watches of the memory that it takes away.</summary>
    private async ValueTask<PinOutcome> WatchedAsync(
        PinRange range, ValueTask<PinOutcome> filling, CancellationToken cancelled)
    {
        var outcome = await filling.ConfigureAwait(false);
        // A caller that gave up learns of no vector. A parked pin is killed by the token where it waits.
        if (outcome.Parked is null) cancelled.ThrowIfCancellationRequested();
        return await EndAsync(range, outcome, cancelled).ConfigureAwait(false);
    }

    private ValueTask<PinOutcome> EndAsync(in PinRange range, in PinOutcome outcome, CancellationToken cancelled)
    {
        if (outcome.Parked is { } parked) return WaitAsync(range, parked, cancelled);
        // A deadline that passed while the pages were taken: the caller learns of no vector.
        cancelled.ThrowIfCancellationRequested();
        Filled(range, outcome);
        return ValueTask.FromResult(outcome);
    }

    private async ValueTask<PinOutcome> WaitAsync(PinRange range, ParkedPin parked, CancellationToken cancelled)
    {
        var waiting = _scope.Host.Parked;
        using var expiry = new CancellationTokenSource(owner.Patience, owner.Time);
        using var either = CancellationTokenSource.CreateLinkedTokenSource(
            cancelled, expiry.Token, _scope.Lease?.Ended ?? default);
        var outcome = await waiting.WaitAsync(parked, either.Token).ConfigureAwait(false);
        // A caller that gave up learns of no vector.
        cancelled.ThrowIfCancellationRequested();
        if (expiry.IsCancellationRequested && outcome.Result.Error == Errno.EINTR) throw Refusals.Expired(range.Call);
        if (waiting.IsStopping && outcome.Result.Error == Errno.EINTR)
            throw Refusals.Unavailable("SHUTTING_DOWN", "the daemon is ending and nobody will resume this pin");
        Filled(range, outcome);
        return outcome;
    }

    private void Filled(in PinRange range, in PinOutcome outcome)
    {
        if (!_heldFrames) Record.Note(OriginOf(range, outcome.Epoch));
        if (span is { IsAllDataRequested: true }) Tag(span, range, outcome);
        if (outcome.Result.Error != Errno.None) owner.Telemetry.CountRefused(outcome.Result.Error);
        steps?.Entered(PinStep.Answer);
    }

    private PinOrigin OriginOf(in PinRange range, long epoch) => new(
        range.Space, range.Start, (range.Flags & GupFlags.Write) != 0, owner.Time.GetUtcNow().UtcDateTime, range.Trace,
        epoch);

    /// <summary>The vector may be used again. A lease that ended meanwhile has left it to this pin.</summary>
    private void EndReuse()
    {
        Record.EndFilling();
        if (IsLeaseOver && _scope.Host.Vectors.Release(Record, dirty: false, out var frames))
            owner.Telemetry.CountReleased(frames);
    }

    private void Tag(Activity pin, in PinRange range, in PinOutcome outcome)
    {
        pin.SetTag(TelemetryNames.Machine, _scope.Host.Id);
        pin.SetTag(TelemetryNames.AddressSpace, range.Space?.Id);
        pin.SetTag(TelemetryNames.Profile, _scope.Host.Machine.Profile.Name);
        pin.SetTag(TelemetryNames.PagesRequested, (long)range.Pages);
        pin.SetTag(TelemetryNames.PagesPinned, outcome.Result.Pages);
        pin.SetTag(TelemetryNames.Runs, Record.Vector.RunCount);
        pin.SetTag(TelemetryNames.FrameVector, (long)Record.Number);
        pin.SetTag(TelemetryNames.FrameKind, WireFrames.KindOf(Record.Vector).ToString());
        pin.SetTag(TelemetryNames.StopReason, outcome.Reason.ToString());
        pin.SetTag(TelemetryNames.Errno, outcome.Result.Error.ToString());
        pin.SetTag(TelemetryNames.Retries, outcome.Retries);
        pin.SetTag(TelemetryNames.Epoch, outcome.Epoch);
    }
}
