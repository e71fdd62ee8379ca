using System.Diagnostics.CodeAnalysis;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Frames;
using FramePin.Core.Inspection;
using FramePin.Core.Kernel;
using FramePin.Core.PageTables;
using FramePin.Core.Pinning;

namespace FramePin.Core.Machines;

/// <summary>
/// One emulated computer: memory, frames, files, devices, address spaces, profile and fault plan. It owns the turn and
/// is the only way into the rooms of Core from outside.
/// </summary>
/// <remarks>
/// Any thread. A command (every change of an area, an entry, the allocator or a file) takes the machine's turn and a
/// number; pins and unpins of resident pages take neither: they enter the <see cref="CountGate"/>. Lock order: turn,
/// gate, leaf locks. The same options and the same sequence of commands and counts give the same state,
/// bit by bit.
/// </remarks>
public sealed partial class Machine : IPinHost, IDisposable
{
    private readonly KernelState _kernel;
    private readonly PinTable _pins;
    private readonly Lock _turn = new();
    private readonly CommandWriter _writer = new();
    private readonly IMachineObserver? _observer;
    private bool _disposed;

    /// <summary>Guarded by the turn.</summary>
    private bool _isWatched;

    /// <summary>Frames kept from the allocator above which <see cref="_quarantineExceeded"/> is called.</summary>
    private ulong _quarantineBound = ulong.MaxValue;
    private Action? _quarantineExceeded;

    /// <summary>Makes a machine. Throws <see cref="ArgumentException"/> when the options are not sound.</summary>
    /// <param name="name">Last segment of its name.</param>
    /// <param name="options">Memory, kernel profile, and the rest of the hardware.</param>
    /// <param name="observer">Told about every command and count, from the first on; null for none.</param>
    public Machine(string name, MachineOptions options, IMachineObserver? observer = null)
    {
        if (options.Validate() is { } problem) throw new ArgumentException(problem, nameof(options));
        Name = name;
        Options = options;
        _observer = observer;
        var memory = new PhysicalMemory(
            $"framepin-{name}", options.Memory >> PageGeometry.PageShift,
            options.MovableMemory >> PageGeometry.PageShift);
        _kernel = new KernelState(options.Profile, memory, options.Thp)
        {
            UsesZeroPage = options.UsesZeroPage,
            CachesZeroedHoles = options.CachesZeroedHoles,
            HasProtectionKeys = options.HasProtectionKeys,
            HandlesMemoryFailure = options.HandlesMemoryFailure,
            PageTableLevels = options.PageTableLevels,
            Swap = options.Swap > 0 ? new SwapDevice(options.Swap, memory) : null,
            SoftDirty = options.TracksSoftDirty ? Pte.SoftDirty : 0,
        };
        _pins = new PinTable();
        _kernel.Pins = _pins;
        FillPool(PageGeometry.PudOrder, options.HugePages1G);
        FillPool(PageGeometry.PmdOrder, options.HugePages2M);
    }

    public string Name { get; }

    public MachineOptions Options { get; }

    public KernelProfile Profile => _kernel.Profile;

    /// <inheritdoc/>
    public ulong TaskSize => _kernel.TaskSize;

    /// <summary>Commands run so far: the epoch that a pin is stamped with.</summary>
    public long CommandNumber => _kernel.CommandNumber;

    public PinStatistics PinStatistics => _kernel.Memory.Statistics;

    /// <summary>
    /// Told about each fault that a handler is asked about. Called under the turn: it must only take note, and call
    /// nothing of the machine. Set once, before the first handler.
    /// </summary>
    public Action<ServedFault>? FaultAsked
    {
        get => _kernel.Served.Asked;
        set => _kernel.Served.Asked = value;
    }

    internal KernelState Context => _kernel;

    /// <summary>
    /// Runs a command: takes the turn, gives it the next number, runs it, audits where the options say so, and tells
    /// the observer.
    /// </summary>
    /// <remarks>
    /// The one way to change a machine but for counts of resident pages. Throws
    /// <see cref="ObjectDisposedException"/> when the machine was deleted.
    /// </remarks>
    public TResult Execute<TCommand, TResult>(in TCommand command)
        where TCommand : ICommand<TCommand, TResult>, allows ref struct =>
        Execute<TCommand, TResult>(command, null, default);

    /// <summary>Runs a command that answers as a system call does.</summary>
    public SyscallResult Call<TCommand>(in TCommand command)
        where TCommand : ISyscall<TCommand>, allows ref struct =>
        Execute<TCommand, SyscallResult>(command, null, default);

    /// <summary>The same, and tells about a pin's phase as soon as the turn is held.</summary>
    private TResult Execute<TCommand, TResult>(in TCommand command, IPinObserver? phases, PinPhase entered)
        where TCommand : ICommand<TCommand, TResult>, allows ref struct
    {
        using var held = TakeTurn();
        phases?.Entered(entered);
        return RunHeld<TCommand, TResult>(command);
    }

    /// <summary>Gives a command its number, runs it and tells the observer. Under the turn.</summary>
    private TResult RunHeld<TCommand, TResult>(in TCommand command)
        where TCommand : ICommand<TCommand, TResult>, allows ref struct
    {
        _kernel.CommandNumber++;
        var mark = MachineLog.Threw;
        try
        {
            var result = command.Run(new Turn(_kernel));
            mark = 0;
            return result;
        }
        finally
        {
            // A command that throws is a bug, and has a number all the same: a log without it could not be replayed.
            if (_observer is { } observer) Tell<TCommand, TResult>(observer, command, mark);
        }
    }

    /// <summary>Looks at the machine under its turn.</summary>
    /// <remarks>Throws <see cref="ObjectDisposedException"/> when the machine was deleted.</remarks>
    public TResult Query<TQuery, TResult>(in TQuery query)
        where TQuery : IQuery<TResult>, allows ref struct
    {
        using var held = TakeTurn();
        return query.Run(new Turn(_kernel));
    }

    /// <summary>
    /// Runs a command if it takes away no more than was announced. The caller announces what is missing to the watchers
    /// of the memory, waits for them outside the turn, and tries again.
    /// </summary>
    /// <param name="command">The command.</param>
    /// <param name="announced">Ranges whose watchers have agreed; null for none.</param>
    /// <param name="result">The command's answer, if it ran.</param>
    /// <param name="missing">Ranges that the command would take and that were not announced; empty if it ran.</param>
    /// <returns>False: the command did not run, has no number, and nothing was changed.</returns>
    /// <remarks>
    /// A machine that nobody watches (see <see cref="Watch"/>) runs every command, and allocates nothing for it.
    /// Throws <see cref="ObjectDisposedException"/> when the machine was deleted.
    /// </remarks>
    public bool TryExecute<TCommand, TResult>(
        in TCommand command, AnnouncedRanges? announced, [MaybeNullWhen(false)] out TResult result,
        out IReadOnlyList<TakenRange> missing)
        where TCommand : ICommand<TCommand, TResult>, IInvalidating, allows ref struct =>
        TryExecute(command, announced, null, default, out result, out missing);

    private bool TryExecute<TCommand, TResult>(
        in TCommand command, AnnouncedRanges? announced, IPinObserver? phases, PinPhase entered,
        [MaybeNullWhen(false)] out TResult result, out IReadOnlyList<TakenRange> missing)
        where TCommand : ICommand<TCommand, TResult>, IInvalidating, allows ref struct
    {
        using var held = TakeTurn();
        missing = _isWatched ? Missing(command, announced) : [];
        result = default;
        if (missing.Count > 0) return false;
        phases?.Entered(entered);
        result = RunHeld<TCommand, TResult>(command);
        return true;
    }

    /// <summary>The ranges that a command would take and that were not announced. Under the turn.</summary>
    private List<TakenRange> Missing<TCommand>(in TCommand command, AnnouncedRanges? announced)
        where TCommand : IInvalidating, allows ref struct
    {
        var taken = new List<TakenRange>();
        command.AddTaken(new Turn(_kernel), taken);
        if (announced is null) return taken;
        var missing = new List<TakenRange>();
        foreach (var range in taken) announced.AddMissing(range, missing);
        return missing;
    }

    /// <summary>
    /// Memory of the machine is watched from now on: <see cref="TryExecute"/> and <see cref="TryPin"/> run no command
    /// whose ranges were not announced. Commands that ran before are over when this returns.
    /// </summary>
    public void Watch()
    {
        using var held = TakeTurn();
        _isWatched = true;
    }

    /// <summary>The whole-structure audit: a sentence for each finding, empty when all is well.</summary>
    public IReadOnlyList<string> Audit() => Query<AuditQuery, IReadOnlyList<string>>(default);

    /// <summary>SHA-256 of the state: equal digests, equal states but for the contents of memory.</summary>
    public string Digest() => Query<DigestQuery, string>(default);

    /// <summary>Counters of the machine, as one consistent snapshot.</summary>
    public MachineStatistics Statistics() => Query<StatisticsQuery, MachineStatistics>(default);

    /// <summary>
    /// Has <paramref name="exceeded"/> called, on a thread of the pool and outside the turn, whenever a command leaves
    /// more than <paramref name="frames"/> free frames kept from the allocator.
    /// </summary>
    public void WatchQuarantine(ulong frames, Action exceeded)
    {
        using var held = TakeTurn();
        _quarantineBound = frames;
        _quarantineExceeded = exceeded;
    }

    /// <summary>
    /// A descriptor of the machine's whole memory, for a process on the host: the frame with a PFN lies at PFN times
    /// 4096. Its size is sealed; one that is read-only cannot be mapped writable, nor opened anew by another user. The
    /// caller owns it.
    /// </summary>
    public Microsoft.Win32.SafeHandles.SafeFileHandle OpenMemory(bool isReadOnly)
    {
        using var held = TakeTurn();
        return _kernel.Memory.Bytes.Open(isReadOnly);
    }

    public void Dispose()
    {
        lock (_turn)
        {
            if (_disposed) return;
            _disposed = true;
            _kernel.Freed = _pins.ReleaseVectors;
            _kernel.Dispose();
        }
    }

    /// <summary>
    /// Takes the turn. Frames whose last reference went beside the turn go to the allocator first; that is a command of
    /// its own, since it changes the allocator.
    /// </summary>
    private HeldTurn TakeTurn()
    {
        _turn.Enter();
        if (_disposed)
        {
            _turn.Exit();
            throw new ObjectDisposedException(nameof(Machine), "the machine was deleted");
        }

        _kernel.Memory.Gate.EnterTurn();
        // A replay drains where its log does, so that a look between two records changes nothing.
        if (!_kernel.Memory.HasPending || _kernel.IsReplay) return new HeldTurn(this);
        _kernel.CommandNumber++;
        new DrainCall().Run(new Turn(_kernel));
        if (_observer is { } observer) Tell<DrainCall, SyscallResult>(observer, default, 0);
        return new HeldTurn(this);
    }

    private void LeaveTurn()
    {
        try
        {
            if (Options.AuditsEachCommand) ThrowOnFinding();
        }
        finally
        {
            var exceeded = _kernel.Memory.Quarantine.Frames > _quarantineBound ? _quarantineExceeded : null;
            _kernel.Memory.Gate.LeaveTurn();
            _turn.Exit();
            if (exceeded is not null)
                ThreadPool.UnsafeQueueUserWorkItem(static call => call(), exceeded, preferLocal: false);
        }
    }

    private void Tell<TCommand, TResult>(IMachineObserver observer, in TCommand command, ushort mark)
        where TCommand : ICommand<TCommand, TResult>, allows ref struct
    {
        _writer.Clear();
        command.Write(_writer);
        var kind = (ushort)(CommandTable.KindOf<TCommand>() | mark);
        observer.Executed(_kernel.CommandNumber, kind, _writer.Written);
    }

    private void ThrowOnFinding()
    {
        var findings = new Auditor(_kernel).FindFaults();
        if (findings.Count > 0) throw new InvalidOperationException("audit: " + string.Join("; ", findings));
    }

    /// <summary>The processor has both sizes: a pool without pages answers as one that is used up.</summary>
    private void FillPool(int order, int pages)
    {
        var pool = new HugePool(order);
        _kernel.HugePools.Add(order, pool);
        for (var i = 0; i < pages; i++)
        {
            var taken = _kernel.Memory.Allocate(order, AllocationContext.Unmovable, FrameFlags.HugeTlb)
                ?? throw new ArgumentException($"no aligned room for {pages} huge pages of 2^{order} frames");
            _kernel.Memory.Frames.ClearCount(taken);
            pool.Free.Push(taken);
            pool.Total++;
        }
    }

    /// <summary>The turn, held until disposed.</summary>
    private readonly ref struct HeldTurn(Machine machine)
    {
        public void Dispose() => machine.LeaveTurn();
    }
}
