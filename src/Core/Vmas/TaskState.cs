namespace FramePin.Core.Vmas;

/// <summary>Which signal waits for the task behind an address space.</summary>
public enum PendingSignal
{
    None,
    /// <summary>SIGUSR1 and its like: ends interruptible waits only.</summary>
    NonFatal,
    /// <summary>SIGKILL: ends killable waits.</summary>
    Fatal,
}

/// <summary>
/// The part of a task that the calls consult: capabilities, limits, signals. Set by commands; guarded by the turn.
/// Limits are in bytes; <see cref="Unlimited"/> is RLIM_INFINITY.
/// </summary>
public sealed record TaskState
{
    public const ulong Unlimited = ulong.MaxValue;

    public ulong RlimitAddressSpace { get; init; } = Unlimited;

    public ulong RlimitData { get; init; } = Unlimited;

    public ulong RlimitStack { get; init; } = 8UL << 20;

    public ulong RlimitMemlock { get; init; } = 8UL << 20;

    /// <summary>CAP_IPC_LOCK: memory locks are not limited.</summary>
    public bool CanLockMemory { get; init; }

    /// <summary>CAP_SYS_RAWIO: may map below mmap_min_addr.</summary>
    public bool CanMapLow { get; init; }

    /// <summary>CAP_SYS_ADMIN: may poison pages.</summary>
    public bool IsAdmin { get; init; } = true;

    /// <summary>Owns the machine's files, or may act as if (CAP_FOWNER).</summary>
    public bool OwnsFiles { get; init; } = true;

    /// <summary>The user who pays for memory that rings pin.</summary>
    public int User { get; init; }

    public PendingSignal Pending { get; init; }
}
