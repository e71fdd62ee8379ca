using System.Globalization;
using System.Text.RegularExpressions;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>
/// Answers of kernels 6.1 and 6.12 to GUP calls that were made inside the kernel: counts, errnos and the
/// deltas of the pin counters over pin and unpin, cell by cell.
/// </summary>
public sealed partial class MeasuredTests
{
    private const ulong At = 0x10_0000;
    private const ulong Huge = 0x4000_0000;
    private const int Pages = 8;
    private const Prot Rw = Prot.Read | Prot.Write;

    /// <summary>Rows by name: how the mapping is made, and where the call starts.</summary>
    private static readonly Dictionary<string, Func<Lab, ulong>> Recipes = new(StringComparer.Ordinal)
    {
        ["anon RW written"] = lab => lab.Anon(At, Pages),
        ["anon RW zero page"] = lab => Loaded(lab, lab.Anon(At, Pages, written: false)),
        ["anon RW misaligned +100"] = lab => lab.Anon(At, Pages + 1) + 100,
        ["anon RW COW-shared w/ child"] = lab =>
        {
            lab.Anon(At, Pages);
            lab.Fork();
            return At;
        },
        ["shared anon written"] = lab =>
        {
            lab.SharedAnon(At, Pages);
            lab.Write(At, Pages);
            return At;
        },
        ["shared anon untouched"] = lab => lab.SharedAnon(At, Pages),
        ["memfd shared untouched"] = lab => lab.File(At, Pages, FileKind.Shmem, MapFlags.Shared, Rw),
        ["ext4 private RW untouched"] = lab => lab.File(At, Pages, FileKind.Disk, MapFlags.Private, Rw),
        ["ext4 private RW read-touched"] = lab => Loaded(lab, lab.File(At, Pages, FileKind.Disk, MapFlags.Private, Rw)),
        ["ext4 shared RW untouched"] = lab => lab.File(At, Pages, FileKind.Disk, MapFlags.Shared, Rw),
        ["ext4 shared PROT_READ O_RDONLY"] = lab =>
            lab.File(At, Pages, FileKind.Disk, MapFlags.Shared, Prot.Read, openWrite: false),
        ["uffd MISSING+SIGBUS"] = lab =>
        {
            lab.Anon(At, Pages, written: false);
            var fd = lab.Machine.CreateUserfaultfd(lab.Space, out _)!;
            Assert.True(lab.Machine.RegisterUffd(fd, At, Pages * Lab.Page, UffdModes.Missing).IsOk);
            return At;
        },
        ["anon PROT_READ untouched"] = lab => lab.Anon(At, Pages, Prot.Read, written: false),
        ["anon PROT_NONE written"] = lab =>
        {
            lab.Anon(At, Pages);
            lab.Machine.Mprotect(lab.Space, At, Pages * Lab.Page, Prot.None);
            return At;
        },
        ["anon PROT_NONE untouched"] = lab => lab.Anon(At, Pages, Prot.None, written: false),
        ["anon PROT_WRITE only"] = lab => lab.Anon(At, Pages, Prot.Write, written: false),
        ["hole at 3 of 8"] = lab => lab.Anon(At, 3),
        ["unmapped"] = _ => At,
        ["anon|shared anon @3"] = lab =>
        {
            lab.Anon(At, 3);
            lab.SharedAnon(At + (3 * Lab.Page), Pages - 3);
            return At;
        },
        ["ext4 private 3 of 8 (EOF)"] = lab => lab.File(At, Pages, FileKind.Disk, MapFlags.Private, Rw, filePages: 3),
        ["hugetlb anon written"] = lab =>
        {
            lab.Map(Huge, 512, Rw, MapFlags.Private | MapFlags.Anonymous | MapFlags.HugeTlb | MapFlags.Fixed);
            lab.Write(Huge, 1);
            return Huge;
        },
        ["THP +5"] = lab =>
        {
            lab.Anon(Huge, 512);
            return Huge + (5 * Lab.Page);
        },
        ["/dev/mem shared (PFNMAP)"] = lab => lab.Device(At, Pages, DeviceMapping.PfnMap, isRam: true),
        ["vb2 MMAP buffer vmalloc (MIXEDMAP)"] = lab => lab.Device(At, Pages, DeviceMapping.MixedPages, isRam: true),
        ["vb2 MMAP buffer dma-contig (PFNMAP|IO)"] = lab => lab.Device(At, Pages, DeviceMapping.PfnMap, isRam: true),
        ["8 pages below [stack]"] = lab =>
        {
            lab.Map(Huge, Pages, Rw, MapFlags.Private | MapFlags.Anonymous | MapFlags.GrowsDown | MapFlags.Fixed);
            lab.Write(Huge, Pages);
            return Huge - (Pages * Lab.Page);
        },
        ["memfd_secret"] = lab =>
        {
            lab.File(At, Pages, FileKind.Secret, MapFlags.Shared, Rw);
            lab.Write(At, Pages);
            return At;
        },
        ["DONTNEED after write"] = lab =>
        {
            lab.Anon(At, Pages);
            lab.Machine.Madvise(lab.Space, At, Pages * Lab.Page, Advice.DontNeed);
            return At;
        },
        ["anon PROT_EXEC only"] = lab => lab.Anon(At, Pages, Prot.Exec, written: false),
        ["kernel address"] = _ => 0xffff_8880_0000_0000,
        ["non-canonical"] = _ => 0x8000_0000_0000_0000,
        ["NULL"] = _ => 0,
        ["3 pages under TASK_SIZE"] = _ => PageGeometry.MapWindow - (3 * Lab.Page),
        ["[vvar]"] = lab => Install(lab, InstalledKind.Vvar, new AddressRange(At, At + (4 * Lab.Page))),
        ["[vsyscall] (8 pages, gate is 1)"] = lab =>
            Install(lab, InstalledKind.Vsyscall, new AddressRange(0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000)),
    };

    [GeneratedRegex(@"^(?<answer>-?\d+|E[A-Z]+)(\[\+(?<acquired>\d+)/-(?<released>\d+)\])?")]
    private static partial Regex Cell();

    public static TheoryData<string, string> Rows()
    {
        var rows = new TheoryData<string, string>();
        foreach (var profile in new[] { "6.1", "6.12" })
            foreach (var line in Lines(profile).Skip(1))
                if (Recipes.ContainsKey(line[0])) rows.Add(profile, line[0]);
        return rows;
    }

    [Fact]
    public void Every_row_is_checked()
    {
        var unknown = new[] { "6.1", "6.12" }.SelectMany(profile => Lines(profile).Skip(1)).Select(line => line[0])
            .Where(row => !Recipes.ContainsKey(row));
        Assert.Empty(unknown);
    }

    [Theory]
    [MemberData(nameof(Rows))]
    public void Every_call_answers_as_the_kernel_did(string profile, string row)
    {
        var lines = Lines(profile);
        var columns = lines[0];
        var cells = lines.First(line => line[0] == row);
        var wrong = new List<string>();
        for (var i = 1; i < columns.Length; i++)
        {
            var cell = Cell().Match(cells[i]);
            Assert.True(cell.Success, $"{row}, {columns[i]}: '{cells[i]}'");
            var actual = Call(profile, row, columns[i]);
            var count = long.TryParse(cell.Groups["answer"].Value, CultureInfo.InvariantCulture, out var number)
                ? number
                : 0;
            var pins = columns[i].StartsWith("gvf", StringComparison.Ordinal) || columns[i].StartsWith('p');
            var acquired = cell.Groups["acquired"].Success
                ? long.Parse(cell.Groups["acquired"].Value, CultureInfo.InvariantCulture) : pins ? count
                : 0;
            var expected = $"{cell.Groups["answer"].Value} +{acquired}";
            if (expected != actual) wrong.Add($"{columns[i]}: the kernel {expected}, here {actual}");
        }

        Assert.True(wrong.Count == 0, $"{profile}, {row}: {string.Join("; ", wrong)}");
    }

    private static string Call(string profile, string row, string column)
    {
        using var lab = new Lab(profile, options => options with
        {
            // As the guests had.
            HasProtectionKeys = true,
            PageTableLevels = 5,
            HugePages2M = row.StartsWith("hugetlb", StringComparison.Ordinal) ? 2 : 0,
            Thp = row.StartsWith("THP", StringComparison.Ordinal) ? ThpMode.Always : ThpMode.Never,
        });
        var start = Recipes[row](lab);
        var before = lab.Machine.PinStatistics.Acquired;
        var vector = lab.Vector(Pages);
        var result = column switch
        {
            "gvf(w)" => lab.Machine.GetVaddrFrames(lab.Space, start, Pages, GupFlags.Write, vector).Result,
            "gvf(r)" => lab.Machine.GetVaddrFrames(lab.Space, start, Pages, GupFlags.None, vector).Result,
            _ => Gup(lab, column, start, vector),
        };
        // The tables leave the brackets out where nothing was counted: the zero page.
        var zeroPages = vector.IsPinned
            ? lab.Machine.ViewPages(vector, 0, Pages).Count(page => (page.Flags & FrameFlags.Zero) != 0)
            : 0;
        lab.Drop(vector);
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
        var answer = result.Error == Errno.None
            ? result.Pages.ToString(CultureInfo.InvariantCulture)
            : result.Error.ToString();
        return $"{answer} +{lab.Machine.PinStatistics.Acquired - before + zeroPages}";
    }

    private static GupResult Gup(Lab lab, string column, ulong start, FrameVector vector)
    {
        var parts = column.Split(' ');
        var call = parts[0] switch
        {
            "pinF" => GupCall.PinUserPagesFast,
            "getF" => GupCall.GetUserPagesFast,
            "pup" => GupCall.PinUserPages,
            "gup" => GupCall.GetUserPages,
            "pupR" => GupCall.PinUserPagesRemote,
            "gupR" => GupCall.GetUserPagesRemote,
            "fast_only" => GupCall.GetUserPagesFastOnly,
            _ => throw new FormatException(column),
        };
        var flags = GupFlags.None;
        foreach (var letter in parts.Skip(1).SelectMany(part => part.Split('|')))
            flags |= letter switch
            {
                "W" => GupFlags.Write,
                "LT" => GupFlags.LongTerm,
                "F" => GupFlags.Force,
                "r" => GupFlags.None,
                "HWP" => GupFlags.HwPoison,
                "NOFAULT" => GupFlags.NoFault,
                "DUMP" => GupFlags.Dump,
                _ => throw new FormatException(column),
            };
        return lab.Machine.Gup(lab.Space, call, start, Pages, flags, LockedArgument.Held, vector).Result;
    }

    private static ulong Install(Lab lab, InstalledKind kind, AddressRange range)
    {
        Assert.Equal(Errno.None, lab.Machine.InstallMapping(
            lab.Space, new InstalledMapping { Range = range, Prot = Prot.Read, Kind = kind }));
        return range.Start;
    }

    private static ulong Loaded(Lab lab, ulong address)
    {
        lab.Load(address, Pages);
        return address;
    }

    private static List<string[]> Lines(string profile) =>
        [.. File.ReadLines(Path.Combine(AppContext.BaseDirectory, "Data", $"gup-{profile}.tsv")).Select(
            line => line.Split('\t'))];
}
