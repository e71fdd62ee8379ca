using FramePin.Core.Abi;
using FramePin.Core.Addressing;

namespace FramePin.Core.Faults;

/// <summary>Named places where the kernel may drop mmap_lock, fail or be interrupted: what a plan can decide.</summary>
public enum ChoicePoint
{
    /// <summary>A page fault is about to be handled.</summary>
    Fault,
    /// <summary>A user page is about to be allocated.</summary>
    Allocation,
    /// <summary>A pin is about to take mmap_lock (at its start, or again after it was dropped).</summary>
    LockTake,
    /// <summary>A folio is about to be migrated for a long-term pin.</summary>
    Migration,
}

/// <summary>What a rule makes of a choice point.</summary>
public enum FaultAction
{
    None,
    /// <summary>VM_FAULT_RETRY: the lock is dropped and taken again at once.</summary>
    Retry,
    /// <summary>VM_FAULT_RETRY, and the pin parks until it is resumed by a command of its own.</summary>
    Park,
    Oom,
    SigBus,
    SigSegv,
    HwPoison,
    /// <summary>The page needs I/O: NOWAIT gives up, others wait (a retry).</summary>
    NeedsIo,
    /// <summary>A fatal signal arrives here.</summary>
    Kill,
    /// <summary>A signal that is not fatal arrives here.</summary>
    Signal,
}

/// <summary>
/// One rule of a fault plan: at <see cref="Point"/>, inside <see cref="Range"/> of <see cref="Space"/>, after
/// <see cref="Skip"/> matches, <see cref="Times"/> matches get <see cref="Action"/>.
/// </summary>
public sealed record FaultRule
{
    public required ChoicePoint Point { get; init; }

    public required FaultAction Action { get; init; }

    /// <summary>Name of the address space; null for any.</summary>
    public string? Space { get; init; }

    /// <summary>Addresses it holds for; null for any.</summary>
    public AddressRange? Range { get; init; }

    /// <summary>Matches let pass before the rule acts.</summary>
    public int Skip { get; init; }

    /// <summary>How often it acts.</summary>
    public int Times { get; init; } = 1;
}

/// <summary>The rules in force and how often each matched. Deterministic; guarded by the turn.</summary>
internal sealed class FaultPlan
{
    private readonly List<(FaultRule Rule, int[] Seen)> _rules = [];

    public int Count => _rules.Count;

    public void Add(FaultRule rule) => _rules.Add((rule, [0]));

    public void Clear() => _rules.Clear();

    /// <summary>What happens at a choice point: the first rule that acts wins.</summary>
    public FaultAction Decide(ChoicePoint point, string space, ulong address)
    {
        if (_rules.Count == 0) return FaultAction.None;
        foreach (var (rule, seen) in _rules)
        {
            if (rule.Point != point || (rule.Space is not null && rule.Space != space)) continue;
            if (rule.Range is { } range && !range.Contains(address)) continue;
            var turn = seen[0]++;
            if (turn >= rule.Skip && turn - rule.Skip < rule.Times) return rule.Action;
        }

        return FaultAction.None;
    }
}
