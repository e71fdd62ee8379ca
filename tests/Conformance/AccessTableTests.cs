using FramePin.Conformance.Matrix;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using Xunit;

namespace FramePin.Tests.Conformance;

/// <summary>What kernels 6.1, 6.12 and 6.18 answered on every path into user memory, cell by cell.</summary>
public sealed class AccessTableTests(ITestOutputHelper output)
{
    /// <summary>Rows that an emulation need not express: memory of subsystems that are not there.</summary>
    private static readonly string[] Excepted =
        ["perf ring (PFNMAP since 6.16)", "io_uring SQE ring", "AF_PACKET ring", "bpf array mmap", "/dev/hpet"];

    /// <summary>
    /// The 6.1 and 6.12 guests had protection keys and five levels of page tables, and handled broken memory; the 6.18
    /// host did none of it.
    /// </summary>
    [Theory]
    [InlineData("6.1", true)]
    [InlineData("6.12", true)]
    [InlineData("6.18", false)]
    public void Every_recorded_cell_is_reproduced(string kernel, bool isGuest)
    {
        var profile = KernelProfile.Find(kernel)!;
        var initial = Standard with
        {
            HandlesMemoryFailure = isGuest,
            HasProtectionKeys = isGuest,
            PageTableLevels = isGuest ? 5 : 4,
        };
        var lines = File.ReadAllLines(Path.Combine(AppContext.BaseDirectory, "Data", "oracle", $"access-{kernel}.tsv"));
        Assert.Equal(
            lines[0], string.Join('\t', AccessMatrix.Columns.Select(column => column.Name).Prepend("mapping")));
        var (compared, different) = (0, new List<string>());
        foreach (var cells in lines[1..].Select(line => line.Split('\t')))
        {
            var row = AccessRow.All.FirstOrDefault(row => row.Name == cells[0]);
            if (row is null)
            {
                Assert.Contains(cells[0], Excepted);
                output.WriteLine($"{kernel}: {cells[0]}: excepted, memory of a subsystem that is not emulated");
                continue;
            }

            for (var i = 1; i < cells.Length; i++)
            {
                if (IsExcepted(kernel, i, cells[i])) continue;
                var column = AccessMatrix.Columns[i - 1];
                var measured = AccessMatrix.Measure(() => new FramePinSystem(profile, initial), row, column);
                compared++;
                if (AccessMatrix.Comparable(measured) != AccessMatrix.Comparable(cells[i]))
                    different.Add($"{kernel}: {row.Name} × {column.Name}: kernel {cells[i]}, FramePin {measured}");
            }
        }

        output.WriteLine($"{kernel}: {compared} cells compared, {different.Count} differ");
        Assert.True(different.Count == 0, string.Join('\n', different));
    }

    /// <summary>No mapping on that kernel, no entry to be read, or io_uring's own look at the areas on 6.1.</summary>
    private static bool IsExcepted(string kernel, int column, string cell) =>
        cell.Contains("-*", StringComparison.Ordinal) || cell.Length == 0
        || (kernel == "6.1" && column == 1
            && (cell.StartsWith("EOPNOTSUPP", StringComparison.Ordinal)
            || cell.StartsWith("EINVAL", StringComparison.Ordinal)));

    /// <summary>A process as exec leaves it, without address randomisation.</summary>
    private static readonly InitialProcess Standard = new(
        [
            new(0x40_0000, 0x40_1000, "r-xp", 0, "exe"),
            new(0x7fff_f7ff_7000, 0x7fff_f7ff_b000, "r--p", 0, "[vvar]"),
            new(0x7fff_f7ff_b000, 0x7fff_f7ff_d000, "r--p", 0, "[vvar_vclock]"),
            new(0x7fff_f7ff_d000, 0x7fff_f7ff_f000, "r-xp", 0, "[vdso]"),
            new(0x7fff_fffd_b000, 0x7fff_ffff_f000, "rw-p", 0, "[stack]"),
            new(0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000, "--xp", 0, "[vsyscall]"),
        ],
        0x7fff_f7ff_f000, 0x40_1000, HugePages: 8, ThpMode.MAdvise, UsesZeroPage: true, IsPrivileged: true, []);
}
