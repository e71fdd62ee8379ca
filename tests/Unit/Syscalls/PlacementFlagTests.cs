using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Syscalls;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>
/// Flags of mmap that choose a place or part areas, as 6.18 answered: faults E2, E3 and E10 of the list of faults found
/// from outside.
/// </summary>
public sealed class PlacementFlagTests
{
    private const ulong Low = 0x4000_0000;
    private const ulong LowEnd = 0x8000_0000;
    private const ulong At = 0x2000_0000;
    private const ulong Page = Lab.Page;
    private const ulong Huge = PageGeometry.PmdSize;
    private const Prot Rw = Prot.Read | Prot.Write;
    private const MapFlags PrivateAnon = MapFlags.Private | MapFlags.Anonymous;
    private const MapFlags LowAnon = PrivateAnon | MapFlags.Map32Bit;

    /// <summary>E2: upwards from 1 GiB; a hint counts below 2 GiB only.</summary>
    [Fact]
    public void E2_map_32bit_searches_upwards_below_2_gib()
    {
        using var lab = new Lab();
        Assert.Equal(Low, Map(lab, 0, Page, LowAnon).Value);
        Assert.Equal(Low + Page, Map(lab, 0, 2 * Page, LowAnon, prot: Prot.Read).Value);
        Assert.Equal(0x5000_0000UL, Map(lab, 0x5000_0000, 2 * Page, LowAnon).Value);
        Assert.Equal(0x1000_0000UL, Map(lab, 0x1000_0000, 2 * Page, LowAnon).Value);
        Assert.Equal(Low + (3 * Page), Map(lab, LowEnd - (2 * Page), 4 * Page, LowAnon).Value);
        Assert.Equal(Low + (7 * Page), Map(lab, 0x7000_0000_0000, 4 * Page, LowAnon).Value);
        // A length of whole huge pages is placed on a huge page, within the same room.
        Assert.Equal(Low + Huge, Map(lab, 0, 2 * Huge, LowAnon).Value);
        Assert.Equal(Errno.ENOMEM, Map(lab, 0, LowEnd - Low, LowAnon | MapFlags.NoReserve).Error);
        Assert.Equal(Errno.ENOMEM, Map(lab, 0, LowEnd, LowAnon | MapFlags.NoReserve).Error);
        Assert.Equal(Errno.ENOMEM, Map(lab, 0, LowEnd + Page, LowAnon | MapFlags.NoReserve).Error);
    }

    /// <summary>E2, E3: hugetlbfs placed its mappings by rules of its own before 6.13.</summary>
    [Theory]
    [InlineData("6.1", 0x5000_0000UL, 0UL)]
    [InlineData("6.12", 0x5000_0000UL, 0UL)]
    [InlineData("6.18", 0x5020_0000UL, Low)]
    public void E2_a_hint_and_map_32bit_for_huge_pages(string profile, ulong hinted, ulong low)
    {
        using var lab = new Lab(profile, options => options with { HugePages2M = 4 });
        const MapFlags huge = PrivateAnon | MapFlags.HugeTlb;
        Assert.Equal(hinted, Map(lab, 0x5010_0000, Huge, huge).Value);
        var placed = Map(lab, 0, Huge, huge | MapFlags.Map32Bit).Value;
        if (low != 0) Assert.Equal(low, placed);
        else Assert.InRange(placed, LowEnd, PageGeometry.MapWindow);
    }

    [Fact]
    public void E2_map_32bit_means_nothing_beside_a_fixed_address()
    {
        using var lab = new Lab();
        Assert.Equal(0x9000_0000UL, Map(lab, 0x9000_0000, Page, LowAnon | MapFlags.Fixed).Value);
        Assert.Equal(0x9001_0000UL, Map(lab, 0x9001_0000, Page, LowAnon | MapFlags.FixedNoReplace).Value);
        Assert.Equal(Errno.EEXIST, Map(lab, 0x9001_0000, Page, LowAnon | MapFlags.FixedNoReplace).Error);
    }

    /// <summary>Sisters of E2: every kind of mapping is placed there.</summary>
    [Fact]
    public void E2_map_32bit_places_files_shared_memory_huge_pages_and_devices()
    {
        using var lab = new Lab(configure: options => options with { HugePages2M = 4 });
        foreach (var kind in new[] { FileKind.Shmem, FileKind.Disk, FileKind.FsDax })
        {
            var file = lab.Machine.CreateFile($"/{kind}", kind, 4 * Page)!;
            AssertLow(Map(lab, 0, Page, MapFlags.Shared | MapFlags.Map32Bit, file));
        }

        AssertLow(Map(lab, 0, Page, MapFlags.Shared | MapFlags.Anonymous | MapFlags.Map32Bit));
        var huge = Map(lab, 0, Huge, LowAnon | MapFlags.HugeTlb);
        AssertLow(huge);
        Assert.Equal(0UL, huge.Value % Huge);
        var device = lab.Machine.CreateDevice(
            "/dev/d", DeviceMapping.MixedPages, 4, isRam: true, hasClose: false, isWritable: true)!;
        AssertLow(lab.Machine.Mmap(lab.Space, new MmapRequest
        {
            Length = Page,
            Prot = Rw,
            Flags = MapFlags.Shared | MapFlags.Map32Bit,
            Device = device
        }));
    }

    /// <summary>A stack keeps its guard gap from a search upwards too.</summary>
    [Fact]
    public void E2_map_32bit_keeps_clear_of_a_stack()
    {
        using var lab = new Lab();
        const ulong stack = Low + (300 * Page);
        Map(lab, stack, Page, PrivateAnon | MapFlags.Fixed | MapFlags.GrowsDown);
        Assert.Equal(Low, Map(lab, 0, 40 * Page, LowAnon, prot: Prot.Read).Value);
        Assert.Equal(stack + Page, Map(lab, 0, 40 * Page, LowAnon, prot: Prot.Read).Value);
    }

    /// <summary>MAP_ABOVE4G exists since 6.6: the search downwards ends there.</summary>
    [Theory]
    [InlineData("6.18", Errno.EOPNOTSUPP, Errno.None)]
    [InlineData("6.1", Errno.EOPNOTSUPP, Errno.EOPNOTSUPP)]
    public void E2_map_above_4g_is_known_since_6_6(string profile, Errno unknown, Errno above)
    {
        using var lab = new Lab(profile);
        var file = lab.Machine.CreateFile("/file", FileKind.Shmem, Page)!;
        Assert.Equal(unknown, Map(lab, 0, Page, MapFlags.SharedValidate | (MapFlags)0x200, file).Error);
        Assert.Equal(above, Map(lab, 0, Page, MapFlags.SharedValidate | MapFlags.Above4G, file).Error);
        Assert.True(Map(lab, 0, Page, PrivateAnon | MapFlags.Above4G).Value > 1UL << 32);
    }

    /// <summary>E3: a part of a huge page is no offset, and the old areas are gone by the time it is refused.</summary>
    [Theory]
    [InlineData(Page, MapFlags.Private)]
    [InlineData(Huge / 2, MapFlags.Shared)]
    [InlineData(Huge + Page, MapFlags.Shared | MapFlags.NoReserve)]
    public void E3_the_offset_of_huge_pages_is_whole_huge_pages(ulong offset, MapFlags flags)
    {
        using var lab = new Lab(configure: options => options with { HugePages2M = 2 });
        var file = lab.Machine.CreateFile("/huge", FileKind.HugeTlb, 2 * Huge, PageGeometry.PmdOrder)!;
        Assert.Equal(Errno.EINVAL, Map(lab, 0, Huge, flags, file, offset).Error);
        lab.Anon(At, 1);
        var replaced = Map(lab, At, Huge, flags | MapFlags.Fixed, file, offset);
        Assert.Equal((Errno.EINVAL, true), (replaced.Error, replaced.IsPartial));
        Assert.Equal(UserSignal.SigSegvMapErr, lab.Machine.Touch(lab.Space, At, isWrite: false));
        // The checks of the address and of the descriptor come first.
        Assert.Equal(Errno.EINVAL, Map(lab, At + Page, Huge, flags | MapFlags.Fixed, file, offset).Error);
        Assert.Equal(Errno.EACCES, lab.Machine.Mmap(lab.Space, new MmapRequest
        {
            Length = Huge,
            Prot = Prot.Read,
            Flags = flags,
            File = file,
            Offset = offset,
            OpenedForRead = false,
        }).Error);
    }

    /// <summary>The file that MAP_HUGETLB makes is mapped from the offset that was given, which maps shows.</summary>
    [Fact]
    public void E3_map_hugetlb_keeps_its_offset()
    {
        using var lab = new Lab(configure: options => options with { HugePages2M = 2 });
        var at = Map(lab, 0, Huge, PrivateAnon | MapFlags.HugeTlb, offset: Huge).Value;
        Assert.Equal(Huge, lab.Machine.Maps(lab.Space).Single(entry => entry.Range.Start == at).Offset);
        lab.Poke(at, 1);
        Assert.Equal(Errno.EINVAL, Map(lab, 0, Huge, PrivateAnon | MapFlags.HugeTlb, offset: Page).Error);
    }

    /// <summary>A size that the processor has needs no page in the pool before something is promised.</summary>
    [Fact]
    public void E3_an_empty_pool_refuses_what_must_be_promised_and_nothing_else()
    {
        using var lab = new Lab();
        const MapFlags huge = PrivateAnon | MapFlags.HugeTlb;
        Assert.Equal(Errno.ENOMEM, Map(lab, 0, Huge, huge).Error);
        Assert.Equal(Errno.EINVAL, Map(lab, At + Page, Huge, huge | MapFlags.Fixed).Error);
        var at = Map(lab, 0, Huge, huge | MapFlags.NoReserve).Value;
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(lab.Space, at, isWrite: true));
        Assert.Equal(Errno.EINVAL, Map(lab, 0, Huge, huge | (MapFlags)(22u << MapHuge.Shift)).Error);
    }

    /// <summary>E10: MAP_SYNC outside of direct access marks an area, and its neighbours do not join it.</summary>
    [Theory]
    [InlineData(MapFlags.Private | MapFlags.Anonymous)]
    [InlineData(MapFlags.Shared | MapFlags.Anonymous)]
    public void E10_map_sync_parts_areas(MapFlags flags)
    {
        using var lab = new Lab();
        Assert.True(Map(lab, At, Page, flags | MapFlags.Fixed | MapFlags.Sync).IsOk);
        Assert.True(Map(lab, At + Page, Page, flags | MapFlags.Fixed).IsOk);
        var maps = lab.Machine.Maps(lab.Space);
        Assert.Equal(2, maps.Count);
        Assert.Contains(" sf ", maps[0].VmFlagLetters());
        Assert.DoesNotContain(" sf ", maps[1].VmFlagLetters());
        var child = lab.Fork();
        Assert.Contains(" sf ", lab.Machine.Maps(child)[0].VmFlagLetters());
    }

    /// <summary>E10: who knows MAP_SYNC, who passes over it, and who refuses it, by the kind of file.</summary>
    [Theory]
    [InlineData(FileKind.Shmem, Errno.None, Errno.None, Errno.EOPNOTSUPP)]
    [InlineData(FileKind.HugeTlb, Errno.None, Errno.None, Errno.EOPNOTSUPP)]
    [InlineData(FileKind.Secret, Errno.None, Errno.EINVAL, Errno.EOPNOTSUPP)]
    [InlineData(FileKind.Disk, Errno.EOPNOTSUPP, Errno.EOPNOTSUPP, Errno.EOPNOTSUPP)]
    [InlineData(FileKind.FsDax, Errno.None, Errno.None, Errno.None)]
    public void E10_map_sync_by_kind_of_file(FileKind kind, Errno shared, Errno isPrivate, Errno validated)
    {
        using var lab = new Lab(configure: options => options with { HugePages2M = 4 });
        var order = kind == FileKind.HugeTlb ? PageGeometry.PmdOrder : 0;
        var file = lab.Machine.CreateFile("/file", kind, Huge, order)!;
        var length = Page << order;
        Assert.Equal(shared, Map(lab, 0, length, MapFlags.Shared | MapFlags.Sync, file).Error);
        Assert.Equal(isPrivate, Map(lab, 0, length, MapFlags.Private | MapFlags.Sync, file).Error);
        Assert.Equal(validated, Map(lab, 0, length, MapFlags.SharedValidate | MapFlags.Sync, file).Error);
        // A file's own method refuses when the old areas are gone; the flags are looked at before.
        lab.Anon(At, 1);
        Map(lab, At, length, MapFlags.Shared | MapFlags.Sync | MapFlags.Fixed, file);
        if (shared != Errno.None)
            Assert.Equal(UserSignal.SigSegvMapErr, lab.Machine.Touch(lab.Space, At, isWrite: false));
    }

    /// <summary>E10: the bits that MAP_SHARED_VALIDATE takes on 6.18, measured one by one.</summary>
    [Fact]
    public void E10_map_shared_validate_takes_the_old_flags_and_no_others()
    {
        using var lab = new Lab();
        var file = lab.Machine.CreateFile("/file", FileKind.Shmem, Page)!;
        var refused = new List<int>();
        for (var bit = 4; bit < 32; bit++)
        {
            var flags = MapFlags.SharedValidate | (MapFlags)(1u << bit);
            var result = Map(lab, At, Page, flags, file, prot: Prot.Read);
            if (result.Error == Errno.EOPNOTSUPP) refused.Add(bit);
            else if (!result.IsOk) Assert.Equal((Errno.EINVAL, true), (result.Error, bit is 5 or 8 or 18));
            if (result.IsOk) lab.Machine.Munmap(lab.Space, result.Value, Page);
        }

        Assert.Equal([9, 10, 19, 20, 21, 22, 23, 24, 25, 31], refused);
    }

    private static void AssertLow(SyscallResult result)
    {
        Assert.True(result.IsOk, $"{result}");
        Assert.InRange(result.Value, Low, LowEnd - 1);
    }

    private static SyscallResult Map(
        Lab lab, ulong address, ulong length, MapFlags flags, MemoryFile? file = null, ulong offset = 0,
        Prot prot = Rw) =>
        lab.Machine.Mmap(lab.Space, new MmapRequest
        {
            Address = address,
            Length = length,
            Prot = prot,
            Flags = flags,
            File = file,
            Offset = offset,
        });
}
