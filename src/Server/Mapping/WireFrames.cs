using FramePin.Core.Addressing;
using FramePin.Core.Pinning;
using FramePin.Server.Configuration;

namespace FramePin.Server.Mapping;

/// <summary>The frames of a vector in messages.</summary>
internal static class WireFrames
{
    /// <summary>Kind of a vector's frames. Under the vector's gate, or by the pin that fills it.</summary>
    public static V1.FrameKind KindOf(FrameVector vector) =>
        vector.Count == 0 ? V1.FrameKind.Empty : vector.IsPfns ? V1.FrameKind.Pfns : V1.FrameKind.Pages;

    /// <summary>The runs of a vector; counts stay out when every run is one frame.</summary>
    public static V1.FrameRuns ToRuns(FrameVector vector, DaemonLimits limits)
    {
        if (vector.RunCount > limits.ReplyRunsMax)
            throw Refusals.Limit("reply_runs_max", (ulong)limits.ReplyRunsMax, (ulong)vector.RunCount);
        var runs = new V1.FrameRuns();
        var source = vector.Runs;
        runs.FirstPfns.Capacity = source.Length;
        var isScattered = vector.Count == source.Length;
        foreach (var run in source) runs.FirstPfns.Add(run.First.Value);
        if (isScattered) return runs;
        runs.Counts.Capacity = source.Length;
        foreach (var run in source) runs.Counts.Add(run.Count);
        return runs;
    }

    public static V1.FrameRuns ToRuns(IReadOnlyList<FrameRun> source)
    {
        var runs = new V1.FrameRuns();
        foreach (var run in source)
        {
            runs.FirstPfns.Add(run.First.Value);
            runs.Counts.Add(run.Count);
        }

        return runs;
    }
}
