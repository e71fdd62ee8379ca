namespace FramePin.Conformance;

/// <summary>A difference from Linux that is known and stays.</summary>
/// <param name="Name">Short name, as reports print it.</param>
/// <param name="Reason">Why it is not closed, and what the user sees.</param>
/// <param name="Covers">True for a divergence that it explains.</param>
public sealed record Deviation(string Name, string Reason, Func<Divergence, bool> Covers);

/// <summary>The known deviations: at most ten.</summary>
public static class Deviations
{
    public static IReadOnlyList<Deviation> All { get; } = [];

    public static Deviation? Find(Divergence divergence) => All.FirstOrDefault(deviation => deviation.Covers(divergence));
}
