using FramePin.Core.Abi;
using FramePin.Core.Backing;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>The worked layouts of Semantics 2.10, for eras A, B and D.</summary>
public sealed class LayoutTests
{
    private const ulong At = 0x10000;
    private const ulong Page = Lab.Page;
    private const Prot Rw = Prot.Read | Prot.Write;
    private static readonly long Fault = -(long)Errno.EFAULT;
    private static readonly long Invalid = -(long)Errno.EINVAL;

    private static readonly string[] EraA = ["4.3", "4.9", "5.8"];

    private static void Expect(
        Action<Lab> layout, long count, long a, long b, long d, bool pfns = false, GupFlags flags = GupFlags.Write,
        ulong start = At,
        long? earlyB = null)
    {
        foreach (var profile in EraA) Check(profile, layout, start, count, flags, a, pfns);
        Check("5.17", layout, start, count, flags, b, pfns);
        Check("5.12", layout, start, count, flags, earlyB ?? b, pfns);
        Check("6.12", layout, start, count, flags, d, false);
        Check("6.18", layout, start, count, flags, d, false);
    }

    private static void Check(
        string profile, Action<Lab> layout, ulong start, long count, GupFlags flags, long expected, bool pfns)
    {
        using var lab = new Lab(profile);
        layout(lab);
        var result = lab.Get(start, count, out var vector, flags);
        Assert.True(expected == result.Raw, $"profile {profile}: expected {expected}, got {result}");
        if (expected > 0)
        {
            Assert.Equal(pfns, vector.IsPfns);
            Assert.Equal(!pfns, vector.GotRef);
            Assert.Equal(expected, vector.Count);
        }

        lab.Drop(vector);
    }

    [Fact]
    public void Anon_4_pages() => Expect(lab => lab.Anon(At, 4), 4, 4, 4, 4);

    [Fact]
    public void Anon_2_then_a_hole() => Expect(lab => lab.Anon(At, 2), 4, 2, 2, 2);

    [Fact]
    public void Anon_2_then_pfnmap_2_stops_at_the_vma_check() => Expect(
        lab =>
        {
            lab.Anon(At, 2);
            lab.Device(At + (2 * Page), 2, DeviceMapping.PfnMap, isRam: false);
        },
        4, 2, 2, 2);

    [Fact]
    public void Pfnmap_2_then_anon_2_gives_2_pfns_without_references() => Expect(
        lab =>
        {
            lab.Device(At, 2, DeviceMapping.PfnMap, isRam: false);
            lab.Anon(At + (2 * Page), 2);
        },
        4, 2, 2, Fault, pfns: true);

    [Fact]
    public void Pfnmap_2_then_pfnmap_2_of_another_device_are_joined() => Expect(
        lab =>
        {
            lab.Device(At, 2, DeviceMapping.PfnMap, isRam: false);
            lab.Device(At + (2 * Page), 2, DeviceMapping.PfnMap, isRam: false);
        },
        4, 4, 4, Fault, pfns: true);

    [Fact]
    public void Pfnmap_2_hole_pfnmap_2() => Expect(
        lab =>
        {
            lab.Device(At, 2, DeviceMapping.PfnMap, isRam: false);
            lab.Device(At + (3 * Page), 2, DeviceMapping.PfnMap, isRam: false);
        },
        5, 2, 2, Fault, pfns: true);

    [Fact]
    public void Pfnmap_4_with_the_third_entry_absent() => Expect(
        lab =>
        {
            lab.Device(At, 4, DeviceMapping.PfnMapLazy, isRam: false);
            lab.Load(At, 2);
            lab.Load(At + (3 * Page), 1);
        },
        4, 2, 2, Fault, pfns: true);

    [Fact]
    public void Pfnmap_4_with_the_first_entry_absent() => Expect(
        lab =>
        {
            lab.Device(At, 4, DeviceMapping.PfnMapLazy, isRam: false);
            lab.Load(At + Page, 3);
        },
        4, Invalid, Fault, Fault, pfns: true, earlyB: Invalid);

    [Fact]
    public void Vm_io_over_ram_gives_convertible_pfns() => Expect(
        lab => lab.Device(At, 2, DeviceMapping.IoPages, isRam: true), 2, 2, 2, Fault, pfns: true);

    [Fact]
    public void Unaligned_start_in_a_pfnmap_leaves_the_tail_out() => Expect(
        lab => lab.Device(At, 2, DeviceMapping.PfnMap, isRam: false), 2, 1, 1, Fault, pfns: true, start: At + 0x800);

    [Fact]
    public void Unaligned_start_in_anon_memory_is_aligned_down() => Expect(
        lab => lab.Anon(At, 2), 2, 2, 2, 2, start: At + 0x800);

    [Fact]
    public void Nothing_mapped() => Expect(_ => { }, 1, Fault, Fault, Fault);

    [Fact]
    public void Read_only_private_file_with_force_gives_a_copy() => Expect(
        lab => lab.File(At, 1, FileKind.Disk, MapFlags.Private, Prot.Read), 1, 1, 1, Fault, flags: GupFlags.Write
            | GupFlags.Force);

    [Fact]
    public void Read_only_private_file_without_force() => Expect(
        lab => lab.File(At, 1, FileKind.Disk, MapFlags.Private, Prot.Read), 1, Fault, 1, Fault);

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Shared_read_only_memory_refuses_write_even_with_force(bool isFile) => Expect(
        lab =>
        {
            if (isFile) lab.File(At, 1, FileKind.Shmem, MapFlags.Shared, Prot.Read, openWrite: false);
            else lab.SharedAnon(At, 1, Prot.Read);
        },
        1, Fault, Fault, Fault, flags: GupFlags.Write | GupFlags.Force, earlyB: Invalid);

    [Theory]
    [InlineData("6.12")]
    [InlineData("6.18")]
    public void Shared_read_only_memory_is_pinned_for_read_in_era_D(string profile)
    {
        using var lab = new Lab(profile);
        lab.SharedAnon(At, 1, Prot.Read);
        Assert.Equal(1, lab.Get(At, 1, out var vector, GupFlags.None).Raw);
        lab.Drop(vector);
    }

    [Fact]
    public void Shared_writable_disk_file() => Expect(
        lab => lab.File(At, 1, FileKind.Disk, MapFlags.Shared, Rw), 1, 1, 1, Fault);

    [Fact]
    public void Prot_none_anon_with_force() => Expect(
        lab => lab.Anon(At, 1, Prot.None, written: false), 1, 1, 1, Fault, flags: GupFlags.Force);

    [Fact]
    public void Prot_none_anon_without_force() => Expect(
        lab => lab.Anon(At, 1, Prot.None, written: false), 1, Fault, 1, Fault, flags: GupFlags.None);

    [Fact]
    public void Hugetlb_gives_512_subpages_of_one_folio()
    {
        foreach (var (profile, refs, pins) in new[] { ("4.3", 513, 0), ("5.8", 513, 512), ("5.17", 513, 512),
            ("6.18", 513, 512) })
        {
            using var lab = new Lab(profile, options => options with { HugePages2M = 2 });
            const ulong at = 0x4000_0000;
            Assert.True(
                lab.Map(at, 512, Rw, MapFlags.Private | MapFlags.Anonymous | MapFlags.HugeTlb | MapFlags.Fixed).IsOk);
            lab.Write(at, 1);
            Assert.Equal(512, lab.Get(at, 512, out var vector).Raw);
            var page = lab.View(vector, 511);
            Assert.Equal(refs, page.RefCount);
            Assert.Equal(pins, page.PinCount);
            Assert.Equal(9, page.Order);
            lab.Drop(vector);
            Assert.Equal(1, lab.ViewAt(at).RefCount);
        }
    }
}
