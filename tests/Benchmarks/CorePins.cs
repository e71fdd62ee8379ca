using System.Diagnostics;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Benchmarks;

/// <summary>One size and kind of memory: nanoseconds a page, FramePin and the kernel alternating in one run.</summary>
internal sealed record CoreRow(
    string Memory, int Pages, double KernelPin, double Pin, double KernelUnpin, double Unpin, long AllocatedBytes)
{
    public double PinRatio => Pin / KernelPin;

    public double UnpinRatio => Unpin / KernelUnpin;
}

/// <summary>
/// get_vaddr_frames into a filled vector and the put, era D on profile 6.18, against what the machine's kernel takes
/// for the same pages.
/// </summary>
internal static class CorePins
{
    private const ulong At = 0x1_0000_0000;

    public static IEnumerable<CoreRow> Run(int rounds)
    {
        foreach (var isHuge in new[] { false, true })
            foreach (var pages in new[] { 1, 8, 64, 512, 4096, 262144 })
                yield return Measure(pages, isHuge, rounds);
    }

    private static CoreRow Measure(int pages, bool isHuge, int rounds)
    {
        using var kernel = new KernelPin(pages, isHuge);
        using var machine = new Machine("bench", new MachineOptions
        {
            Profile = KernelProfile.Recorded,
            Memory = 4UL << 30,
            Thp = isHuge ? ThpMode.Always : ThpMode.Never,
        });
        var space = machine.CreateAddressSpace("app", new AddressSpaceLayout(), new TaskState())!;
        Fill(machine, space, pages, isHuge);
        var vector = machine.CreateVector(pages)!;
        // Small pins are timed in groups, so that the clock's own cost does not show.
        var group = Math.Clamp(512 / pages, 1, 256);
        var vectors = Enumerable.Range(0, group).Select(_ => machine.CreateVector(pages)!).ToArray();
        rounds = pages > 100_000 ? Math.Max(rounds / 20, 9) : rounds;
        var samples = new double[4][];
        for (var i = 0; i < 4; i++) samples[i] = new double[rounds];
        for (var warm = 0; warm < 200 && (warm < 20 || pages < 10_000); warm++)
            Once(machine, space, kernel, vectors, pages, samples, 0);
        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var round = 0; round < rounds; round++) Once(machine, space, kernel, vectors, pages, samples, round);
        var allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        GC.KeepAlive(vector);
        return new CoreRow(
            isHuge
                ? "huge pages"
                : "small, shuffled", pages, Median(samples[0]), Median(samples[2]), Median(samples[1]),
            Median(samples[3]), allocated);
    }

    /// <summary>
    /// One round: the kernel several times over, then FramePin as often, so that each works on what it left in the
    /// caches.
    /// </summary>
    private static void Once(
        Machine machine, AddressSpace space, KernelPin kernel, FrameVector[] vectors, int pages, double[][] samples,
        int round)
    {
        var repeats = Math.Clamp(400_000 / (pages * vectors.Length), 1, 200);
        var perPage = 1e9 / Stopwatch.Frequency / pages / repeats / vectors.Length;
        long pin = 0, unpin = 0;
        for (var i = 0; i < vectors.Length * repeats; i++)
        {
            var a = Stopwatch.GetTimestamp();
            kernel.Pin();
            var b = Stopwatch.GetTimestamp();
            kernel.Unpin();
            pin += b - a;
            unpin += Stopwatch.GetTimestamp() - b;
        }

        samples[0][round] = pin * perPage;
        samples[1][round] = unpin * perPage;
        (pin, unpin) = (0, 0);
        for (var i = 0; i < repeats; i++)
        {
            var start = Stopwatch.GetTimestamp();
            foreach (var vector in vectors)
            {
                var result = machine.GetVaddrFrames(space, At, pages, GupFlags.Write, vector).Result;
                if (result.Pages != pages) throw new InvalidOperationException($"pinned {result} of {pages}");
            }

            var middle = Stopwatch.GetTimestamp();
            foreach (var vector in vectors) machine.PutVaddrFrames(vector);
            pin += middle - start;
            unpin += Stopwatch.GetTimestamp() - middle;
        }

        samples[2][round] = pin * perPage;
        samples[3][round] = unpin * perPage;
    }

    /// <summary>Touches the pages in random order, so that neighbours lie on scattered frames.</summary>
    private static void Fill(Machine machine, AddressSpace space, int pages, bool isHuge)
    {
        var length = PageGeometry.AlignUp((ulong)pages << PageGeometry.PageShift, PageGeometry.PmdSize);
        var mapped = machine.Mmap(space, new MmapRequest
        {
            Address = At,
            Length = length,
            Prot = Prot.Read | Prot.Write,
            Flags = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed,
        });
        if (!mapped.IsOk) throw new InvalidOperationException($"mmap: {mapped}");
        var order = Enumerable.Range(0, pages).ToArray();
        if (!isHuge) new Random(12345).Shuffle(order);
        foreach (var page in order) machine.Touch(space, At + ((ulong)page << PageGeometry.PageShift), isWrite: true);
    }

    private static double Median(double[] samples)
    {
        Array.Sort(samples);
        return samples[samples.Length / 2];
    }
}
