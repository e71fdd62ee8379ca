using FramePin.Conformance.Scripts;

namespace FramePin.Conformance;

/// <summary>What a run compared and what differed.</summary>
public sealed class ConformanceReport
{
    public required string Kernel { get; init; }

    public required string Profile { get; init; }

    public required int Seed { get; init; }

    public long Steps { get; internal set; }

    public int Scripts { get; internal set; }

    /// <summary>Files that the host could not make, so that no script used them.</summary>
    public IReadOnlyList<string> MissingFiles { get; internal set; } = [];

    /// <summary>Unexplained differences, each with the seed of its script.</summary>
    public List<(int Seed, Divergence Divergence)> Divergences { get; } = [];

    /// <summary>Hits of each known deviation.</summary>
    public SortedDictionary<string, int> DeviationHits { get; } = new(StringComparer.Ordinal);

    /// <summary>Steps that agreed, by kind: those that succeeded, those that failed.</summary>
    public SortedDictionary<StepKind, (long Succeeded, long Failed)> Kinds { get; } = [];

    internal void Count(StepKind kind, string answer)
    {
        var (succeeded, failed) = Kinds.GetValueOrDefault(kind);
        var isFailure = answer.StartsWith('-') || answer.StartsWith("Sig", StringComparison.Ordinal);
        Kinds[kind] = isFailure ? (succeeded, failed + 1) : (succeeded + 1, failed);
    }

    internal void Count(Deviation deviation) =>
        DeviationHits[deviation.Name] = DeviationHits.GetValueOrDefault(deviation.Name) + 1;
}
