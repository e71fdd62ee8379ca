using FramePin.Client;
using FramePin.V1;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>An address space mirrored in an application's own process, while other clients change it.</summary>
public sealed class SpaceMirrorTests(DaemonFixture daemon, ITestOutputHelper output) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x10_0000;
    private const ulong Page = 4096;
    private const int Pages = 16;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    private RemoteFrameMemory Remote => new(daemon.Client);

    [Fact]
    public async Task Stores_on_either_side_are_seen_on_the_other_at_once()
    {
        var (_, space) = await daemon.CreateAsync();
        await MapAsync(space);
        using var local = await AttachAsync(space);
        await using var mirror = await local.MirrorAsync(space, At, Pages * Page);
        Store(mirror, 5, 0x11);
        Assert.Equal(0x11, await LoadAsync(space, 5));
        await Remote.WriteAsync(space, At + (7 * Page), new byte[] { 0x22 });
        Assert.Equal(0x22, Load(mirror, 7));
        Assert.Equal(1, mirror.Remaps);
    }

    [Fact]
    public async Task What_is_unmapped_reads_as_zeroes_and_what_is_mapped_there_next_appears()
    {
        var (_, space) = await daemon.CreateAsync();
        await MapAsync(space);
        using var local = await AttachAsync(space);
        await using var mirror = await local.MirrorAsync(space, At, Pages * Page);
        for (var page = 0; page < Pages; page++) Store(mirror, page, 1);
        await CallAsync(
            space, new MemoryCall { Munmap = new MunmapCall { Address = At + (4 * Page), Length = 4 * Page } });
        Assert.Equal((1, 0, 0, 1), (Load(mirror, 3), Load(mirror, 4), Load(mirror, 7), Load(mirror, 8)));
        Assert.Equal((true, false), (IsMapped(mirror, 3), IsMapped(mirror, 4)));
        // A store there goes nowhere, and ends nothing.
        Store(mirror, 4, 9);
        await MapAsync(space, 4, 4);
        // New memory is told and not asked about, so it appears a moment after the call.
        await AppearsAsync(mirror, 4);
        Assert.Equal((true, 0), (IsMapped(mirror, 4), Load(mirror, 4)));
        Store(mirror, 4, 7);
        Assert.Equal(7, await LoadAsync(space, 4));
    }

    [Fact]
    public async Task A_guard_leaves_one_page_out_and_its_end_brings_the_page_back()
    {
        var (_, space) = await daemon.CreateAsync();
        await MapAsync(space);
        using var local = await AttachAsync(space);
        await using var mirror = await local.MirrorAsync(space, At, Pages * Page);
        var guard = new MadviseCall { Address = At + (4 * Page), Length = Page, Advice = 102 };
        await CallAsync(space, new MemoryCall { Madvise = guard });
        Store(mirror, 10, 99);
        Assert.Equal(99, await LoadAsync(space, 10));
        Assert.Equal((false, true), (IsMapped(mirror, 4), IsMapped(mirror, 5)));
        await CallAsync(
            space, new MemoryCall { Munmap = new MunmapCall { Address = At + (4 * Page), Length = Page } });
        await MapAsync(space, 4, 1);
        await AppearsAsync(mirror, 4);
        Store(mirror, 4, 5);
        Assert.Equal(5, await LoadAsync(space, 4));
    }

    [Fact]
    public async Task After_a_fork_each_side_has_its_own_pages()
    {
        var (_, space) = await daemon.CreateAsync();
        await MapAsync(space);
        using var local = await AttachAsync(space);
        await using var mirror = await local.MirrorAsync(space, At, Pages * Page);
        Store(mirror, 0, 1);
        var child = (await daemon.Client.AddressSpaces.ForkAddressSpaceAsync(
            new ForkAddressSpaceRequest { Name = space })).Name;
        await using var other = await local.MirrorAsync(child, At, Pages * Page);
        Store(mirror, 0, 2);
        Store(other, 0, 3);
        Assert.Equal((2, 3), (await LoadAsync(space, 0), await LoadAsync(child, 0)));
        Assert.Equal((2, 3), (Load(mirror, 0), Load(other, 0)));
    }

    [Fact]
    public async Task Discarded_moved_and_protected_pages_are_followed()
    {
        var (_, space) = await daemon.CreateAsync();
        await MapAsync(space);
        using var local = await AttachAsync(space);
        await using var mirror = await local.MirrorAsync(space, At, Pages * Page);
        for (var page = 0; page < Pages; page++) Store(mirror, page, 1);
        const int dontNeed = 4;
        await CallAsync(
            space, new MemoryCall { Madvise = new MadviseCall { Address = At, Length = Page, Advice = dontNeed } });
        Assert.Equal(0, Load(mirror, 0));
        await CallAsync(
            space,
            new MemoryCall
            {
                Mremap = new MremapCall
                {
                    Address = At + Page,
                    OldLength = Page,
                    NewLength = Page,
                    Flags = 3,
                    NewAddress = At + (20 * Page)
                }
            });
        Assert.False(IsMapped(mirror, 1));
        await CallAsync(space,
            new MemoryCall { Mprotect = new MprotectCall { Address = At + (2 * Page), Length = Page, Prot = 1 } });
        // Mapped for reading; the others for writing still.
        Assert.Equal(1, Load(mirror, 2));
        Store(mirror, 3, 5);
        Assert.Equal(5, await LoadAsync(space, 3));
        await CallAsync(space,
            new MemoryCall { Mprotect = new MprotectCall { Address = At + (2 * Page), Length = Page, Prot = 0 } });
        Assert.False(IsMapped(mirror, 2));
    }

    [Fact]
    public async Task A_call_that_takes_pages_away_waits_until_nobody_is_inside()
    {
        var (_, space) = await daemon.CreateAsync();
        await MapAsync(space);
        using var local = await AttachAsync(space);
        await using var mirror = await local.MirrorAsync(space, At, Pages * Page);
        Task unmapping;
        Task<int> entering;
        using (var inside = mirror.Enter())
        {
            unmapping = CallAsync(space, new MemoryCall { Munmap = new MunmapCall { Address = At, Length = Page } });
            // It is on its way when nobody is let in any more.
            entering = Task.Run(() =>
            {
                while (true)
                {
                    using var view = mirror.Enter();
                    if (mirror.Remaps > 1) return (int)view.Bytes[0];
                }
            });
            inside.Bytes[0] = 9;
            Assert.False(unmapping.IsCompleted);
        }

        await unmapping.WaitAsync(Patience);
        Assert.Equal(0, await entering.WaitAsync(Patience));
    }

    [Fact]
    public async Task A_file_shows_its_pages_up_to_its_end_and_after_truncation_fewer()
    {
        var (machine, space) = await daemon.CreateAsync();
        var file = await daemon.Client.Files.CreateFileAsync(
            new CreateFileRequest { Parent = machine, Kind = FileKind.Shmem, SizeBytes = 8 * Page, Path = "/f" });
        await CallAsync(
            space,
            new MemoryCall
            {
                Mmap = new MmapCall
                {
                    Address = At,
                    Length = Pages * Page,
                    Prot = 3,
                    Flags = 0x11,
                    Target = file.Name
                }
            });
        using var local = await AttachAsync(space);
        await using var mirror = await local.MirrorAsync(space, At, Pages * Page);
        Assert.Equal((true, false), (IsMapped(mirror, 7), IsMapped(mirror, 8)));
        Store(mirror, 7, 3);
        await daemon.Client.Files.TruncateFileAsync(new TruncateFileRequest { Name = file.Name, SizeBytes = 2 * Page });
        Assert.Equal((true, false, 0), (IsMapped(mirror, 1), IsMapped(mirror, 7), Load(mirror, 7)));
    }

    [Fact]
    public async Task The_exit_of_the_address_space_is_told_to_who_enters()
    {
        var (_, space) = await daemon.CreateAsync();
        await MapAsync(space);
        using var local = await AttachAsync(space);
        await using var mirror = await local.MirrorAsync(space, At, Pages * Page);
        await daemon.Client.AddressSpaces.ExitAddressSpaceAsync(new ExitAddressSpaceRequest { Name = space });
        var told = Assert.Throws<InvalidOperationException>(EnterUntilTold);
        Assert.Contains(space, told.Message, StringComparison.Ordinal);

        void EnterUntilTold()
        {
            while (true) mirror.Enter().Dispose();
        }
    }

    [Fact]
    public async Task A_machine_that_is_deleted_is_told_to_who_enters()
    {
        var (machine, space) = await daemon.CreateAsync();
        await MapAsync(space);
        using var local = await AttachAsync(space);
        await using var mirror = await local.MirrorAsync(space, At, Pages * Page);
        await daemon.Client.Machines.DeleteMachineAsync(new DeleteMachineRequest { Name = machine });
        Assert.Throws<InvalidOperationException>(EnterUntilTold);

        void EnterUntilTold()
        {
            while (true) mirror.Enter().Dispose();
        }
    }

    [Fact]
    public async Task Under_random_calls_the_mirror_and_the_space_stay_one()
    {
        const int rounds = 150;
        var seed = int.TryParse(Environment.GetEnvironmentVariable("FRAMEPIN_SEED"), out var given) ? given : 41;
        output.WriteLine($"seed {seed}");
        var random = new Random(seed);
        var (machine, space) = await daemon.CreateAsync();
        await MapAsync(space);
        using var local = await AttachAsync(space);
        await using var mirror = await local.MirrorAsync(space, At, Pages * Page);
        for (var round = 0; round < rounds; round++)
        {
            var (first, count) = (random.Next(Pages), (uint)random.Next(1, 5));
            var (address, length) = (At + ((ulong)first * Page), count * Page);
            switch (random.Next(5))
            {
                case 0:
                    await CallAsync(
                    space, new MemoryCall { Munmap = new MunmapCall { Address = address, Length = length } }); break;
                case 1: await MapAsync(space, first, Math.Min((int)count, Pages - first)); break;
                case 2:
                    await IgnoringAsync(
                    space,
                    new MemoryCall
                    {
                        Madvise = new MadviseCall
                        {
                            Address = address,
                            Length = length,
                            Advice = 4
                        }
                    }); break;
                case 3:
                    await IgnoringAsync(
                    space,
                    new MemoryCall
                    {
                        Mprotect = new MprotectCall
                        {
                            Address = address,
                            Length = length,
                            Prot = (uint)random.Next(2) * 3
                        }
                    }); break;
                default:
                    var child = (await daemon.Client.AddressSpaces.ForkAddressSpaceAsync(
                        new ForkAddressSpaceRequest { Name = space })).Name;
                    await daemon.Client.AddressSpaces.ExitAddressSpaceAsync(
                        new ExitAddressSpaceRequest { Name = child });
                    break;
            }

            for (var page = 0; page < Pages; page++)
            {
                if (!IsMapped(mirror, page)) continue;
                Store(mirror, page, (byte)(round + page));
                Assert.Equal((byte)(round + page), await LoadAsync(space, page));
            }
        }

        await mirror.DisposeAsync();
        Assert.Empty(
            (await daemon.Client.Machines.AuditMachineAsync(new AuditMachineRequest { Name = machine })).Findings);
        await daemon.Client.AddressSpaces.ExitAddressSpaceAsync(new ExitAddressSpaceRequest { Name = space });
        Assert.Equal(
            0UL, (await daemon.Client.Machines.GetMachineAsync(
                new GetMachineRequest { Name = machine })).Statistics.QuarantinedFrames);
    }

    private static void Store(SpaceMirror mirror, int page, byte value)
    {
        using var view = mirror.Enter();
        view.Bytes[page * (int)Page] = value;
    }

    private static int Load(SpaceMirror mirror, int page)
    {
        using var view = mirror.Enter();
        return view.Bytes[page * (int)Page];
    }

    /// <summary>Waits until a page is mapped. Fails after the patience of this class.</summary>
    private static async Task AppearsAsync(SpaceMirror mirror, int page)
    {
        var begun = TimeProvider.System.GetTimestamp();
        while (!IsMapped(mirror, page))
        {
            Assert.True(TimeProvider.System.GetElapsedTime(begun) < Patience, $"page {page} did not appear");
            await Task.Yield();
        }
    }

    private static bool IsMapped(SpaceMirror mirror, int page)
    {
        using var view = mirror.Enter();
        return view.IsMapped((ulong)page * Page);
    }

    private async Task<int> LoadAsync(string space, int page)
    {
        var one = new byte[1];
        await Remote.ReadAsync(space, At + ((ulong)page * Page), one);
        return one[0];
    }

    private Task<LocalMachine> AttachAsync(string space) =>
        LocalMachine.AttachAsync(daemon.Client, space[..space.IndexOf("/addressSpaces", StringComparison.Ordinal)]);

    private Task MapAsync(string space, int first = 0, int pages = Pages) => CallAsync(
        space,
        new MemoryCall
        {
            Mmap = new MmapCall
            {
                Address = At + ((ulong)first * Page),
                Length = (ulong)pages * Page,
                Prot = 3,
                Flags = 0x32
            }
        });

    private Task CallAsync(string space, MemoryCall call) =>
        daemon.Client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space, Call = call }).ResponseAsync;

    /// <summary>A hole in the range is no failure here.</summary>
    private async Task IgnoringAsync(string space, MemoryCall call)
    {
        try
        {
            await CallAsync(space, call);
        }
        catch (Grpc.Core.RpcException exception) when (FramePinException.From(exception).Errno == 12)
        {
            // ENOMEM: a hole.
        }
    }
}
