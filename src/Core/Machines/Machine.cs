using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Frames;
using FramePin.Core.PageTables;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;

namespace FramePin.Core.Machines;

/// <summary>
/// One emulated computer: memory, frames, files, devices, address spaces, profile and fault plan. Ties the rooms
/// together and is the only way into them from outside.
/// </summary>
/// <remarks>
/// Threads: every member may be called from any thread. A command (whatever changes a VMA, an entry, the allocator or a
/// file) takes the machine's turn and a number; pins and unpins of resident pages run beside each other without one
/// (see <see cref="CountGate"/>). Lock order: turn, gate, vector registry. Same options and same sequence of commands
/// give the same state, bit by bit.
/// </remarks>
public sealed partial class Machine : IDisposable
{
    /// <summary>Pins of one address space that may wait for somebody at once.</summary>
    public const int MaxParkedPerSpace = 64;

    private readonly KernelState _kernel;
    private readonly Lock _turn = new();
    private readonly Lock _registry = new();

    /// <summary>Live vectors, for the audit. Guarded by <see cref="_registry"/>.</summary>
    private readonly HashSet<FrameVector> _vectors = [];

    /// <summary>Frames that devices own. Guarded by the turn.</summary>

    private readonly List<ParkedPin> _parked = [];

    /// <summary>
    /// Rings that somebody has open, and what each user is charged for them in pages. Guarded by the turn.
    /// </summary>
    private readonly List<Ring> _rings = [];
    private readonly Dictionary<int, long> _lockedByUser = [];
    private ulong _nextMmio;
    private int _nextSpace;
    private int _nextDevice;
    private long _commands;
    private bool _disposed;

    /// <summary>Makes a machine. Throws <see cref="ArgumentException"/> when the options are not sound.</summary>
    public Machine(string name, MachineOptions options)
    {
        if (options.Validate() is { } problem) throw new ArgumentException(problem, nameof(options));
        Name = name;
        Options = options;
        var memory = new PhysicalMemory(
            $"framepin-{name}", options.Memory >> PageGeometry.PageShift,
            options.MovableMemory >> PageGeometry.PageShift);
        _kernel = new KernelState(options.Profile, memory, options.Thp)
        {
            UsesZeroPage = options.UsesZeroPage,
            CachesZeroedHoles = options.CachesZeroedHoles,
            HasProtectionKeys = options.HasProtectionKeys,
            HandlesMemoryFailure = options.HandlesMemoryFailure,
            Swap = options.Swap > 0 ? new SwapDevice(options.Swap, memory) : null,
            SoftDirty = options.TracksSoftDirty ? PageTables.Pte.SoftDirty : 0,
        };
        // MMIO starts one gigabyte behind the RAM, so that a PFN that runs over the end of one meets nothing of the
        // other.
        _nextMmio = memory.Frames.Count + (1UL << PageGeometry.PudOrder);
        FillPool(PageGeometry.PudOrder, options.HugePages1G);
        FillPool(PageGeometry.PmdOrder, options.HugePages2M);
    }

    public string Name { get; }

    public MachineOptions Options { get; }

    public KernelProfile Profile => _kernel.Profile;

    /// <summary>Commands run so far: the epoch that a pin is stamped with.</summary>
    public long CommandNumber => Volatile.Read(ref _commands);

    public PinStatistics PinStatistics => _kernel.Memory.Statistics;

    /// <summary>Told when more frames than this are kept from the allocator.</summary>
    private ulong _quarantineBound = ulong.MaxValue;
    private Action? _quarantineExceeded;

    internal KernelState Context => _kernel;

    /// <summary>Counters of the machine, as one consistent snapshot.</summary>
    public MachineStatistics Statistics()
    {
        using var turn = EnterQuery();
        return new MachineStatistics
        {
            Frames = _kernel.Memory.Frames.Count,
            FreeFrames = _kernel.Memory.Normal.FreeFrames + _kernel.Memory.Movable.FreeFrames,
            AddressSpaces = _kernel.Spaces.Count,
            Files = _kernel.Files.Count,
            Devices = _kernel.Devices.Count,
            Vectors = VectorSnapshot().Count,
            PageTables = _kernel.Tables.InUse,
            PinsAcquired = PinStatistics.Acquired,
            PinsReleased = PinStatistics.Released,
            Faults = _kernel.FaultCount,
            Retries = _kernel.RetryCount,
            QuarantinedFrames = _kernel.Memory.Quarantine.Frames,
            Migrations = _kernel.MigrationCount,
            Commands = _commands,
            ParkedPins = _parked.Count,
        };
    }

    /// <summary>Replaces what the calls consult of a task: limits, capabilities, pending signals.</summary>
    public Errno SetTask(AddressSpace space, TaskState task)
    {
        using var turn = EnterTurn();
        if (space.Exited) return Errno.ESRCH;
        space.Task = task;
        return Errno.None;
    }

    public void AddFaultRule(FaultRule rule)
    {
        using var turn = EnterTurn();
        _kernel.Plan.Add(rule);
    }

    public void ClearFaultPlan()
    {
        using var turn = EnterTurn();
        _kernel.Plan.Clear();
    }

    public void Dispose()
    {
        lock (_turn)
        {
            if (_disposed) return;
            _disposed = true;
            _kernel.Freed = ReleaseVectors;
            _kernel.Dispose();
        }
    }

    /// <summary>Takes the turn for a command.</summary>
    private Turn EnterTurn()
    {
        var turn = EnterQuery();
        _commands++;
        return turn;
    }

    /// <summary>Takes the turn for a look that changes nothing but may free what unpins left behind.</summary>
    private Turn EnterQuery()
    {
        _turn.Enter();
        if (_disposed)
        {
            _turn.Exit();
            throw new ObjectDisposedException(nameof(Machine), "the machine was deleted");
        }

        _kernel.Memory.Gate.EnterTurn();
        _kernel.Memory.DrainPending();
        return new Turn(this);
    }

    private List<FrameVector> VectorSnapshot()
    {
        lock (_registry) return [.. _vectors];
    }

    private void ReleaseVectors()
    {
        lock (_registry)
        {
            foreach (var vector in _vectors) vector.Release();
            _vectors.Clear();
        }
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

    /// <summary>The turn: held until disposed.</summary>
    private readonly ref struct Turn(Machine machine)
    {
        public void Dispose()
        {
            try
            {
                if (machine.Options.AuditsEachCommand) machine.ThrowOnFinding();
            }
            finally
            {
                var exceeded = machine._kernel.Memory.Quarantine.Frames > machine._quarantineBound
                    ? machine._quarantineExceeded
                    : null;
                machine._kernel.Memory.Gate.LeaveTurn();
                machine._turn.Exit();
                if (exceeded is not null)
                    ThreadPool.UnsafeQueueUserWorkItem(static call => call(), exceeded, preferLocal: false);
            }
        }
    }
}

/// <summary>Counters of a machine at one moment. Frames and pages of 4 KiB.</summary>
public sealed record MachineStatistics
{
    public required ulong Frames { get; init; }

    public required ulong FreeFrames { get; init; }

    public required int AddressSpaces { get; init; }

    public required int Files { get; init; }

    public required int Devices { get; init; }

    public required int Vectors { get; init; }

    public required int PageTables { get; init; }

    public required long PinsAcquired { get; init; }

    public required long PinsReleased { get; init; }

    public required long Faults { get; init; }

    public required long Retries { get; init; }

    public required long Migrations { get; init; }

    /// <summary>Free frames kept from the allocator, since a process outside may have them mapped.</summary>
    public required ulong QuarantinedFrames { get; init; }

    public required long Commands { get; init; }

    public required int ParkedPins { get; init; }
}
