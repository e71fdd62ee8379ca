using FramePin.Conformance.Kernel;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;

namespace FramePin.Conformance;

/// <summary>
/// Makes a diverging script short: leaves steps out for as long as it still diverges in the same way.
/// </summary>
public static class Shrinker
{
    private const int MaxRuns = 400;

    public static Divergence Shrink(KernelHost host, KernelProfile profile, Divergence found)
    {
        var best = found;
        var runs = 0;
        for (var size = Math.Max(1, best.Steps.Count / 2); size >= 1; size = size == 1 ? 0 : size / 2)
        {
            var at = 0;
            while (at < best.Steps.Count - 1 && runs < MaxRuns)
            {
                var count = Math.Min(size, best.Steps.Count - 1 - at);
                var shorter = best.Steps.Take(at).Concat(best.Steps.Skip(at + count)).ToList();
                runs++;
                if (Replay(host, profile, shorter) is { } still && IsAlike(still, best)) best = still;
                else at += count;
            }
        }

        return best;
    }

    /// <summary>Runs a script; the first divergence, or null.</summary>
    public static Divergence? Replay(KernelHost host, KernelProfile profile, IReadOnlyList<Step> steps)
    {
        using var comparison = new Comparison(host, profile);
        foreach (var step in steps)
            if (comparison.Run(step) is { } divergence) return divergence;
        return null;
    }

    private static bool IsAlike(Divergence a, Divergence b) =>
        a.Step == b.Step && a.KernelAnswer == a.FramePinAnswer == (b.KernelAnswer == b.FramePinAnswer);
}
