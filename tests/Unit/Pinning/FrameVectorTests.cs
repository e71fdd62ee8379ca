using FramePin.Core.Abi;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>Rows 1 to 35 and 75 to 77 of Semantics 8: the helper by era.</summary>
public sealed class FrameVectorTests
{
    private const ulong At = 0x10000;
    private const ulong Page = Lab.Page;
    private const Prot Rw = Prot.Read | Prot.Write;
    private static readonly long Fault = -(long)Errno.EFAULT;

    public static TheoryData<string> Profiles => ["4.3", "4.9", "5.8", "5.12", "5.17", "6.1", "6.12", "6.18"];

    public static TheoryData<string> EraA => ["4.3", "4.9", "5.8"];

    public static TheoryData<string> EraD => ["6.12", "6.18"];

    [Fact]
    public void Row_1_create_of_nothing_fails()
    {
        using var lab = new Lab();
        Assert.Null(lab.Machine.CreateVector(0));
        Assert.Null(lab.Machine.CreateVector(-1));
    }

    [Fact]
    public void Row_2_create_above_the_cap_fails_and_at_the_cap_works()
    {
        using var lab = new Lab();
        Assert.Null(lab.Machine.CreateVector(134217728));
        var vector = lab.Machine.CreateVector(134217727);
        Assert.NotNull(vector);
        Assert.Equal(134217727, vector.Allocated);
        Assert.True(lab.Machine.DestroyVector(vector));
    }

    [Theory]
    [MemberData(nameof(Profiles))]
    public void Row_3_get_of_nothing_leaves_the_vector_alone(string profile)
    {
        using var lab = new Lab(profile);
        lab.Anon(At, 3);
        Assert.Equal(3, lab.Get(At, 3, out var vector).Raw);
        Assert.Equal(0, lab.Machine.GetVaddrFrames(lab.Space, At, 0, GupFlags.Write, vector).Result.Raw);
        Assert.Equal(3, vector.Count);
        Assert.True(vector.GotRef);
        lab.Drop(vector);
    }

    [Theory]
    [MemberData(nameof(Profiles))]
    public void Row_4_get_of_more_than_allocated_is_clamped(string profile)
    {
        using var lab = new Lab(profile);
        lab.Anon(At, 4);
        var vector = lab.Vector(3);
        Assert.Equal(3, lab.Machine.GetVaddrFrames(lab.Space, At, 4, GupFlags.Write, vector).Result.Raw);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData("4.3", false)]
    [InlineData("6.18", true)]
    public void Row_5_get_of_an_unmapped_start(string profile, bool gotRef)
    {
        using var lab = new Lab(profile);
        Assert.Equal(Fault, lab.Get(At, 1, out var vector).Raw);
        Assert.Equal(0, vector.Count);
        Assert.Equal(gotRef, vector.GotRef);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData("4.3", 1)]
    [InlineData("4.9", 1)]
    [InlineData("5.8", 1024)]
    [InlineData("5.17", 1024)]
    [InlineData("6.1", 1024)]
    [InlineData("6.18", 1024)]
    public void Rows_6_and_7_pages_are_counted_and_put_restores_the_counts(string profile, int added)
    {
        using var lab = new Lab(profile);
        lab.Anon(At, 3);
        var before = lab.ViewAt(At).RefCount;
        Assert.Equal(3, lab.Get(At, 3, out var vector).Raw);
        Assert.True(vector.GotRef);
        for (var i = 0; i < 3; i++) Assert.Equal(before + added, lab.View(vector, i).RefCount);
        lab.Machine.PutVaddrFrames(vector);
        Assert.Equal(0, vector.Count);
        Assert.False(vector.GotRef);
        for (var i = 0; i < 3; i++) Assert.Equal(before, lab.ViewAt(At + ((ulong)i * Page)).RefCount);
        lab.Drop(vector);
    }

    [Theory]
    [MemberData(nameof(Profiles))]
    public void Row_8_a_second_put_does_nothing(string profile)
    {
        using var lab = new Lab(profile);
        lab.Anon(At, 2);
        Assert.Equal(2, lab.Get(At, 2, out var vector).Raw);
        lab.Machine.PutVaddrFrames(vector);
        lab.Machine.PutVaddrFrames(vector);
        Assert.Equal(1, lab.ViewAt(At).RefCount);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_9_destroy_without_put_is_reported()
    {
        using var lab = new Lab();
        lab.Anon(At, 1);
        lab.Get(At, 1, out var vector);
        Assert.False(lab.Machine.DestroyVector(vector));
        lab.Drop(vector);
    }

    [Theory]
    [MemberData(nameof(Profiles))]
    public void Row_10_a_vector_can_be_used_again_after_put(string profile)
    {
        using var lab = new Lab(profile);
        lab.Anon(At, 2);
        Assert.Equal(2, lab.Get(At, 2, out var vector).Raw);
        lab.Machine.PutVaddrFrames(vector);
        Assert.Equal(2, lab.Machine.GetVaddrFrames(lab.Space, At, 2, GupFlags.Write, vector).Result.Raw);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_11_get_without_put_leaks_the_first_references()
    {
        var lab = new Lab(configure: options => options with { AuditsEachCommand = false });
        lab.Anon(At, 1);
        Assert.Equal(1, lab.Get(At, 1, out var vector).Raw);
        Assert.Equal(1, lab.Machine.GetVaddrFrames(lab.Space, At, 1, GupFlags.Write, vector).Result.Raw);
        lab.Machine.PutVaddrFrames(vector);
        Assert.Equal(1 + 1024, lab.ViewAt(At).RefCount);
        Assert.Contains(lab.Machine.Audit(), finding => finding.Contains("pins outstanding", StringComparison.Ordinal));
        lab.Machine.Dispose();
    }

    [Theory]
    [MemberData(nameof(Profiles))]
    public void Rows_12_and_13_conversion_keeps_pages_and_references(string profile)
    {
        using var lab = new Lab(profile);
        lab.Anon(At, 4);
        Assert.Equal(4, lab.Get(At, 4, out var vector).Raw);
        var before = vector.Runs.ToArray();
        var refs = lab.View(vector).RefCount;
        lab.Machine.ToPfns(vector);
        Assert.True(vector.IsPfns && vector.GotRef);
        Assert.Equal(Errno.None, lab.Machine.ToPages(vector));
        Assert.Equal(before, vector.Runs.ToArray());
        Assert.Equal(refs, lab.View(vector).RefCount);
        lab.Machine.ToPfns(vector);
        lab.Drop(vector);
        Assert.Equal(1, lab.ViewAt(At).RefCount);
    }

    [Theory]
    [MemberData(nameof(EraA))]
    public void Row_14_mmio_pfns_have_no_pages(string profile)
    {
        using var lab = new Lab(profile);
        lab.Device(At, 2, DeviceMapping.PfnMap, isRam: false);
        Assert.Equal(2, lab.Get(At, 2, out var vector).Raw);
        Assert.Equal(Errno.EINVAL, lab.Machine.ToPages(vector));
        Assert.True(vector.IsPfns);
        lab.Drop(vector);
    }

    [Theory]
    [MemberData(nameof(EraA))]
    public void Row_15_one_bad_pfn_and_none_is_converted(string profile)
    {
        using var lab = new Lab(profile);
        lab.Device(At, 2, DeviceMapping.PfnMap, isRam: true);
        lab.Device(At + (2 * Page), 1, DeviceMapping.PfnMap, isRam: false);
        Assert.Equal(3, lab.Get(At, 3, out var vector).Raw);
        Assert.Equal(Errno.EINVAL, lab.Machine.ToPages(vector));
        Assert.True(vector.IsPfns);
        Assert.Equal(3, vector.Count);
        lab.Drop(vector);
    }

    [Theory]
    [MemberData(nameof(EraA))]
    public void Row_16_vm_io_over_ram_converts_and_put_drops_nothing(string profile)
    {
        using var lab = new Lab(profile);
        lab.Device(At, 2, DeviceMapping.IoPages, isRam: true);
        var before = lab.ViewAt(At).RefCount;
        Assert.Equal(2, lab.Get(At, 2, out var vector).Raw);
        Assert.Equal(Errno.None, lab.Machine.ToPages(vector));
        Assert.False(vector.GotRef);
        Assert.Equal(0, lab.PeekFrame(vector));
        Assert.Equal(before, lab.View(vector).RefCount);
        lab.Drop(vector);
        Assert.Equal(before, lab.ViewAt(At).RefCount);
    }

    [Theory]
    [MemberData(nameof(EraA))]
    public void Rows_17_to_20_pfnmap_neighbours(string profile)
    {
        using var lab = new Lab(profile);
        lab.Device(At, 2, DeviceMapping.PfnMap, isRam: false);
        lab.Anon(At + (2 * Page), 2);
        lab.Device(At + (4 * Page), 2, DeviceMapping.PfnMap, isRam: false);
        lab.Device(At + (6 * Page), 2, DeviceMapping.PfnMap, isRam: false);
        Assert.Equal(2, lab.Get(At, 8, out var row17).Raw);
        Assert.True(row17.IsPfns);
        Assert.Equal(2, lab.Get(At + (2 * Page), 4, out var row18).Raw);
        Assert.False(row18.IsPfns);
        Assert.Equal(4, lab.Get(At + (4 * Page), 4, out var row19).Raw);
        Assert.Equal(2, row19.RunCount);
        lab.Device(0x40000, 2, DeviceMapping.PfnMapLazy, isRam: false);
        lab.Load(0x40000, 1);
        Assert.Equal(1, lab.Get(0x40000, 2, out var row20).Raw);
        lab.Drop(row17, row18, row19, row20);
    }

    [Theory]
    [MemberData(nameof(EraA))]
    public void Row_21_a_lazy_pfnmap_never_touched(string profile)
    {
        using var lab = new Lab(profile);
        lab.Device(At, 2, DeviceMapping.PfnMapLazy, isRam: false);
        Assert.Equal(-(long)Errno.EINVAL, lab.Get(At, 2, out var vector).Raw);
        lab.Drop(vector);
    }

    [Theory]
    [MemberData(nameof(EraA))]
    public void Row_22_permission_of_a_pfnmap_is_ignored(string profile)
    {
        using var lab = new Lab(profile);
        lab.Device(At, 1, DeviceMapping.PfnMap, isRam: false, Prot.Read);
        Assert.Equal(1, lab.Get(At, 1, out var vector).Raw);
        lab.Drop(vector);
    }

    [Theory]
    [MemberData(nameof(EraA))]
    public void Row_23_unaligned_start_of_a_pfnmap(string profile)
    {
        using var lab = new Lab(profile);
        lab.Device(At, 2, DeviceMapping.PfnMap, isRam: false);
        Assert.Equal(1, lab.Get(At + 0x800, 2, out var vector).Raw);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData("6.1", DeviceMapping.PfnMap)]
    [InlineData("6.12", DeviceMapping.PfnMap)]
    [InlineData("6.18", DeviceMapping.PfnMap)]
    [InlineData("6.18", DeviceMapping.PfnMapLazy)]
    public void Row_24_eras_C_and_D_refuse_any_pfnmap(string profile, DeviceMapping mapping)
    {
        using var lab = new Lab(profile);
        lab.Device(At, 2, mapping, isRam: true);
        Assert.Equal(Fault, lab.Get(At, 2, out var vector).Raw);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData("4.9")]
    [InlineData("6.18")]
    public void Row_25_fsdax_is_not_supported(string profile)
    {
        using var lab = new Lab(profile);
        lab.File(At, 1, FileKind.FsDax, MapFlags.Shared, Rw);
        Assert.Equal(-(long)Errno.EOPNOTSUPP, lab.Get(At, 1, out var vector).Raw);
        lab.Drop(vector);
    }

    [Theory]
    [MemberData(nameof(EraD))]
    public void Rows_26_and_27_read_only_shmem(string profile)
    {
        using var lab = new Lab(profile);
        lab.File(At, 1, FileKind.Shmem, MapFlags.Shared, Prot.Read, openWrite: false);
        Assert.Equal(1, lab.Get(At, 1, out var read, GupFlags.None).Raw);
        Assert.Equal(Fault, lab.Get(At, 1, out var write).Raw);
        lab.Drop(read, write);
    }

    [Theory]
    [InlineData("5.17")]
    [InlineData("6.1")]
    public void Row_28_eras_B_and_C_always_write(string profile)
    {
        using var lab = new Lab(profile);
        lab.File(At, 1, FileKind.Shmem, MapFlags.Shared, Prot.Read, openWrite: false);
        Assert.Equal(Fault, lab.Get(At, 1, out var vector, GupFlags.None).Raw);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_29_era_B_copies_a_read_only_private_file()
    {
        using var lab = new Lab("5.17");
        var file = lab.Machine.CreateFile("/f", FileKind.Disk, Page)!;
        Assert.Equal(3, lab.Machine.WriteFile(file, 0, "abc"u8, out _));
        lab.MapFile(At, 1, file, MapFlags.Private, Prot.Read);
        Assert.Equal(1, lab.Get(At, 1, out var vector).Raw);
        Assert.True(lab.View(vector).Flags.HasFlag(FramePin.Core.Frames.FrameFlags.Anon));
        Assert.Equal(vector[0], lab.Machine.Translate(lab.Space, At));
        Assert.Equal((byte)'a', lab.Peek(At));
        lab.Drop(vector);
    }

    [Theory]
    [MemberData(nameof(EraD))]
    public void Rows_30_and_31_disk_files(string profile)
    {
        using var lab = new Lab(profile);
        lab.File(At, 1, FileKind.Disk, MapFlags.Shared, Rw);
        lab.File(0x40000, 1, FileKind.Disk, MapFlags.Private, Rw);
        Assert.Equal(Fault, lab.Get(At, 1, out var shared).Raw);
        Assert.Equal(1, lab.Get(0x40000, 1, out var copy).Raw);
        Assert.True(lab.View(copy).Flags.HasFlag(FramePin.Core.Frames.FrameFlags.Anon));
        lab.Drop(shared, copy);
    }

    [Theory]
    [MemberData(nameof(EraD))]
    public void Row_32_secretmem(string profile)
    {
        using var lab = new Lab(profile);
        lab.File(At, 1, FileKind.Secret, MapFlags.Shared, Rw);
        lab.Write(At, 1);
        Assert.Equal(Fault, lab.Get(At, 1, out var vector).Raw);
        lab.Drop(vector);
    }

    [Theory]
    [MemberData(nameof(EraD))]
    public void Row_33_a_movable_page_is_migrated_first(string profile)
    {
        using var lab = new Lab(profile, options => options with { MovableMemory = 16UL << 20 });
        lab.Anon(At, 2);
        lab.Poke(At, 42);
        var before = lab.Machine.Translate(lab.Space, At)!.Value;
        Assert.Equal(2, lab.Get(At, 2, out var vector).Raw);
        Assert.NotEqual(before, vector[0]);
        Assert.Equal(vector[0], lab.Machine.Translate(lab.Space, At));
        Assert.Equal(42, lab.PeekFrame(vector));
        Assert.Equal(42, lab.Peek(At));
        Assert.Equal(4, lab.Machine.PinStatistics.Acquired);
        Assert.Equal(2, lab.Machine.PinStatistics.Released);
        lab.Drop(vector);
    }

    [Fact]
    public void Row_33_a_shared_file_page_and_a_huge_page_are_migrated_too()
    {
        using var lab = new Lab("6.18", options => options with { MovableMemory = 16UL << 20, Thp = ThpMode.Always });
        lab.SharedAnon(At, 2);
        lab.Poke(At, 7);
        var child = lab.Fork();
        Assert.Equal(7, lab.Peek(At, child));
        Assert.Equal(2, lab.Get(At, 2, out var shared).Raw);
        Assert.Equal(7, lab.PeekFrame(shared));
        Assert.Equal(lab.Machine.Translate(child, At), lab.Machine.Translate(lab.Space, At));

        lab.Anon(0x4000_0000, 512);
        lab.Poke(0x4000_0000, 9);
        Assert.Equal(8, lab.Get(0x4000_5000, 8, out var huge).Raw);
        Assert.Equal(9, lab.View(huge).Order);
        Assert.Equal(9, lab.Peek(0x4000_0000));
        Assert.Equal(1UL, huge.Runs[0].First.Value - lab.View(huge).Head.Value - 4);
        lab.Drop(shared, huge);
    }

    [Theory]
    [MemberData(nameof(EraD))]
    public void Row_34_a_movable_page_with_other_references_fails(string profile)
    {
        using var lab = new Lab(profile, options => options with { MovableMemory = 16UL << 20 });
        lab.Anon(At, 1);
        Assert.Equal(1, lab.Gup(GupCall.GetUserPagesFast, At, 1, GupFlags.None, out var holder).Result.Raw);
        Assert.Equal(-(long)Errno.ENOMEM, lab.Get(At, 1, out var vector).Raw);
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
        Assert.Equal(2, lab.ViewAt(At).RefCount);
        lab.Drop(holder, vector);
    }

    [Theory]
    [InlineData("6.1")]
    [InlineData("6.18")]
    public void Row_35_a_raw_pfn_in_a_mixed_map(string profile)
    {
        using var lab = new Lab(profile);
        lab.Device(At, 1, DeviceMapping.MixedPfns, isRam: false);
        Assert.Equal(-(long)Errno.EEXIST, lab.Get(At, 1, out var vector).Raw);
        lab.Drop(vector);
    }

    [Theory]
    [InlineData(0x0UL, 0UL, 0, Errno.ENOMEM)]
    [InlineData(0x800UL, 0UL, 1, Errno.None)]
    [InlineData(0x0UL, 1UL, 1, Errno.None)]
    [InlineData(0xfffUL, 2UL, 2, Errno.None)]
    [InlineData(0x800UL, 0x1000UL, 2, Errno.None)]
    public void Rows_75_and_77_framevec_lengths(ulong offset, ulong length, int pages, Errno expected)
    {
        using var lab = new Lab();
        lab.Anon(At, 3);
        var vector = lab.Machine.CreateFramevec(lab.Space, At + offset, length, isWrite: true, out var error);
        Assert.Equal(expected, error);
        if (vector is null) return;
        Assert.Equal(pages, vector.Count);
        lab.Drop(vector);
    }

    [Theory]
    [MemberData(nameof(Profiles))]
    public void Row_76_framevec_over_a_hole_drops_its_pins(string profile)
    {
        using var lab = new Lab(profile);
        lab.Anon(At, 2);
        Assert.Null(lab.Machine.CreateFramevec(lab.Space, At, 4 * Page, isWrite: true, out var error));
        Assert.Equal(Errno.EFAULT, error);
        Assert.Equal(1, lab.ViewAt(At).RefCount);
        Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
    }

    [Fact]
    public void Row_77_framevec_of_an_unaligned_pfnmap_buffer()
    {
        using var lab = new Lab("4.9");
        lab.Device(At, 2, DeviceMapping.PfnMap, isRam: false);
        var vector = lab.Machine.CreateFramevec(lab.Space, At + 0x800, Page, isWrite: true, out _);
        Assert.NotNull(vector);
        Assert.Equal(2, vector.Count);
        lab.Drop(vector);
    }

    [Fact]
    public void Framevec_of_a_wrapped_range_answers_as_its_era()
    {
        using var d = new Lab("6.18");
        Assert.Null(d.Machine.CreateFramevec(d.Space, 0xffff_ffff_ffff_f000, 0x2000, isWrite: true, out var overflow));
        Assert.Equal(Errno.EOVERFLOW, overflow);
        using var a = new Lab("4.9");
        Assert.Null(a.Machine.CreateFramevec(a.Space, 0xffff_ffff_ffff_f000, 0x2000, isWrite: true, out var fault));
        Assert.Equal(Errno.EFAULT, fault);
    }
}
