using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;

namespace FramePin.Conformance;

/// <summary>A difference from Linux that is known and stays.</summary>
/// <param name="Name">Short name, as reports print it.</param>
/// <param name="Reason">Why it is not closed, and what the user sees.</param>
/// <param name="Covers">True for a divergence that it explains.</param>
public sealed record Deviation(string Name, string Reason, Func<Divergence, bool> Covers);

/// <summary>The known deviations: at most ten.</summary>
public static class Deviations
{
    public static IReadOnlyList<Deviation> All { get; } =
    [
        new(
            "large folios of the page cache",
            "A fault on a dirty page that MADV_PAGEOUT left reads ahead, and Linux caches what it reads in large "
            + "folios, of which a later fault maps all pages. FramePin's page cache holds single pages: it maps fewer "
            + "of them at once, and the others at their own first touch.",
            IsLargeFolioOfCache),
    ];

    /// <summary>
    /// The same answers and areas, and the same pages but for some of a disk file that only one side has mapped, after
    /// reclaim of file pages: nothing else makes Linux read into large folios here.
    /// </summary>
    private static bool IsLargeFolioOfCache(Divergence divergence)
    {
        if (divergence.KernelAnswer != divergence.FramePinAnswer) return false;
        if (!divergence.Steps.Any(step => step.Kind == StepKind.Madvise && (Advice)step.C == Advice.PageOut))
            return false;
        var (kernel, ours) = (Pages(divergence.KernelLook), Pages(divergence.FramePinLook));
        if (kernel.Areas.Count != ours.Areas.Count) return false;
        var differs = false;
        for (var i = 0; i < kernel.Areas.Count; i++)
        {
            if (kernel.Areas[i] != ours.Areas[i]) return false;
            if (kernel.Pages[i].SetEquals(ours.Pages[i])) continue;
            var isSubset = ours.Pages[i].IsSubsetOf(kernel.Pages[i]) || kernel.Pages[i].IsSubsetOf(ours.Pages[i]);
            if (!isSubset || !kernel.Areas[i].Contains(" disk ", StringComparison.Ordinal)) return false;
            differs = true;
        }

        return differs;
    }

    /// <summary>
    /// A snapshot's areas and other lines, each with its pages: address and letters, without the frames' names, which
    /// more frames shift.
    /// </summary>
    private static (List<string> Areas, List<HashSet<string>> Pages) Pages(string look)
    {
        var (areas, pages) = (new List<string>(), new List<HashSet<string>>());
        foreach (var line in look.Split('\n'))
        {
            if (!line.StartsWith("   ", StringComparison.Ordinal) || areas.Count == 0)
            {
                areas.Add(line);
                pages.Add([]);
                continue;
            }

            foreach (var page in line.Split(' ', StringSplitOptions.RemoveEmptyEntries))
            {
                var parts = page.Split(':', 2);
                pages[^1]
                    .Add(
                    parts[0] + ":" + (parts[1] is [>= '0' and <= '9', ..]
                    ? parts[1].TrimStart("0123456789".ToCharArray())
                    : parts[1]));
            }
        }

        return (areas, pages);
    }

    public static Deviation? Find(Divergence divergence) =>
        All.FirstOrDefault(deviation => deviation.Covers(divergence));
}
