using FramePin.Client;
using FramePin.Server;
using FramePin.Server.Configuration;
using FramePin.V1;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.Time.Testing;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>
/// The MMU notifier over the wire: who watches memory is asked before it goes. The daemon's clock is the test's.
/// </summary>
public sealed class WatchTests : IAsyncLifetime
{
    private const ulong At = 0x10_0000;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    private readonly string _socket = Path.Combine(Path.GetTempPath(), $"framepin-{Guid.NewGuid():N}.sock");
    private readonly FakeTimeProvider _time = new();
    private WebApplication? _app;
    private FramePinClient _client = null!;
    private string _space = "";

    public async ValueTask InitializeAsync()
    {
        _app = Daemon.Build(new DaemonOptions { SocketPath = _socket }, _time);
        await _app.StartAsync();
        _client = FramePinClient.Connect($"unix:{_socket}");
        _space = (await _client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        await Call(new MemoryCall { Mmap = new MmapCall { Address = At, Length = 64 * 4096, Prot = 3, Flags = 0x32 } });
    }

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        await _app!.StopAsync();
        await _app.DisposeAsync();
    }

    public static TheoryData<string, InvalidationCause> Calls => new()
    {
        { "munmap", InvalidationCause.Munmap },
        { "mmap", InvalidationCause.Mmap },
        { "mremap", InvalidationCause.Mremap },
        { "mprotect", InvalidationCause.Mprotect },
        { "madvise", InvalidationCause.Madvise },
        { "fork", InvalidationCause.Fork },
        { "exit", InvalidationCause.Exit },
        { "ftruncate", InvalidationCause.Truncate },
    };

    [Theory]
    [MemberData(nameof(Calls))]
    public async Task A_call_that_takes_memory_away_waits_for_who_watches_it(string call, InvalidationCause cause)
    {
        var file = await _client.Files.CreateFileAsync(
            new CreateFileRequest { Kind = FileKind.Shmem, SizeBytes = 64 * 4096, Path = "/f" });
        await Call(
            new MemoryCall
            {
                Mmap = new MmapCall
                {
                    Address = At,
                    Length = 64 * 4096,
                    Prot = 3,
                    // fork takes private pages alone: they become copy-on-write.
                    Flags = call == "fork" ? 0x12U : 0x11,
                    Target = file.Name
                }
            });
        using var watch = _client.Watches.WatchInvalidations();
        await OpenAsync(watch, new OpenWatch { AddressSpace = _space, Start = At + 4096, Length = 4 * 4096 });
        // The page is there until the subscriber has said that it may go.
        await new RemoteFrameMemory(_client).WriteAsync(_space, At + 4096, new byte[] { 7 });
        var running = RunAsync(call, file.Name);
        var start = await NextAsync(watch);
        Assert.Equal((InvalidationKind.Start, cause), (start.Kind, start.Cause));
        Assert.Equal((At + 4096, 4UL * 4096), (start.Start, start.Length));
        Assert.False(running.IsCompleted);
        Assert.Equal(7, await ByteAsync(At + 4096));
        await watch.RequestStream.WriteAsync(new WatchRequest { Acknowledge = start.Revision });
        await running.WaitAsync(Patience);
        var end = await NextAsync(watch);
        Assert.Equal((InvalidationKind.End, start.Revision), (end.Kind, end.Revision));
    }

    [Fact]
    public async Task What_does_not_concern_the_range_or_takes_nothing_away_is_not_asked_about()
    {
        using var watch = _client.Watches.WatchInvalidations();
        await OpenAsync(watch, new OpenWatch { AddressSpace = _space, Start = At, Length = 4096 });
        await Call(new MemoryCall { Munmap = new MunmapCall { Address = At + 4096, Length = 4096 } });
        await Call(new MemoryCall { Mmap = new MmapCall { Address = 0, Length = 4096, Prot = 3, Flags = 0x22 } });
        await Call(new MemoryCall { Mlock = new MlockCall { Address = At, Length = 4096 } });
        await Call(new MemoryCall { Madvise = new MadviseCall { Address = At, Length = 4096, Advice = 3 } });
        var other = (await _client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        await _client.AddressSpaces.ExitAddressSpaceAsync(new ExitAddressSpaceRequest { Name = other });
        var running = Call(new MemoryCall { Munmap = new MunmapCall { Address = At, Length = 4096 } });
        var start = await NextAsync(watch);
        Assert.Equal(InvalidationCause.Munmap, start.Cause);
        await watch.RequestStream.WriteAsync(new WatchRequest { Acknowledge = start.Revision });
        await running.WaitAsync(Patience);
    }

    [Fact]
    public async Task Who_stays_silent_past_its_patience_is_fenced_and_stalls_nobody()
    {
        using var watch = _client.Watches.WatchInvalidations();
        var patience = Duration.FromTimeSpan(TimeSpan.FromMilliseconds(500));
        await OpenAsync(watch, new OpenWatch { AddressSpace = _space, Patience = patience });
        var running = Call(new MemoryCall { Munmap = new MunmapCall { Address = At, Length = 4096 } });
        await NextAsync(watch);
        Assert.False(running.IsCompleted);
        // The timer may be set a moment after the event was sent.
        while (!running.IsCompleted)
        {
            _time.Advance(TimeSpan.FromMilliseconds(501));
            await Task.Yield();
        }

        await running;
        var refusal = FramePinException.From(await Assert.ThrowsAsync<RpcException>(async () =>
        {
            while (await watch.ResponseStream.MoveNext(default).WaitAsync(Patience))
            {
            }
        }));
        Assert.Equal("WATCH_FENCED", refusal.Reason);
        // Nobody is asked any more.
        await Call(new MemoryCall { Munmap = new MunmapCall { Address = At + 4096, Length = 4096 } });
    }

    [Fact]
    public async Task A_broken_watch_that_comes_back_is_told_what_it_missed()
    {
        ulong seen;
        using (var watch = _client.Watches.WatchInvalidations())
        {
            seen = await OpenAsync(watch, new OpenWatch { AddressSpace = _space, Start = At, Length = 16 * 4096 });
            var running = Call(new MemoryCall { Munmap = new MunmapCall { Address = At, Length = 4096 } });
            var start = await NextAsync(watch);
            await watch.RequestStream.WriteAsync(new WatchRequest { Acknowledge = start.Revision });
            await running.WaitAsync(Patience);
            seen = (await NextAsync(watch)).Revision;
        }

        // Broken here: a call meanwhile waits for it at most until the daemon has noticed.
        await Call(new MemoryCall { Munmap = new MunmapCall { Address = At + 4096, Length = 4096 } });
        await Call(new MemoryCall { Munmap = new MunmapCall { Address = At + (40 * 4096), Length = 4096 } });
        await Call(
            new MemoryCall { Madvise = new MadviseCall { Address = At + (2 * 4096), Length = 4096, Advice = 4 } });
        using var again = _client.Watches.WatchInvalidations();
        await OpenAsync(
            again, new OpenWatch { AddressSpace = _space, Start = At, Length = 16 * 4096, ResumeAfter = seen });
        var (first, second) = (await NextAsync(again), await NextAsync(again));
        Assert.Equal(
            (InvalidationKind.Missed, InvalidationCause.Munmap, At + 4096), (first.Kind, first.Cause, first.Start));
        Assert.Equal((InvalidationKind.Missed, InvalidationCause.Madvise, At + (2 * 4096)),
            (second.Kind, second.Cause, second.Start));
        using var ahead = _client.Watches.WatchInvalidations();
        await Refused(
            "BAD_FIELD", () => OpenAsync(ahead, new OpenWatch { AddressSpace = _space, ResumeAfter = 1 << 20 }));
    }

    [Fact]
    public async Task What_is_not_remembered_any_more_is_told_as_dropped()
    {
        ulong seen;
        using (var watch = _client.Watches.WatchInvalidations())
            seen = await OpenAsync(watch, new OpenWatch { AddressSpace = _space, Start = At, Length = 4096 });
        await Call(new MemoryCall { Munmap = new MunmapCall { Address = At, Length = 4096 } });
        var batch = new CallBatchRequest { AddressSpace = _space };
        for (var i = 0; i < 4096; i++)
        {
            // The rights change each time.
            var prot = new MprotectCall { Address = At + (63 * 4096), Length = 4096, Prot = i % 2 == 0 ? 1U : 3U };
            batch.Calls.Add(new MemoryCall { Mprotect = prot });
        }

        await _client.AddressSpaces.CallBatchAsync(batch);
        // Revision 0 means that nothing was seen: one that was is asked for.
        using var again = _client.Watches.WatchInvalidations();
        await OpenAsync(
            again, new OpenWatch { AddressSpace = _space, Start = At, Length = 4096, ResumeAfter = Math.Max(seen, 1) });
        using var old = _client.Watches.WatchInvalidations();
        await Call(new MemoryCall { Munmap = new MunmapCall { Address = At + (62 * 4096), Length = 4096 } });
        await OpenAsync(old, new OpenWatch { AddressSpace = _space, Start = At, Length = 4096, ResumeAfter = 1 });
        Assert.Equal(InvalidationKind.Dropped, (await NextAsync(old)).Kind);
    }

    [Fact]
    public async Task A_vector_names_its_range_and_a_lease_ends_the_watch()
    {
        var lease = await _client.Leases.OpenLeaseAsync(new OpenLeaseRequest { Owner = "test" });
        var pin = await _client.Pinning.PinAsync(
            new PinRequest { AddressSpace = _space, Start = At + (3 * 4096), Pages = 2, Lease = lease.Name });
        using var watch = _client.Watches.WatchInvalidations();
        await OpenAsync(watch, new OpenWatch { FrameVector = pin.FrameVector, Lease = lease.Name });
        var running = Call(new MemoryCall { Munmap = new MunmapCall { Address = At, Length = 64 * 4096 } });
        var start = await NextAsync(watch);
        Assert.Equal((At + (3 * 4096), 2UL * 4096), (start.Start, start.Length));
        await _client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = lease.Name });
        await running.WaitAsync(Patience);
        await Refused("LEASE_NOT_FOUND", async () =>
        {
            while (await watch.ResponseStream.MoveNext(default).WaitAsync(Patience))
            {
            }
        });
    }

    [Fact]
    public async Task Nothing_happens_and_the_revision_is_told_all_the_same()
    {
        using var watch = _client.Watches.WatchInvalidations();
        var opened = await OpenAsync(watch, new OpenWatch { AddressSpace = _space });
        var next = watch.ResponseStream.MoveNext(default);
        while (!next.IsCompleted)
        {
            _time.Advance(TimeSpan.FromSeconds(11));
            await Task.Yield();
        }

        Assert.True(await next);
        Assert.Equal((InvalidationKind.Progress, opened),
            (watch.ResponseStream.Current.Kind, watch.ResponseStream.Current.Revision));
    }

    private async Task RunAsync(string call, string file)
    {
        switch (call)
        {
            case "munmap":
                await Call(new MemoryCall { Munmap = new MunmapCall { Address = At, Length = 64 * 4096 } });
                break;
            case "mmap":
                await Call(
                    new MemoryCall
                    {
                        Mmap = new MmapCall
                        {
                            Address = At,
                            Length = 64 * 4096,
                            Prot = 3,
                            Flags = 0x32
                        }
                    });
                break;
            case "mremap":
                await Call(
                    new MemoryCall
                    {
                        Mremap = new MremapCall
                        {
                            Address = At,
                            OldLength = 64 * 4096,
                            NewLength = 64 * 4096,
                            Flags = 3,
                            NewAddress = At << 4
                        }
                    });
                break;
            case "mprotect":
                await Call(
                    new MemoryCall { Mprotect = new MprotectCall { Address = At, Length = 64 * 4096, Prot = 0 } });
                break;
            case "madvise":
                await Call(
                    new MemoryCall { Madvise = new MadviseCall { Address = At, Length = 64 * 4096, Advice = 4 } });
                break;
            case "fork":
                await _client.AddressSpaces.ForkAddressSpaceAsync(new ForkAddressSpaceRequest { Name = _space });
                break;
            case "exit":
                await _client.AddressSpaces.ExitAddressSpaceAsync(new ExitAddressSpaceRequest { Name = _space });
                break;
            default:
                await _client.Files.TruncateFileAsync(new TruncateFileRequest { Name = file, SizeBytes = 0 });
                break;
        }
    }

    private static async Task<ulong> OpenAsync(
        AsyncDuplexStreamingCall<WatchRequest, InvalidationEvent> watch, OpenWatch open)
    {
        await watch.RequestStream.WriteAsync(new WatchRequest { Open = open });
        var opened = await NextAsync(watch);
        Assert.Equal(InvalidationKind.Opened, opened.Kind);
        return opened.Revision;
    }

    private static async Task<InvalidationEvent> NextAsync(
        AsyncDuplexStreamingCall<WatchRequest, InvalidationEvent> watch)
    {
        Assert.True(await watch.ResponseStream.MoveNext(default).WaitAsync(Patience));
        return watch.ResponseStream.Current;
    }

    private static async Task Refused(string reason, Func<Task> call) =>
        Assert.Equal(reason, FramePinException.From(await Assert.ThrowsAsync<RpcException>(call)).Reason);

    private async Task<byte> ByteAsync(ulong address)
    {
        var one = new byte[1];
        await new RemoteFrameMemory(_client).ReadAsync(_space, address, one);
        return one[0];
    }

    private async Task Call(MemoryCall call) =>
        await _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = _space, Call = call });
}
