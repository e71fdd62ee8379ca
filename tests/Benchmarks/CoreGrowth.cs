using System.Diagnostics;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Machines;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Benchmarks;

/// <summary>One figure of growth: microseconds of one call, by the number of things that are there.</summary>
internal sealed record GrowthRow(string What, int Count, double Microseconds);

/// <summary>
/// How calls grow with what a machine holds: calls that look for the mappings of a file or of a page, by the number of
/// address spaces that map something else; calls that change one area, by the number of areas.
/// </summary>
internal static class CoreGrowth
{
    private const ulong At = 0x1_0000_0000;
    private const ulong Page = PageGeometry.PageSize;
    private const int AreasOfOthers = 16;

    public static IEnumerable<GrowthRow> Run(int rounds)
    {
        foreach (var spaces in new[] { 1, 10, 100, 1000 })
        {
            using var machine = new Machine("growth", new MachineOptions
            {
                Profile = KernelProfile.Recorded,
                Memory = 1UL << 30,
            });
            var space = NewSpace(machine, "app");
            for (var i = 0; i < spaces; i++) FillOther(machine, NewSpace(machine, $"other{i}"));
            yield return new("truncate a mapped file, address spaces", spaces, Truncate(machine, space, rounds));
            yield return new("msync of 16 dirty pages, address spaces", spaces, Sync(machine, space, rounds));
            yield return new("move a page that a child shares, address spaces", spaces, Move(machine, space, rounds));
        }

        foreach (var areas in new[] { 100, 1000, 10_000, 65_000 })
        {
            using var machine = new Machine("growth", new MachineOptions
            {
                Profile = KernelProfile.Recorded,
                Memory = 1UL << 30,
            });
            var space = NewSpace(machine, "app");
            for (var i = 0; i < areas; i++) Map(machine, space, At + ((ulong)i * 2 * Page), 1, Prot.Read);
            yield return new(
                "munmap + mmap(MAP_FIXED) of one area, areas", areas, Change(machine, space, areas, rounds));
            yield return new("page fault on an area, areas", areas, Fault(machine, space, areas, rounds));
        }
    }

    private static AddressSpace NewSpace(Machine machine, string name) =>
        machine.CreateAddressSpace(name, new AddressSpaceLayout(), new TaskState())
            ?? throw new InvalidOperationException("no address space");

    private static void Map(
        Machine machine, AddressSpace space, ulong address, int pages, Prot prot, MemoryFile? file = null)
    {
        var mapped = machine.Mmap(space, new MmapRequest
        {
            Address = address,
            Length = (ulong)pages * Page,
            Prot = prot,
            Flags = MapFlags.Fixed | (file is null ? MapFlags.Private | MapFlags.Anonymous : MapFlags.Shared),
            File = file,
        });
        if (!mapped.IsOk) throw new InvalidOperationException($"mmap: {mapped}");
    }

    /// <summary>A process with areas and pages of its own.</summary>
    private static void FillOther(Machine machine, AddressSpace space)
    {
        for (var i = 0; i < AreasOfOthers; i++)
        {
            var address = At + ((ulong)i * 2 * Page);
            Map(machine, space, address, 1, Prot.Read | Prot.Write);
            machine.Touch(space, address, isWrite: true);
        }
    }

    private static double Truncate(Machine machine, AddressSpace space, int rounds)
    {
        var file = machine.CreateFile("/truncated", FileKind.Shmem, 4 * Page)!;
        Map(machine, space, 2 * At, 4, Prot.Read | Prot.Write, file);
        return Median(rounds, () =>
        {
            machine.Truncate(file, 4 * Page);
            for (var i = 0UL; i < 4; i++) machine.Touch(space, (2 * At) + (i * Page), isWrite: true);
        }, () => machine.Truncate(file, 0));
    }

    private static double Sync(Machine machine, AddressSpace space, int rounds)
    {
        var file = machine.CreateFile("/synced", FileKind.Disk, 16 * Page)!;
        Map(machine, space, 3 * At, 16, Prot.Read | Prot.Write, file);
        return Median(rounds, () =>
        {
            for (var i = 0UL; i < 16; i++) machine.Touch(space, (3 * At) + (i * Page), isWrite: true);
        }, () => machine.Msync(space, 3 * At, 16 * Page, MsyncFlags.Sync));
    }

    /// <summary>A page that a child shares is moved: microseconds a page.</summary>
    private static double Move(Machine machine, AddressSpace space, int rounds)
    {
        const int pages = 64;
        Map(machine, space, 4 * At, 2 * pages, Prot.Read | Prot.Write);
        var (time, moved) = (0.0, 0L);
        for (var round = 0; round < rounds; round++)
        {
            machine.Madvise(space, 4 * At, 2 * pages * Page, Advice.DontNeed);
            for (var i = 0UL; i < 2 * pages; i++) machine.Touch(space, (4 * At) + (i * Page), isWrite: true);
            // The pages left lie below free frames, and so move.
            machine.Madvise(space, (4 * At) + (pages * Page), pages * Page, Advice.DontNeed);
            var child = machine.Fork(space, "child", out _)!;
            var start = Stopwatch.GetTimestamp();
            moved += machine.Compact();
            time += Stopwatch.GetElapsedTime(start).TotalMicroseconds;
            machine.Exit(child);
        }

        return time / moved;
    }

    private static double Change(Machine machine, AddressSpace space, int areas, int rounds)
    {
        var random = new Random(1);
        return Median(rounds, static () => { }, () =>
        {
            var address = At + ((ulong)random.Next(areas) * 2 * Page);
            machine.Munmap(space, address, Page);
            Map(machine, space, address, 1, Prot.Read);
        });
    }

    private static double Fault(Machine machine, AddressSpace space, int areas, int rounds)
    {
        var random = new Random(2);
        return Median(
            rounds, static () => { },
            () => machine.Touch(space, At + ((ulong)random.Next(areas) * 2 * Page), isWrite: false));
    }

    private static double Median(int rounds, Action prepare, Action measured)
    {
        var samples = new double[rounds];
        for (var warm = -20; warm < rounds; warm++)
        {
            prepare();
            var start = Stopwatch.GetTimestamp();
            measured();
            var time = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
            if (warm >= 0) samples[warm] = time;
        }

        Array.Sort(samples);
        return samples[rounds / 2];
    }
}
