using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>
/// What hugetlbfs promises, and to whom, step by step as HugePages_Free and HugePages_Rsvd of 6.18 showed it for a
/// pool of eight pages: fault A1 of the list of faults found from outside, and its sisters.
/// </summary>
public sealed class HugeTlbPromiseTests
{
    private const ulong At = 0x4000_0000;
    private const ulong Page = Lab.Page;
    private const ulong Huge = PageGeometry.PmdSize;
    private const Prot Rw = Prot.Read | Prot.Write;

    private static Lab Pool(int pages = 8, string profile = "6.18") =>
        new(profile, options => options with { HugePages2M = pages });

    /// <summary>A1: the owner of a promise keeps its page and gets the other; the child ends with SIGBUS.</summary>
    [Fact]
    public void A1_the_owner_copies_from_the_free_pool_and_takes_the_page_from_its_child()
    {
        using var lab = Pool(2);
        Anon(lab, 2);
        AssertPool(lab, 2, 2);
        lab.Poke(At, 1);
        var frame = lab.Machine.Translate(lab.Space, At);
        AssertPool(lab, 1, 1);
        var child = lab.Fork();
        AssertPool(lab, 1, 1);
        lab.Poke(At, 2);
        Assert.Equal(frame, lab.Machine.Translate(lab.Space, At));
        AssertPool(lab, 1, 1);
        lab.Poke(At + Huge, 3);
        AssertPool(lab, 0, 0);
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(child, At, isWrite: false));
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(child, At + Huge, isWrite: false));
        // The area that lost a page stays without one, though the pool has some again (HPAGE_RESV_UNMAPPED).
        lab.Machine.Munmap(lab.Space, At, 2 * Huge);
        AssertPool(lab, 2, 0);
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(child, At, isWrite: false));
        lab.Machine.Exit(child);
        AssertPool(lab, 2, 0);
    }

    /// <summary>With a page to spare the owner copies, and its promise for the other page stays open.</summary>
    [Fact]
    public void A1_the_owners_copy_leaves_its_promises_alone()
    {
        using var lab = Pool(3);
        Anon(lab, 2);
        lab.Poke(At, 1);
        var child = lab.Fork();
        lab.Poke(At, 2);
        AssertPool(lab, 1, 1);
        // A child inherits no promise: what is left belongs to the owner.
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(child, At + Huge, isWrite: true));
        Assert.Equal(UserSignal.None, lab.Machine.Touch(child, At, isWrite: true));
        lab.Poke(At + Huge, 3);
        AssertPool(lab, 0, 0);
        lab.Machine.Exit(child);
        AssertPool(lab, 1, 0);
    }

    [Fact]
    public void A1_a_child_that_stores_first_gets_what_is_free()
    {
        using var lab = Pool(3);
        Anon(lab, 2);
        lab.Poke(At, 1);
        lab.Poke(At + Huge, 1);
        var child = lab.Fork();
        Assert.Equal(UserSignal.None, lab.Machine.Touch(child, At, isWrite: true));
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(child, At + Huge, isWrite: true));
        lab.Poke(At, 2);
        lab.Poke(At + Huge, 2);
        AssertPool(lab, 0, 0);
    }

    /// <summary>An owner that goes before its child leaves one promise below nothing until the page is free.</summary>
    [Fact]
    public void A1_the_owner_goes_before_its_child()
    {
        using var lab = Pool();
        Anon(lab, 2);
        lab.Poke(At, 1);
        var child = lab.Fork();
        lab.Machine.Munmap(lab.Space, At, 2 * Huge);
        AssertPool(lab, 7, -1);
        Assert.Equal(UserSignal.None, lab.Machine.Touch(child, At, isWrite: true));
        AssertPool(lab, 7, -1);
        lab.Machine.Exit(child);
        AssertPool(lab, 8, 0);
    }

    /// <summary>A pin keeps the page, and the promise comes back with it.</summary>
    [Fact]
    public void A1_a_pinned_page_brings_its_promise_back_when_it_is_unpinned()
    {
        using var lab = Pool();
        Anon(lab, 2);
        lab.Poke(At, 1);
        Assert.Equal(1, lab.Gup(GupCall.PinUserPagesFast, At, 1, GupFlags.Write, out var vector).Result.Raw);
        lab.Machine.Munmap(lab.Space, At, 2 * Huge);
        AssertPool(lab, 7, -1);
        lab.Drop(vector);
        lab.Anon(0x1000_0000, 1);
        AssertPool(lab, 8, 0);
    }

    [Theory]
    [InlineData("6.18", 7, 1)]
    [InlineData("6.12", 7, 1)]
    [InlineData("6.1", 7, 0)]
    public void A1_a_page_that_its_owner_drops_is_promised_again_since_6_10(string profile, int free, int promised)
    {
        using var lab = Pool(8, profile);
        Anon(lab, 2);
        lab.Poke(At, 1);
        lab.Poke(At + Huge, 1);
        AssertPool(lab, 6, 0);
        lab.Machine.Madvise(lab.Space, At, Huge, Advice.DontNeed);
        AssertPool(lab, free, promised);
        lab.Poke(At, 1);
        AssertPool(lab, 6, 0);
        lab.Machine.Munmap(lab.Space, At, Huge);
        AssertPool(lab, 7, 0);
        lab.Machine.Munmap(lab.Space, At + Huge, Huge);
        AssertPool(lab, 8, 0);
    }

    [Fact]
    public void A1_a_shared_file_promises_page_by_page()
    {
        using var lab = Pool();
        var file = File(lab, 0);
        Map(lab, file, At, 2, MapFlags.Shared);
        AssertPool(lab, 8, 2);
        lab.Poke(At, 1);
        AssertPool(lab, 7, 1);
        Map(lab, file, At + (8 * Huge), 2, MapFlags.Shared);
        AssertPool(lab, 7, 1);
        Map(lab, file, At + (16 * Huge), 2, MapFlags.Shared, offset: Huge);
        AssertPool(lab, 7, 2);
        lab.Machine.PunchHole(file, 0, Huge);
        AssertPool(lab, 8, 2);
        Assert.Equal(0, lab.Peek(At));
        AssertPool(lab, 7, 2);
        lab.Machine.PunchHole(file, Huge, Huge);
        AssertPool(lab, 7, 2);
        lab.Poke(At + Huge, 1);
        AssertPool(lab, 6, 1);
        lab.Machine.Truncate(file, 0);
        AssertPool(lab, 8, 0);
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(lab.Space, At, isWrite: true));
        lab.Machine.Truncate(file, 2 * Huge);
        lab.Poke(At, 1);
        AssertPool(lab, 7, 0);
        lab.Poke(At + Huge, 1);
        AssertPool(lab, 6, 0);
    }

    /// <summary>Promises of a file outlive its mappings, and go with the file.</summary>
    [Fact]
    public void A1_the_promises_of_a_file_go_with_it()
    {
        using var lab = Pool();
        var file = File(lab, 0);
        Map(lab, file, At, 2, MapFlags.Shared);
        lab.Machine.Munmap(lab.Space, At, 2 * Huge);
        AssertPool(lab, 8, 2);
        lab.Machine.Unlink(file);
        AssertPool(lab, 8, 0);
    }

    /// <summary>Truncation and punched holes take private copies too, and their owner has its promise again.</summary>
    [Fact]
    public void A1_private_copies_of_a_file_go_with_its_pages()
    {
        using var lab = Pool();
        var file = File(lab, 2);
        Map(lab, file, At, 2, MapFlags.Private);
        lab.Poke(At, 5);
        Assert.Equal(0, lab.Peek(At + Huge));
        AssertPool(lab, 6, 0);
        lab.Machine.Truncate(file, 0);
        AssertPool(lab, 8, 2);
        Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(lab.Space, At, isWrite: true));
        lab.Machine.Truncate(file, 2 * Huge);
        lab.Poke(At, 6);
        Assert.Equal(0, lab.Peek(At + Huge));
        AssertPool(lab, 6, 0);
        lab.Machine.PunchHole(file, 0, 2 * Huge);
        AssertPool(lab, 8, 2);
        Assert.Equal(0, lab.Peek(At));
    }

    [Fact]
    public void A1_a_private_mapping_over_cached_pages()
    {
        using var lab = Pool();
        var file = File(lab, 0);
        const ulong shared = At + (8 * Huge);
        Map(lab, file, shared, 2, MapFlags.Shared);
        lab.Poke(shared, 3);
        Map(lab, file, At, 2, MapFlags.Private);
        AssertPool(lab, 7, 3);
        Assert.Equal((3, 0), (lab.Peek(At), lab.Peek(At + Huge)));
        AssertPool(lab, 6, 2);
        lab.Poke(At, 4);
        AssertPool(lab, 5, 1);
        Assert.Equal(0, lab.Peek(shared + Huge));
        AssertPool(lab, 4, 0);
        lab.Machine.PunchHole(file, 0, 2 * Huge);
        AssertPool(lab, 8, 2);
    }

    [Fact]
    public void A1_a_move_takes_the_promises_along()
    {
        using var lab = Pool();
        Anon(lab, 2);
        lab.Poke(At, 1);
        const ulong to = At + (8 * Huge);
        var moved = lab.Machine.Mremap(
            lab.Space, At, 2 * Huge, 2 * Huge, MremapFlags.MayMove | MremapFlags.Fixed, to);
        Assert.True(moved.IsOk);
        AssertPool(lab, 7, 1);
        lab.Poke(to + Huge, 1);
        AssertPool(lab, 6, 0);
        lab.Machine.Munmap(lab.Space, to, 2 * Huge);
        AssertPool(lab, 8, 0);
    }

    [Fact]
    public void A1_parts_that_are_unmapped_give_their_promises_back()
    {
        using var lab = Pool();
        Anon(lab, 4);
        lab.Machine.Mprotect(lab.Space, At + Huge, Huge, Prot.Read);
        lab.Machine.Munmap(lab.Space, At + (2 * Huge), Huge);
        AssertPool(lab, 8, 3);
        lab.Poke(At, 1);
        AssertPool(lab, 7, 2);
        Assert.True(lab.Machine.Mremap(lab.Space, At, Huge, Huge, MremapFlags.None).IsOk);
        lab.Machine.Munmap(lab.Space, At, 4 * Huge);
        AssertPool(lab, 8, 0);
    }

    [Fact]
    public void A1_without_a_promise_pages_come_from_what_is_free()
    {
        using var lab = Pool();
        var file = File(lab, 2);
        Map(lab, file, At, 2, MapFlags.Shared | MapFlags.NoReserve);
        AssertPool(lab, 8, 0);
        lab.Poke(At, 1);
        AssertPool(lab, 7, 0);
        Map(lab, file, At + (8 * Huge), 2, MapFlags.Shared);
        AssertPool(lab, 7, 1);
        // A promise of the file serves whoever touches its page.
        lab.Poke(At + Huge, 1);
        AssertPool(lab, 6, 0);
        lab.Machine.Truncate(file, Huge);
        AssertPool(lab, 7, 0);
    }

    private static void Anon(Lab lab, int pages) => Assert.True(lab.Map(
        At, pages * 512, Rw, MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed | MapFlags.HugeTlb).IsOk);

    private static MemoryFile File(Lab lab, int pages) =>
        lab.Machine.CreateFile("/huge", FileKind.HugeTlb, (ulong)pages * Huge, PageGeometry.PmdOrder)!;

    private static void Map(Lab lab, MemoryFile file, ulong at, int pages, MapFlags flags, ulong offset = 0) =>
        Assert.True(lab.Machine.Mmap(lab.Space, new MmapRequest
        {
            Address = at,
            Length = (ulong)pages * Huge,
            Prot = Rw,
            Flags = flags | MapFlags.Fixed,
            File = file,
            Offset = offset,
        }).IsOk);

    private static void AssertPool(Lab lab, int free, long promised)
    {
        var pool = lab.Machine.Context.HugePools[PageGeometry.PmdOrder];
        Assert.Equal((free, promised), (pool.Free.Count, pool.Reserved));
    }
}
