using System.Globalization;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Vmas;

/// <summary>
/// The reverse map of anonymous memory over fork, exit, mremap, swap and splits, and the audit's findings in a wrong
/// one.
/// </summary>
public sealed class AnonVmaTests
{
    private const ulong At = 0x4000_0000;
    private const ulong Page = Lab.Page;

    [Fact]
    public void A_page_that_two_children_share_moves_after_their_parent_ended()
    {
        using var lab = new Lab();
        lab.Anon(At, 64);
        lab.Anon(2 * At, 64);
        var (one, two) = (lab.Fork("one"), lab.Fork("two"));
        lab.Machine.Exit(lab.Space);
        Assert.True(lab.Machine.Munmap(one, 2 * At, 64 * Page).IsOk);
        Assert.True(lab.Machine.Munmap(two, 2 * At, 64 * Page).IsOk);
        var before = lab.ViewAt(At, one).Pfn;
        Assert.Equal(64, lab.Machine.Compact());
        var after = lab.ViewAt(At, one);
        Assert.NotEqual(before, after.Pfn);
        Assert.Equal(after.Pfn, lab.ViewAt(At, two).Pfn);
        Assert.Equal(2, after.MapCount);
    }

    [Fact]
    public void A_page_that_one_sibling_read_back_from_swap_moves_for_the_other_too()
    {
        using var lab = new Lab(configure: options => options with { Swap = 1UL << 20 });
        lab.Anon(At, 64);
        Assert.True(lab.Machine.Madvise(lab.Space, At, 64 * Page, Advice.PageOut).IsOk);
        var (one, two) = (lab.Fork("one"), lab.Fork("two"));
        lab.Anon(2 * At, 64);
        lab.Machine.Exit(lab.Space);
        // The first to read makes the frame, which is not its own: the other's entry names the same slot.
        for (var i = 0UL; i < 64; i++) Assert.Equal(0, lab.Peek(At + (i * Page), one));
        for (var i = 0UL; i < 64; i++) Assert.Equal(0, lab.Peek(At + (i * Page), two));
        Assert.Equal(2, lab.ViewAt(At, one).MapCount);
        Assert.True(lab.Machine.Compact() > 0);
        Assert.Equal(lab.ViewAt(At, one).Pfn, lab.ViewAt(At, two).Pfn);
    }

    [Fact]
    public void A_large_folio_that_a_child_reuses_is_found_through_all_the_areas_that_map_a_part_of_it()
    {
        using var lab = new Lab(configure: options => options with { Thp = ThpMode.Always });
        lab.Anon(At, 512);
        // Two areas of the parent's, of one anon_vma; the child's two have one each.
        Assert.True(lab.Machine.Mprotect(lab.Space, At, 256 * Page, Prot.Read).IsOk);
        var child = lab.Fork();
        lab.Machine.Exit(lab.Space);
        lab.Space = child;
        var before = lab.ViewAt(At + (300 * Page)).Pfn;
        lab.Poke(At + (300 * Page), 1);
        Assert.Equal(before, lab.ViewAt(At + (300 * Page)).Pfn);
        Assert.Empty(lab.Machine.Audit());
        Assert.True(lab.Machine.Madvise(lab.Space, At, 256 * Page, Advice.Cold).IsOk);
        Assert.Equal(0, lab.ViewAt(At + (300 * Page)).Order);
    }

    [Fact]
    public void The_chain_of_an_area_does_not_grow_with_every_generation()
    {
        using var lab = new Lab();
        lab.Anon(At, 2);
        for (var generation = 0; generation < 50; generation++)
        {
            var child = lab.Fork($"generation{generation}");
            lab.Machine.Exit(lab.Space);
            lab.Space = child;
            lab.Poke(At, (byte)generation);
        }

        var links = 0;
        for (var link = lab.Space.Vmas.Find(At)!.AnonChain; link is not null; link = link.Older) links++;
        Assert.Equal(2, links);
        Assert.Equal(2, lab.Machine.Context.AnonVmas.Live.Count);
    }

    [Fact]
    public void Nothing_is_remembered_of_areas_that_are_gone()
    {
        using var lab = new Lab();
        lab.Anon(At, 4);
        lab.Machine.Exit(lab.Fork());
        Assert.True(lab.Machine.Munmap(lab.Space, At, 4 * Page).IsOk);
        Assert.Empty(lab.Machine.Context.AnonVmas.Live);
    }

    [Fact]
    public void The_audit_finds_an_area_that_its_files_map_does_not_have()
    {
        using var lab = new Lab(configure: options => options with { AuditsEachCommand = false });
        var file = lab.Machine.CreateFile("/f", FileKind.Shmem, 4 * Page)!;
        lab.MapFile(At, 4, file, MapFlags.Shared, Prot.Read);
        var vma = lab.Space.Vmas.Find(At)!;
        file.Mappings.Remove(vma);
        Assert.Contains(lab.Machine.Audit(), finding => finding.Contains("reverse map", StringComparison.Ordinal));
        file.Mappings.Add(vma);
        Assert.Empty(lab.Machine.Audit());
    }

    [Fact]
    public void The_audit_finds_an_anonymous_page_that_its_area_would_not_be_found_by()
    {
        using var lab = new Lab(configure: options => options with { AuditsEachCommand = false });
        lab.Anon(At, 1);
        var frame = lab.Machine.Context.Memory.Frames[lab.ViewAt(At).Pfn];
        frame.Index++;
        Assert.Contains(lab.Machine.Audit(), finding => finding.Contains("is not found by", StringComparison.Ordinal));
        frame.Index--;
    }

    /// <summary>The audit, which compares the maps with a scan, runs after each operation.</summary>
    [Fact]
    public void Random_operations_leave_every_map_as_a_scan_finds_it()
    {
        var seed = Environment.GetEnvironmentVariable("FRAMEPIN_SEED") is { Length: > 0 } given
            ? int.Parse(given, CultureInfo.InvariantCulture)
            : (int)(DateTime.UtcNow.Ticks & 0x3fffffff);
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}: set FRAMEPIN_SEED to repeat");
        for (var round = 0; round < 8; round++)
        {
            var random = new Random(seed + round);
            using var lab = new Lab(
                round % 2 == 0 ? "6.18" : "6.1", options => options with
                {
                    Memory = 48UL << 20,
                    Swap = 4UL << 20,
                    HugePages2M = 2,
                    Thp = round % 4 < 2 ? ThpMode.Always : ThpMode.Never,
                });
            var files = new[] { FileKind.Shmem, FileKind.Disk }.Select(
                kind => lab.Machine.CreateFile($"/{kind}", kind, 64 * Page)!).ToArray();
            var spaces = new List<AddressSpace> { lab.Space };
            for (var step = 0; step < 400; step++)
            {
                try
                {
                    Operate(lab.Machine, spaces, files, random, step);
                }
                catch (InvalidOperationException finding)
                {
                    Assert.Fail($"seed {seed}, round {round}, step {step}: {finding.Message}");
                }
            }
        }
    }

    private static void Operate(
        Machine machine, List<AddressSpace> spaces, MemoryFile[] files, Random random, int step)
    {
        var space = spaces[random.Next(spaces.Count)];
        var address = Spot(random);
        var length = (ulong)random.Next(1, 12) * Page * (random.Next(8) == 0 ? 64UL : 1);
        switch (random.Next(16))
        {
            case 0 or 1:
                var file = random.Next(3) == 0 ? files[random.Next(2)] : null;
                machine.Mmap(space, new MmapRequest
                {
                    Address = address,
                    Length = length,
                    Prot = Prot.Read | Prot.Write,
                    Flags = MapFlags.Fixed | (file is null ? MapFlags.Anonymous : 0)
                        | (random.Next(3) == 0 ? MapFlags.Shared : MapFlags.Private),
                    File = file,
                    Offset = file is null ? 0 : (ulong)random.Next(32) * Page,
                });
                break;
            case 2:
                machine.Mmap(space, new MmapRequest
                {
                    Address = PageGeometry.AlignDown(address, PageGeometry.PmdSize),
                    Length = PageGeometry.PmdSize * (ulong)random.Next(1, 3),
                    Prot = Prot.Read | Prot.Write,
                    Flags = MapFlags.Fixed | MapFlags.Anonymous | MapFlags.Private
                        | (random.Next(3) == 0 ? MapFlags.HugeTlb : 0),
                });
                break;
            case 3: machine.Munmap(space, address, length); break;
            case 4:
                machine.Mprotect(space, address, length, random.Next(2) == 0 ? Prot.Read : Prot.Read | Prot.Write);
                break;
            case 5:
                machine.Mremap(
                    space, address, length, length + (ulong)random.Next(2) * Page,
                    MremapFlags.MayMove | (random.Next(2) == 0 ? MremapFlags.Fixed : 0), Spot(random));
                break;
            case 6:
                machine.Mremap(
                    space, address, length, length, MremapFlags.MayMove | MremapFlags.DontUnmap, Spot(random));
                break;
            case 7 when spaces.Count < 5:
                if (machine.Fork(space, $"s{step}", out _) is { } child) spaces.Add(child);
                break;
            case 7 or 8 when spaces.Count > 1:
                spaces.Remove(space);
                machine.Exit(space);
                break;
            case 9: machine.Madvise(space, address, length, Advice.PageOut); break;
            case 10: machine.Madvise(space, address, length, Advice.DontNeed); break;
            case 11:
                machine.Madvise(space, address, length, random.Next(2) == 0 ? Advice.WillNeed : Advice.Free);
                break;
            case 12: machine.Compact(); break;
            case 13: machine.Truncate(files[random.Next(2)], (ulong)random.Next(64) * Page); break;
            default:
                machine.TouchRange(
                    space, address, (long)(length / Page), isWrite: random.Next(3) != 0, out _);
                break;
        }
    }

    /// <summary>One of some pages of a few neighbouring huge pages, so that areas meet and are cut.</summary>
    private static ulong Spot(Random random) =>
        At + ((ulong)random.Next(3) * PageGeometry.PmdSize)
            + ((ulong)random.Next(24) * Page * (ulong)random.Next(1, 20));
}
