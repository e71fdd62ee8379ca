using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Pinning;

/// <summary>
/// A pin that stops says why, a reason for each cause: faults A9 and A12 of the list of faults found from outside, and
/// A2 and A3, which are about what a pin may take.
/// </summary>
public sealed class StopReasonTests
{
    private const ulong At = 0x2000_0000;
    private const ulong Page = Lab.Page;
    private const ulong Huge = PageGeometry.PmdSize;
    private const Prot Rw = Prot.Read | Prot.Write;
    private const GupFlags Pinning = GupFlags.LongTerm;

    /// <summary>A9: a read pin of a PROT_NONE area said SECRET.</summary>
    [Theory]
    [InlineData(Prot.None, GupFlags.None)]
    [InlineData(Prot.None, GupFlags.Write)]
    [InlineData(Prot.Read, GupFlags.Write)]
    [InlineData(Prot.Write, GupFlags.None)]
    public void A9_what_the_protection_refuses_says_permission(Prot prot, GupFlags flags)
    {
        using var lab = new Lab();
        lab.Anon(At, 1, prot, written: false);
        Assert.Equal((Errno.EFAULT, StopReason.Permission), Pin(lab, flags));
        Assert.Equal((Errno.EFAULT, StopReason.Permission), Pin(lab, flags | Pinning));
    }

    /// <summary>A9, sister: what the caller's own protection keys refuse; another process's are not asked.</summary>
    [Fact]
    public void A9_what_a_protection_key_refuses_says_permission()
    {
        using var lab = new Lab(configure: options => options with { HasProtectionKeys = true });
        lab.Map(At, 1, Prot.Exec, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed);
        Assert.Equal((Errno.EFAULT, StopReason.Permission), Slow(lab, GupFlags.None));
        Assert.Equal(1, lab.Gup(GupCall.PinUserPagesRemote, At, 1, GupFlags.Force, out var vector).Result.Raw);
        lab.Drop(vector);
    }

    [Fact]
    public void A9_secret_memory_says_secret_whatever_the_protection()
    {
        using var lab = new Lab();
        lab.File(At, 1, FileKind.Secret, MapFlags.Shared, Prot.Read);
        Assert.Equal((Errno.EFAULT, StopReason.Secret), Pin(lab, GupFlags.None));
        Assert.Equal((Errno.EFAULT, StopReason.Secret), Pin(lab, GupFlags.Write));
    }

    /// <summary>A9, sister: the helper of eras A and B over a hole said nothing.</summary>
    [Theory]
    [InlineData("4.3")]
    [InlineData("5.8")]
    [InlineData("5.12")]
    [InlineData("5.17")]
    [InlineData("6.1")]
    [InlineData("6.18")]
    public void A9_a_hole_is_a_hole_under_every_profile(string profile)
    {
        using var lab = new Lab(profile);
        var vector = lab.Vector(2);
        var outcome = lab.Machine.GetVaddrFrames(lab.Space, At, 2, GupFlags.Write, vector);
        Assert.Equal((Errno.EFAULT, StopReason.Hole), (outcome.Result.Error, outcome.Reason));
        lab.Drop(vector);
    }

    [Fact]
    public void A12_a_guard_region()
    {
        using var lab = new Lab();
        lab.Anon(At, 2);
        lab.Machine.Madvise(lab.Space, At, Page, Advice.GuardInstall);
        Assert.Equal((Errno.EFAULT, StopReason.GuardRegion), Pin(lab, GupFlags.Write));
        Assert.Equal((Errno.EFAULT, StopReason.GuardRegion), Pin(lab, GupFlags.None));
        Assert.Equal((0, StopReason.GuardRegion), Pinnable(lab, At, 2, GupFlags.Write));
    }

    [Theory]
    [InlineData(FileKind.Shmem)]
    [InlineData(FileKind.Disk)]
    [InlineData(FileKind.HugeTlb)]
    public void A12_behind_the_end_of_a_file(FileKind kind)
    {
        using var lab = new Lab(configure: options => options with { HugePages2M = 2 });
        var size = kind == FileKind.HugeTlb ? Huge : Page;
        var order = kind == FileKind.HugeTlb ? PageGeometry.PmdOrder : 0;
        var file = lab.Machine.CreateFile("/file", kind, size, order)!;
        lab.MapFile(At, (int)(2 * size / Page), file, MapFlags.Shared, Prot.Read);
        Assert.Equal((Errno.EFAULT, StopReason.FileEnd), Pin(lab, GupFlags.None, At + size));
        Assert.Equal(
            (0, StopReason.FileEnd), Pinnable(lab, At + size, 1, GupFlags.None));
    }

    [Theory]
    [InlineData(GupFlags.None, Errno.EFAULT)]
    [InlineData(GupFlags.HwPoison, Errno.EHWPOISON)]
    public void A12_broken_memory(GupFlags flags, Errno expected)
    {
        using var lab = new Lab();
        lab.Machine.SetTask(lab.Space, lab.Space.Task with { IsAdmin = true });
        lab.Anon(At, 1);
        Assert.True(lab.Machine.Madvise(lab.Space, At, Page, Advice.HwPoison).IsOk);
        Assert.Equal((expected, StopReason.Poisoned), Slow(lab, flags));
        Assert.Equal((0, StopReason.Poisoned), Pinnable(lab, At, 1, GupFlags.None));
    }

    [Fact]
    public void A12_an_empty_pool_of_huge_pages()
    {
        using var lab = new Lab();
        Assert.True(lab.Map(At, 512, Rw, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed | MapFlags.HugeTlb
            | MapFlags.NoReserve).IsOk);
        Assert.Equal((Errno.EFAULT, StopReason.HugePoolEmpty), Pin(lab, GupFlags.Write));
    }

    [Fact]
    public void A12_direct_access_and_peer_to_peer_memory()
    {
        using var lab = new Lab();
        lab.File(At, 1, FileKind.FsDax, MapFlags.Shared, Rw);
        Assert.Equal((Errno.EOPNOTSUPP, StopReason.DirectAccess), Pin(lab, Pinning));
        const ulong peer = At + (16 * Page);
        lab.Device(peer, 1, DeviceMapping.P2PPages, isRam: true);
        Assert.Equal((Errno.EREMOTEIO, StopReason.PeerToPeer), Pin(lab, GupFlags.None, peer));
        Assert.Equal((Errno.EFAULT, StopReason.NotAnonymous), Slow(lab, GupFlags.Anon));
    }

    /// <summary>A2: a rule that came with 6.1.2 and went again after 6.12.</summary>
    [Theory]
    [InlineData("5.17", Errno.None)]
    [InlineData("6.1", Errno.EFAULT)]
    [InlineData("6.12", Errno.EFAULT)]
    [InlineData("6.18", Errno.None)]
    public void A2_force_copies_a_read_only_huge_page_but_for_some_kernels(string profile, Errno expected)
    {
        using var lab = new Lab(profile, options => options with { HugePages2M = 2 });
        lab.Map(At, 512, Rw, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed | MapFlags.HugeTlb);
        lab.Poke(At, 7);
        lab.Machine.Mprotect(lab.Space, At, Huge, Prot.Read);
        foreach (var (call, flags) in new[]
        {
            (GupCall.GetUserPagesRemote, GupFlags.Force | GupFlags.Write),
            (GupCall.PinUserPagesFast, GupFlags.Force | GupFlags.Write | GupFlags.LongTerm),
        })
        {
            var outcome = lab.Gup(call, At, 1, flags, out var vector);
            Assert.Equal(expected, outcome.Result.Error);
            if (expected != Errno.None) Assert.Equal(StopReason.Permission, outcome.Reason);
            lab.Drop(vector);
        }

        // Other memory, and a read, are not meant.
        lab.Anon(At + Huge, 1);
        lab.Machine.Mprotect(lab.Space, At + Huge, Page, Prot.Read);
        Assert.Equal(Errno.None, Pin(lab, GupFlags.Force | GupFlags.Write, At + Huge).Error);
        Assert.Equal(Errno.None, Pin(lab, GupFlags.Force).Error);
    }

    /// <summary>A3: a core dump leaves holes, and takes no huge page for one.</summary>
    [Theory]
    [InlineData(MapFlags.Private)]
    [InlineData(MapFlags.Shared)]
    public void A3_a_dump_allocates_no_huge_page(MapFlags type)
    {
        using var lab = new Lab(configure: options => options with { HugePages2M = 4 });
        var file = lab.Machine.CreateFile("/huge", FileKind.HugeTlb, 2 * Huge, PageGeometry.PmdOrder)!;
        lab.MapFile(At, 1024, file, type, Rw);
        Assert.Equal((Errno.EFAULT, StopReason.NotPresent), Slow(lab, GupFlags.Dump));
        Assert.Equal(0UL, file.CachedFrames);
        // A page in the file's cache is dumped, by a private mapping too.
        lab.MapFile(At + (8 * Huge), 512, file, MapFlags.Shared, Rw);
        lab.Poke(At + (8 * Huge), 1);
        Assert.Equal(Errno.None, Slow(lab, GupFlags.Dump, At + (3 * Page)).Error);
        Assert.Equal(Errno.EFAULT, Slow(lab, GupFlags.Dump, At + Huge).Error);
    }

    /// <summary>A3: a device that fills its entries at a touch is asked; others leave a hole.</summary>
    [Theory]
    [InlineData(DeviceMapping.FaultPages, Errno.None)]
    [InlineData(DeviceMapping.MixedPages, Errno.EFAULT)]
    public void A3_a_dump_asks_devices_with_a_fault_method(DeviceMapping mapping, Errno expected)
    {
        using var lab = new Lab();
        lab.Device(At, 1, mapping, isRam: true);
        lab.Machine.Madvise(lab.Space, At, Page, Advice.DontNeed);
        Assert.Equal(expected, Slow(lab, GupFlags.Dump).Error);
    }

    private static (Errno Error, StopReason Reason) Pin(Lab lab, GupFlags flags, ulong at = At) =>
        Of(lab, lab.Gup(GupCall.PinUserPagesFast, at, 1, flags, out var vector), vector);

    private static (long Pages, StopReason Reason) Pinnable(Lab lab, ulong at, long count, GupFlags flags) =>
        lab.Machine.Query<PinnableQuery, (long, StopReason)>(new(lab.Space.Id, at, count, flags));

    private static (Errno Error, StopReason Reason) Slow(Lab lab, GupFlags flags, ulong at = At) =>
        Of(lab, lab.Gup(GupCall.GetUserPages, at, 1, flags, out var vector), vector);

    private static (Errno Error, StopReason Reason) Of(Lab lab, PinOutcome outcome, FrameVector vector)
    {
        lab.Drop(vector);
        return (outcome.Result.Error, outcome.Reason);
    }
}
