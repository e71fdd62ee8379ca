using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Inspection;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Unit.Syscalls;

/// <summary>
/// Levels of page tables, a property of a machine: fault A14 of the list of faults found from outside. Four levels as
/// measured on 6.18.44; five levels as arch/x86/include/asm/page_64.h (task_size_max) and
/// arch/x86/kernel/sys_x86_64.c have it.
/// </summary>
public sealed class PageTableLevelTests
{
    private const ulong Page = Lab.Page;
    private const ulong Window = PageGeometry.MapWindow;
    private const ulong Top = PageGeometry.FiveLevelTaskSize;
    private const ulong High = 1UL << 50;
    private const Prot Rw = Prot.Read | Prot.Write;
    private const MapFlags PrivateAnon = MapFlags.Private | MapFlags.Anonymous;

    [Theory]
    [InlineData(4, Window, UserSignal.SigSegvMapErr)]
    [InlineData(4, (1UL << 47) - 1, UserSignal.SigSegvMapErr)]
    [InlineData(4, 1UL << 47, UserSignal.SigSegvNonCanonical)]
    [InlineData(4, 1UL << 50, UserSignal.SigSegvNonCanonical)]
    [InlineData(4, 1UL << 56, UserSignal.SigSegvNonCanonical)]
    [InlineData(4, 1UL << 63, UserSignal.SigSegvNonCanonical)]
    [InlineData(4, 0xffff_7fff_ffff_ffff, UserSignal.SigSegvNonCanonical)]
    [InlineData(4, 0xffff_8000_0000_0000, UserSignal.SigSegvMapErr)]
    [InlineData(4, ulong.MaxValue, UserSignal.SigSegvMapErr)]
    [InlineData(5, Window, UserSignal.SigSegvMapErr)]
    [InlineData(5, 1UL << 47, UserSignal.SigSegvMapErr)]
    [InlineData(5, Top, UserSignal.SigSegvMapErr)]
    [InlineData(5, (1UL << 56) - 1, UserSignal.SigSegvMapErr)]
    [InlineData(5, 1UL << 56, UserSignal.SigSegvNonCanonical)]
    [InlineData(5, 0xfeff_ffff_ffff_ffff, UserSignal.SigSegvNonCanonical)]
    [InlineData(5, 0xff00_0000_0000_0000, UserSignal.SigSegvMapErr)]
    public void A14_a_load_or_store_past_the_end(int levels, ulong address, UserSignal expected)
    {
        using var lab = WithLevels(levels);
        foreach (var isWrite in new[] { false, true })
        {
            var touched = lab.Machine.Execute<TouchCall, AccessResult>(new(lab.Space.Id, address, 1, isWrite));
            Assert.Equal(new AccessResult(0, expected), touched);
        }

        var loaded = lab.Machine.Execute<LoadCall, AccessResult>(new(lab.Space.Id, address, new byte[1]));
        Assert.Equal(expected, loaded.Signal);
    }

    /// <summary>Bytes that run over 2^47 are had as far as there is memory.</summary>
    [Fact]
    public void A14_bytes_over_the_end_of_the_last_page()
    {
        using var lab = WithLevels(4);
        lab.Anon(Window - Page, 1);
        var over = lab.Machine.Execute<StoreCall, AccessResult>(new(lab.Space.Id, Window - 8, new byte[16]));
        Assert.Equal(new AccessResult(8, UserSignal.SigSegvMapErr), over);
        var pages = lab.Machine.Execute<TouchCall, AccessResult>(new(lab.Space.Id, Window - Page, 3, IsWrite: false));
        Assert.Equal(new AccessResult(1, UserSignal.SigSegvMapErr), pages);
    }

    [Fact]
    public void A14_mmap_goes_above_the_window_by_hint_alone()
    {
        using var lab = WithLevels(5);
        var low = lab.Space.Layout.MmapBase;
        Assert.Equal(low - Page, Map(lab, 0, Page).Value);
        Assert.Equal(High, Map(lab, High, Page).Value);
        // A hint that lies in use, or too high for its length, still asks for the whole address space.
        var second = Map(lab, High, 2 * Page).Value;
        Assert.Equal(Top - Window + low - (2 * Page), second);
        Assert.Equal(second - Page, Map(lab, Top, Page).Value);
        // A hint at the window itself, or over it, does not.
        Assert.Equal(low - (2 * Page), Map(lab, Window, Page).Value);
        Assert.Equal(low - (4 * Page), Map(lab, Window - Page, 2 * Page).Value);
        Assert.Equal(Top - Page, Map(lab, Top - Page, Page, MapFlags.Fixed).Value);
        Assert.Equal(Errno.ENOMEM, Map(lab, Top - Page, 2 * Page, MapFlags.Fixed).Error);
        Assert.Equal(Window - Page, Map(lab, Window - Page, 2 * Page, MapFlags.Fixed).Value);
    }

    [Fact]
    public void A14_a_high_hint_means_nothing_with_four_levels()
    {
        using var lab = WithLevels(4);
        Assert.Equal(lab.Space.Layout.MmapBase - Page, Map(lab, High, Page).Value);
        Assert.Equal(Errno.ENOMEM, Map(lab, High, Page, MapFlags.Fixed).Error);
        Assert.Equal(Errno.ENOMEM, Map(lab, Window, Page, MapFlags.Fixed).Error);
    }

    /// <summary>Each call that knows the end of user space, at a high area and at the end.</summary>
    [Theory]
    [InlineData(4, "EINVAL ENOMEM ENOMEM ENOMEM ENOMEM EINVAL EFAULT EINVAL EFAULT EFAULT")]
    [InlineData(5, "0 0 0 0 0 0 0 0 0 0")]
    public void A14_every_call_knows_the_end(int levels, string expected)
    {
        using var lab = WithLevels(levels);
        lab.Machine.SetTask(lab.Space, lab.Space.Task with { CanLockMemory = true });
        lab.Anon(0x1000_0000, 2);
        if (levels == 5) lab.Anon(High, 2);
        var (machine, space) = (lab.Machine, lab.Space);
        var uffd = new UffdId((int)machine.Call(new CreateUffdCall(space.Id)).Value);
        var pinned = lab.Gup(GupCall.PinUserPagesFast, High, 2, GupFlags.Write, out var vector).Result;
        var buffer = new byte[8];
        SyscallResult[] answers =
        [
            machine.Call(new RegisterUffdCall(uffd, High, 2 * Page, UffdModes.Missing)),
            machine.Mincore(space, High, 2 * Page, new byte[2]),
            machine.Madvise(space, High, 2 * Page, Advice.PopulateWrite),
            machine.Mprotect(space, High, 2 * Page, Prot.Read),
            machine.Mlock(space, High, 2 * Page),
            machine.Mremap(space, 0x1000_0000, Page, Page, MremapFlags.MayMove | MremapFlags.Fixed, High + (8 * Page)),
            pinned.Error,
            machine.Munmap(space, High + (16 * Page), Page),
            Core.Access.AccessPaths.ProcMem(machine, space.Id, High, buffer, isWrite: true) is { IsOk: true }
                ? SyscallResult.Ok()
                : Errno.EFAULT,
            Core.Access.AccessPaths.ProcessVm(machine, space.Id, High, buffer, isWrite: false) is { IsOk: true }
                ? SyscallResult.Ok()
                : Errno.EFAULT,
        ];
        Assert.Equal(expected, string.Join(' ', answers.Select(answer => answer.IsOk ? "0" : $"{answer.Error}")));
        lab.Drop(vector);
    }

    /// <summary>Pages above 2^47 are forked, pinned and read like others. The audit and the replay agree.</summary>
    [Fact]
    public void A14_memory_above_the_window_lives()
    {
        using var lab = WithLevels(5);
        // Two areas whose tables differ in the top level alone, and the last page of all.
        foreach (var address in new[] { 0x1000_0000UL, 0x1000_0000UL + (1UL << 48), Top - (2 * Page) })
            lab.Anon(address, 2);
        lab.Poke(0x1000_0000, 1);
        lab.Poke(0x1000_0000 + (1UL << 48), 2);
        var held = lab.Gup(GupCall.PinUserPagesFast, Top - (2 * Page), 2, GupFlags.Write, out var vector).Result;
        Assert.Equal(2, held.Pages);
        var child = lab.Fork();
        lab.Poke(0x1000_0000, 3);
        Assert.Equal(1, lab.Peek(0x1000_0000, child));
        Assert.Equal(2, lab.Peek(0x1000_0000 + (1UL << 48), child));
        var entries = lab.Machine.Pagemap(lab.Space, Top - (2 * Page), 2);
        Assert.All(entries, entry => Assert.NotEqual(0UL, entry >> 63));
        lab.Drop(vector);
        Assert.True(lab.Machine.Munmap(lab.Space, 0x1000_0000 + (1UL << 48), 2 * Page).IsOk);
        lab.Load(0x1000_0000, 2);
        var file = lab.Machine.CreateFile("/shm", FileKind.Shmem, 4 * Page)!;
        Assert.Equal(High, Map(lab, High, Page, MapFlags.Shared, file).Value);
        lab.Poke(High, 4);
    }

    [Theory]
    [InlineData(3)]
    [InlineData(6)]
    public void A14_other_levels_make_no_machine(int levels) =>
        Assert.Throws<ArgumentException>(() => WithLevels(levels));

    private static Lab WithLevels(int levels) =>
        new(configure: options => options with { PageTableLevels = levels });

    private static SyscallResult Map(
        Lab lab, ulong address, ulong length, MapFlags flags = 0, MemoryFile? file = null) =>
        lab.Machine.Mmap(lab.Space, new MmapRequest
        {
            Address = address,
            Length = length,
            Prot = Rw,
            Flags = file is null ? PrivateAnon | flags : flags,
            File = file,
        });
}
