using System.Runtime.Intrinsics;
using CsCheck;
using FramePin.Core.Addressing;
using FramePin.Core.Pinning;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>Runs of frames: packing loses nothing, joining changes no order.</summary>
public sealed class RunTests
{
    private static readonly Gen<(ulong First, ulong Count, bool IsLarge)> Frames =
        Gen.Select(Gen.ULong[0, 200], Gen.ULong[1, 4], Gen.Bool);

    [Fact]
    public void A_packed_run_reads_back_as_it_was() =>
        Gen.Select(Gen.ULong[0, (1UL << 39) - 1], Gen.ULong[1, FrameRun.MaxCount], Gen.Bool).Sample(
            (first, count, isLarge) =>
        {
            var run = FrameRun.FromPacked(FrameRun.Pack(first, count, isLarge));
            return run.First.Value == first && run.Count == count && run.IsLarge == isLarge;
        });

    [Fact]
    public void Runs_hold_the_frames_in_the_order_in_which_they_were_appended() =>
        Frames.List[1, 60].Sample(appended =>
        {
            var expected = appended.SelectMany(
                item => Enumerable.Range(0, (int)item.Count).Select(i => (item.First + (ulong)i, item.IsLarge)))
                    .ToList();
            var vector = new FrameVector(expected.Count);
            foreach (var part in appended.Chunk(7))
            {
                // A writer takes the last run up where another left it, as a resumed pin does.
                var writer = new RunWriter(vector);
                foreach (var (first, count, isLarge) in part) writer.Append(first, count, isLarge);
                writer.Finish();
            }

            var actual = vector.Runs.ToArray().SelectMany(
                run => Enumerable.Range(0, (int)run.Count).Select(i => (run.First.Value + (ulong)i, run.IsLarge)));
            return vector.Count == expected.Count && actual.SequenceEqual(expected);
        });

    [Fact]
    public void Scattered_frames_that_are_taken_back_leave_the_runs_before_them_open()
    {
        var vector = new FrameVector(64);
        var writer = RunWriter.FromStart(vector);
        writer.Append(100, 3, isLarge: false);
        writer.AppendScattered(Packed(500));
        writer.AppendScattered(Packed(700));
        writer.RemoveScattered(16);
        // The frame behind the run joins it, as if nothing had come between.
        writer.Append(103, 1, isLarge: false);
        writer.AppendScattered(Packed(900));
        writer.Finish();
        Assert.Equal(12, vector.Count);
        Assert.Equal(9, vector.RunCount);
        Assert.Equal((100UL, 4UL), (vector.Runs[0].First.Value, vector.Runs[0].Count));
        Assert.Equal(900UL, vector.Runs[1].First.Value);

        static Vector512<ulong> Packed(ulong first) =>
            Vector512.Create([.. Enumerable.Range(0, 8).Select(i => FrameRun.Pack(first + (2 * (ulong)i), 1, false))]);
    }
}
