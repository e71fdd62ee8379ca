using FramePin.Core.Abi;
using FramePin.Core.Machines;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>
/// The hot path makes no managed allocation. A machine's memory is sparse, whatever its size.
/// </summary>
[Collection("alone")]
public sealed class AllocationTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(512)]
    public void A_pin_and_unpin_of_resident_pages_allocates_nothing(int pages)
    {
        using var lab = new Lab(configure: options => options with { AuditsEachCommand = false });
        lab.Anon(0x10_0000, pages);
        var vector = lab.Vector(pages);
        var least = long.MaxValue;
        for (var round = 0; round < 5; round++)
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            for (var i = 0; i < 100; i++)
            {
                lab.Machine.GetVaddrFrames(lab.Space, 0x10_0000, pages, GupFlags.Write, vector);
                lab.Machine.PutVaddrFrames(vector);
            }

            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        Assert.Equal(0, least);
        lab.Drop(vector);
    }

    [Fact]
    public void A_machine_of_1_TiB_is_sparse_and_pins_at_its_far_end()
    {
        // Warm: the first machine pays for code that is compiled once.
        using (new Lab()) { }
        var before = Resident();
        var started = System.Diagnostics.Stopwatch.GetTimestamp();
        using var lab = new Lab(configure: options => options with
        {
            Memory = 1UL << 40,
            MovableMemory = 2UL << 20,
            AuditsEachCommand = false,
        });
        var took = System.Diagnostics.Stopwatch.GetElapsedTime(started);
        var grown = Resident() - before;
        TestContext.Current.TestOutputHelper?.WriteLine(
            $"1 TiB machine: {took.TotalMilliseconds:F2} ms, {grown >> 10} KiB resident");
        Assert.True(grown < 20L << 20, $"{grown} bytes more resident");
        // ZONE_MOVABLE lies at the top of memory and user pages come from it first: these are the last frames of the
        // terabyte.
        const ulong farEnd = 0x7FFF_0000_0000;
        lab.Anon(farEnd, 512);
        lab.Poke(farEnd + (511 * Lab.Page), 99);
        Assert.Equal(512, lab.Gup(
            Core.Pinning.GupCall.PinUserPagesFast, farEnd, 512, GupFlags.Write, out var vector).Result.Pages);
        Assert.True(vector[511].Value >= (1UL << 28) - 512, $"{vector[511]}");
        Assert.Equal(99, lab.PeekFrame(vector, 511));
        lab.Drop(vector);
    }

    private static long Resident()
    {
        var line = File.ReadLines("/proc/self/status").First(
            text => text.StartsWith("VmRSS:", StringComparison.Ordinal));
        return long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1],
            System.Globalization.CultureInfo.InvariantCulture) << 10;
    }
}

/// <summary>Tests that measure their own process run alone.</summary>
[CollectionDefinition("alone", DisableParallelization = true)]
public sealed class AloneCollection;
