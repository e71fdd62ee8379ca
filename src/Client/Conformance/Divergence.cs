using FramePin.Conformance.Scripts;

namespace FramePin.Conformance;

/// <summary>The first step at which the kernel and FramePin differ, and how.</summary>
/// <param name="Steps">The script up to and with that step.</param>
/// <param name="KernelAnswer">What the kernel answered.</param>
/// <param name="FramePinAnswer">What FramePin answered.</param>
/// <param name="KernelLook">The kernel's snapshot after the step.</param>
/// <param name="FramePinLook">FramePin's.</param>
/// <param name="LookBefore">The common snapshot before it.</param>
public sealed record Divergence(
    IReadOnlyList<Step> Steps, string KernelAnswer, string FramePinAnswer, string KernelLook, string FramePinLook,
    string LookBefore)
{
    public Step Step => Steps[^1];

    /// <summary>The lines of the snapshots that differ: "-" the kernel's, "+" FramePin's.</summary>
    public IEnumerable<string> Lines()
    {
        var kernel = KernelLook.Split('\n');
        var ours = FramePinLook.Split('\n');
        var (inKernel, inOurs) = (kernel.ToHashSet(StringComparer.Ordinal), ours.ToHashSet(StringComparer.Ordinal));
        foreach (var line in kernel.Where(line => !inOurs.Contains(line))) yield return "- " + line;
        foreach (var line in ours.Where(line => !inKernel.Contains(line))) yield return "+ " + line;
    }

    public override string ToString()
    {
        var text = new System.Text.StringBuilder();
        foreach (var step in Steps) text.Append(step).Append('\n');
        text.Append("kernel:   ").Append(KernelAnswer).Append('\n');
        text.Append("FramePin: ").Append(FramePinAnswer).Append('\n');
        foreach (var line in Lines()) text.Append(line).Append('\n');
        return text.ToString();
    }
}
