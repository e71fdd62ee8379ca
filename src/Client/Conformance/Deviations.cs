using System.Globalization;
using FramePin.Conformance.Scripts;

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
            "empty page tables",
            "mincore looks a hugetlb page up in the page cache where the process has no page table for it, and calls it absent where there is an "
            + "empty one. FramePin frees a table with its last entry, the kernel later: such a page is called absent.",
            IsMincoreOfUnmappedHugeTlb),
    ];

    /// <summary>The answers to a mincore differ only in pages of hugetlb areas.</summary>
    private static bool IsMincoreOfUnmappedHugeTlb(Divergence divergence)
    {
        if (divergence.Step.Kind != StepKind.Mincore || divergence.KernelLook != divergence.FramePinLook) return false;
        var (kernel, ours) = (divergence.KernelAnswer, divergence.FramePinAnswer);
        if (kernel.Length != ours.Length) return false;
        for (var page = 0; page < kernel.Length; page++)
            if (kernel[page] != ours[page] && !IsHugeTlb(divergence, divergence.Step.A + ((ulong)page << 12))) return false;
        return true;
    }

    private static bool IsHugeTlb(Divergence divergence, ulong address)
    {
        var process = -1;
        foreach (var line in divergence.KernelLook.Split('\n'))
        {
            if (line.StartsWith("process ", StringComparison.Ordinal)) process = int.Parse(line.AsSpan(8), CultureInfo.InvariantCulture);
            if (process != divergence.Step.Process || line.Length == 0 || line[0] == ' ' || line[0] == 'p') continue;
            var range = line.Split(' ')[0].Split('-');
            if (address < Hex(range[0]) || address >= Hex(range[1])) continue;
            return line.EndsWith("ht ", StringComparison.Ordinal) || line.Contains(" ht ", StringComparison.Ordinal);
        }

        return false;
    }

    private static ulong Hex(string digits) => ulong.Parse(digits, NumberStyles.HexNumber, CultureInfo.InvariantCulture);

    public static Deviation? Find(Divergence divergence) => All.FirstOrDefault(deviation => deviation.Covers(divergence));
}
