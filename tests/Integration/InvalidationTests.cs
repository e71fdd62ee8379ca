using FramePin.Client;
using FramePin.Server;
using FramePin.Server.Configuration;
using FramePin.V1;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>
/// Memory goes only after its watches have agreed, whichever call takes it, and in whichever address space: the cases
/// in which the call's own arguments do not name the range.
/// </summary>
public sealed partial class InvalidationTests : IAsyncLifetime
{
    private const ulong At = 0x10_0000;
    private const ulong Page = 4096;
    private const ulong Length = 16 * Page;
    private const uint Private = 0x32;
    private const uint Shared = 0x11;
    private const uint FollWrite = 1;
    private const uint FollLongTerm = 0x100;
    private const uint MadvRemove = 9;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    private readonly string _socket = Path.Combine(Path.GetTempPath(), $"framepin-{Guid.NewGuid():N}.sock");
    private WebApplication? _app;
    private FramePinClient _client = null!;
    private string _machine = "";

    public async ValueTask InitializeAsync()
    {
        _app = Daemon.Build(new DaemonOptions { SocketPath = _socket });
        await _app.StartAsync();
        _client = FramePinClient.Connect($"unix:{_socket}");
        var spec = new MachineSpec { MemoryBytes = 64UL << 20, MovableBytes = 32UL << 20, HugePages2M = 1 };
        _machine = (await _client.Machines.CreateMachineAsync(new CreateMachineRequest { Spec = spec })).Name;
    }

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        await _app!.StopAsync();
        await _app.DisposeAsync();
    }

    [Fact]
    public async Task A_driver_file_mapped_over_watched_memory_is_announced()
    {
        // Fault S10.
        var space = await SpaceAsync();
        var device = await _client.Devices.CreateDeviceAsync(new CreateDeviceRequest
        {
            Parent = _machine,
            Mapping = DeviceMapping.MixedPages,
            Pages = 4,
            Ram = true,
        });
        using var driver = _client.Drivers.ServeDriver();
        await driver.RequestStream.WriteAsync(
            new DriverReply { Register = new RegisterDriver { Machine = _machine, Node = "dev0" } });
        Assert.True(await driver.ResponseStream.MoveNext(default).WaitAsync(Patience));
        var serving = AnswerAsync(driver, device.Name);
        var file = await _client.Drivers.OpenDriverFileAsync(
            new OpenDriverFileRequest { Driver = $"{_machine}/drivers/dev0" });
        using var watch = await WatchAsync(space);
        var mapping = _client.Drivers.MapDriverFileAsync(new MapDriverFileRequest
        {
            File = file.File,
            AddressSpace = space,
            Address = At + (2 * Page),
            Length = 2 * Page,
            Prot = 3,
            Flags = Shared,
        }).ResponseAsync;

        var start = await AgreeAsync(watch, mapping);

        Assert.Equal((InvalidationCause.Mmap, At + (2 * Page), 2 * Page), (start.Cause, start.Start, start.Length));
        Assert.Equal(0U, (await mapping).Errno);
        await driver.RequestStream.CompleteAsync();
        await serving;
    }

    [Fact]
    public async Task A_file_whose_path_begins_like_another_is_not_mistaken_for_it()
    {
        // Fault S10.
        var space = await SpaceAsync();
        var log = await FileAsync("/data/log", inode: 5);
        await MapAsync(space, At + (32 * Page), Shared, log);
        await MapAsync(space, At, Shared, await FileAsync("/data/log.1", inode: 5));
        using var watch = await WatchAsync(space);

        await TruncateAsync(log, 0);

        await NothingElseAsync(watch, space);
    }

    [Fact]
    public async Task A_hole_that_another_process_punches_by_madvise_is_announced()
    {
        var (space, other) = (await SpaceAsync(), await SpaceAsync());
        var file = await FileAsync("/shared");
        await MapAsync(space, At, Shared, file);
        await MapAsync(other, At << 4, Shared, file);
        using var watch = await WatchAsync(space);

        var removing = MadviseAsync(other, (At << 4) + (3 * Page), 2 * Page, MadvRemove);
        var start = await AgreeAsync(watch, removing);

        Assert.Equal(
            (InvalidationCause.Madvise, At + (3 * Page), 2 * Page), (start.Cause, start.Start, start.Length));
    }

    [Fact]
    public async Task A_hole_punched_through_a_second_mapping_is_announced()
    {
        var space = await SpaceAsync();
        var file = await FileAsync("/twice");
        await MapAsync(space, At, Shared, file);
        await MapAsync(space, At << 4, Shared, file);
        using var watch = await WatchAsync(space);

        var start = await AgreeAsync(watch, MadviseAsync(space, At << 4, Page, MadvRemove));

        Assert.Equal((InvalidationCause.Madvise, At, Page), (start.Cause, start.Start, start.Length));
    }

    [Fact]
    public async Task A_page_that_a_long_term_pin_moves_is_announced()
    {
        var space = await SpaceAsync();
        await StoreAsync(space, At);
        using var watch = await WatchAsync(space);

        var pinning = _client.Pinning.GupAsync(new GupRequest
        {
            AddressSpace = space,
            Function = GupFunction.PinUserPages,
            Start = At,
            Pages = 1,
            Flags = FollWrite | FollLongTerm,
        }).ResponseAsync;
        var start = await AgreeAsync(watch, pinning);

        Assert.Equal((InvalidationCause.Migration, At, Page), (start.Cause, start.Start, start.Length));
    }

    [Fact]
    public async Task A_pin_whose_caller_leaves_while_watches_are_asked_leaves_no_vector()
    {
        var space = await SpaceAsync();
        await StoreAsync(space, At);
        await _client.AddressSpaces.ForkAddressSpaceAsync(new ForkAddressSpaceRequest { Name = space });
        using var watch = await WatchAsync(space);
        using var gone = new CancellationTokenSource();
        var request = new PinRequest { AddressSpace = space, Start = At, Pages = 1, Write = true };
        var pinning = _client.Pinning.PinAsync(request, cancellationToken: gone.Token).ResponseAsync;
        var start = await NextAsync(watch);
        await gone.CancelAsync();
        await Assert.ThrowsAsync<RpcException>(() => pinning);
        // The daemon hears of the cancelled call before the acknowledgement, or after it: either way nothing is left.
        await watch.RequestStream.WriteAsync(new WatchRequest { Acknowledge = start.Revision });
        Assert.Equal(InvalidationKind.End, (await NextAsync(watch)).Kind);
        while ((await _client.Machines.GetMachineAsync(new GetMachineRequest { Name = _machine })).Statistics
            .FrameVectors > 0)
            await Task.Yield();
    }

    [Theory]
    [InlineData("store")]
    [InlineData("touch")]
    [InlineData("pin")]
    [InlineData("stream")]
    public async Task A_shared_page_that_the_process_makes_its_own_is_announced(string way)
    {
        var space = await SpaceAsync();
        await StoreAsync(space, At + Page);
        await _client.AddressSpaces.ForkAddressSpaceAsync(new ForkAddressSpaceRequest { Name = space });
        using var watch = await WatchAsync(space);

        var start = await AgreeAsync(watch, UnshareAsync(way, space, At + Page));

        Assert.Equal((InvalidationCause.Unshare, At + Page, Page), (start.Cause, start.Start, start.Length));
    }

    [Fact]
    public async Task The_huge_page_that_a_fork_loses_to_its_parent_is_announced_to_the_fork()
    {
        const ulong huge = 2UL << 20;
        const ulong at = 0x4000_0000;
        var space = await SpaceAsync();
        var map = new MmapCall { Address = at, Length = huge, Prot = 3, Flags = 0x40032 };
        await CallAsync(space, new MemoryCall { Mmap = map });
        await StoreAsync(space, at);
        var child = (await _client.AddressSpaces.ForkAddressSpaceAsync(
            new ForkAddressSpaceRequest { Name = space })).Name;
        using var watch = await WatchAsync(child, at, huge);

        var start = await AgreeAsync(watch, StoreAsync(space, at));

        Assert.Equal((InvalidationCause.HugeTheft, at, huge), (start.Cause, start.Start, start.Length));
    }

    [Fact]
    public async Task A_process_that_ends_with_its_lease_is_announced()
    {
        var lease = await _client.Leases.OpenLeaseAsync(new OpenLeaseRequest { Parent = _machine, Owner = "test" });
        var space = await SpaceAsync(lease.Name);
        using var watch = await WatchAsync(space);

        await _client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = lease.Name });

        var start = await NextAsync(watch);
        Assert.Equal((InvalidationKind.Start, InvalidationCause.Exit), (start.Kind, start.Cause));
        await watch.RequestStream.WriteAsync(new WatchRequest { Acknowledge = start.Revision });
        Assert.Equal(InvalidationKind.End, (await NextAsync(watch)).Kind);
    }

    [Fact]
    public async Task Calls_that_are_refused_or_empty_or_only_add_are_not_announced()
    {
        var space = await SpaceAsync();
        using var watch = await WatchAsync(space);

        await RefusedAsync(space, new MemoryCall { Munmap = new MunmapCall { Address = At + 1, Length = Page } });
        await RefusedAsync(space, new MemoryCall { Munmap = new MunmapCall { Address = At, Length = 0 } });
        await RefusedAsync(space, new MemoryCall
        {
            Mmap = new MmapCall { Address = At, Length = Page, Prot = 3, Flags = 0x100022 },
        });
        await RefusedAsync(space, new MemoryCall
        {
            Mremap = new MremapCall { Address = At + 1, OldLength = Page, NewLength = Page, Flags = 3 },
        });
        // PROT_GROWSUP has no meaning here; the same rights change nothing.
        await RefusedAsync(space, new MemoryCall
        {
            Mprotect = new MprotectCall { Address = At, Length = Page, Prot = 0x8000_0000 },
        });
        await CallAsync(
            space, new MemoryCall { Mprotect = new MprotectCall { Address = At, Length = Page, Prot = 3 } });
        await CallAsync(space, new MemoryCall { Mlock = new MlockCall { Address = At, Length = Page } });

        await NothingElseAsync(watch, space);
    }

    [Fact]
    public async Task A_watch_that_opens_while_memory_goes_is_told_the_start_and_the_end()
    {
        var space = await SpaceAsync();
        using var first = await WatchAsync(space);
        var running = CallAsync(space, Unmap(At, Page));
        var start = await NextAsync(first);

        using var late = await WatchAsync(space);
        var told = await NextAsync(late);
        await first.RequestStream.WriteAsync(new WatchRequest { Acknowledge = start.Revision });
        await running.WaitAsync(Patience);

        Assert.Equal((InvalidationKind.Start, start.Revision), (told.Kind, told.Revision));
        var end = await NextAsync(late);
        Assert.Equal((InvalidationKind.End, start.Revision), (end.Kind, end.Revision));
    }

    [Fact]
    public async Task What_changed_while_a_watch_was_asked_is_asked_about_next()
    {
        var space = await SpaceAsync();
        await CallAsync(space, Unmap(At + (8 * Page), 8 * Page));
        using var watch = await WatchAsync(space);
        var running = CallAsync(space, Unmap(At, Length));
        var first = await NextAsync(watch);
        Assert.Equal((At, 8 * Page), (first.Start, first.Length));

        // The range is announced, and before it goes there is more of it.
        await CallAsync(space, new MemoryCall
        {
            Mmap = new MmapCall { Address = At + (8 * Page), Length = 8 * Page, Prot = 3, Flags = Private },
        });
        Assert.Equal(InvalidationKind.Mapped, (await NextAsync(watch)).Kind);
        await watch.RequestStream.WriteAsync(new WatchRequest { Acknowledge = first.Revision });

        var second = await NextAsync(watch);
        Assert.Equal((InvalidationKind.Start, At + (8 * Page)), (second.Kind, second.Start));
        Assert.False(running.IsCompleted);
        await watch.RequestStream.WriteAsync(new WatchRequest { Acknowledge = second.Revision });
        await running.WaitAsync(Patience);
    }

    [Fact]
    public async Task Watches_whose_patience_is_over_at_once_stall_nobody_and_break_no_call()
    {
        var space = await SpaceAsync();
        var watches = new List<AsyncDuplexStreamingCall<WatchRequest, InvalidationEvent>>();
        for (var i = 0; i < 8; i++)
        {
            var watch = _client.Watches.WatchInvalidations();
            watches.Add(watch);
            var patience = new Google.Protobuf.WellKnownTypes.Duration { Nanos = 1000 };
            var open = new OpenWatch { AddressSpace = space, Start = At, Length = Length, Patience = patience };
            await watch.RequestStream.WriteAsync(new WatchRequest { Open = open });
            Assert.Equal(InvalidationKind.Opened, (await NextAsync(watch)).Kind);
        }

        await CallAsync(space, Unmap(At, Page));
        await CallAsync(space, Unmap(At + Page, Page));

        foreach (var watch in watches)
        {
            var fenced = await Assert.ThrowsAsync<RpcException>(async () =>
            {
                while (await watch.ResponseStream.MoveNext(default).WaitAsync(Patience))
                {
                }
            });
            Assert.Equal("WATCH_FENCED", FramePinException.From(fenced).Reason);
            watch.Dispose();
        }
    }
}
