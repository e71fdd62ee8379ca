using System.Globalization;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;
using FramePin.Core.Backing;

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
            "hugetlb reservations",
            "FramePin promises huge pages by file, Linux by page and area: after several mappings of one file, or a partial unmap, the pool may be "
            + "fuller or emptier than Linux's, and a call or a touch that needs the last pages succeeds in one and fails in the other.",
            IsHugeTlbShortage),
    ];

    /// <summary>One side ran out of huge pages: it failed as only that fails, with hugetlb memory in the process or in the call.</summary>
    private static bool IsHugeTlbShortage(Divergence divergence)
    {
        const ulong hugeTlb = (ulong)MapFlags.HugeTlb;
        var (kernel, ours) = (divergence.KernelAnswer, divergence.FramePinAnswer);
        if (IsShortage(kernel) == IsShortage(ours)) return false;
        var step = divergence.Step;
        var asksForHuge = step.Kind == StepKind.Mmap
            && ((step.D & hugeTlb) != 0 || (step.E != 0 && FileSpec.All[(int)step.E - 1].Kind == FileKind.HugeTlb));
        return asksForHuge || divergence.KernelLook.Split('\n').Any(line => IsHugeAreaWith(line, step.A));
    }

    private static bool IsShortage(string answer) =>
        answer.StartsWith("-ENOMEM", StringComparison.Ordinal) || answer.StartsWith("-EFAULT", StringComparison.Ordinal)
        || answer.StartsWith("SigBus", StringComparison.Ordinal) || answer.StartsWith("-EIO", StringComparison.Ordinal);

    private static bool IsHugeAreaWith(string line, ulong address)
    {
        if (line.Length == 0 || line[0] is ' ' or 'p' || !line.Contains(" ht", StringComparison.Ordinal)) return false;
        var range = line.Split(' ')[0].Split('-');
        return address >= Hex(range[0]) && address < Hex(range[1]);
    }

    private static ulong Hex(string digits) => ulong.Parse(digits, NumberStyles.HexNumber, CultureInfo.InvariantCulture);

    public static Deviation? Find(Divergence divergence) => All.FirstOrDefault(deviation => deviation.Covers(divergence));
}
