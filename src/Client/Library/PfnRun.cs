using System.Globalization;
using FramePin.V1;

namespace FramePin.Client;

/// <summary>Frames whose numbers follow each other.</summary>
/// <param name="First">Number of the first frame (PFN). Its first byte lies at 4096 times this number.</param>
/// <param name="Count">Frames of 4 KiB, at least 1.</param>
public readonly record struct PfnRun(ulong First, long Count)
{
    /// <summary>Number of the last frame.</summary>
    public ulong Last => First + (ulong)Count - 1;

    /// <summary>Bytes of the run.</summary>
    public ulong Length => (ulong)Count << 12;

    /// <summary>"0x1000 (16)": the first frame and the count.</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"0x{First:x} ({Count})");

    /// <summary>The runs of a message, in order. A message without counts has runs of one frame.</summary>
    internal static IReadOnlyList<PfnRun> From(FrameRuns? runs)
    {
        if (runs is null || runs.FirstPfns.Count == 0) return [];
        var result = new PfnRun[runs.FirstPfns.Count];
        for (var i = 0; i < result.Length; i++)
            result[i] = new PfnRun(runs.FirstPfns[i], runs.Counts.Count == 0 ? 1 : (long)runs.Counts[i]);
        return result;
    }
}
