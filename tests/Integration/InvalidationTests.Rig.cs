using FramePin.Client;
using FramePin.V1;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration;

public sealed partial class InvalidationTests
{
    /// <summary>The start of what <paramref name="call"/> takes, which runs only after the answer.</summary>
    private static async Task<InvalidationEvent> AgreeAsync(
        AsyncDuplexStreamingCall<WatchRequest, InvalidationEvent> watch, Task call)
    {
        var start = await NextAsync(watch);
        Assert.Equal(InvalidationKind.Start, start.Kind);
        Assert.False(call.IsCompleted);
        await watch.RequestStream.WriteAsync(new WatchRequest { Acknowledge = start.Revision });
        await call.WaitAsync(Patience);
        return start;
    }

    /// <summary>The next event is that of a call which takes memory for certain.</summary>
    private async Task NothingElseAsync(
        AsyncDuplexStreamingCall<WatchRequest, InvalidationEvent> watch, string space)
    {
        var last = At + Length - Page;
        var start = await AgreeAsync(watch, CallAsync(space, Unmap(last, Page)));
        Assert.Equal((InvalidationCause.Munmap, last), (start.Cause, start.Start));
    }

    private static async Task AnswerAsync(AsyncDuplexStreamingCall<DriverReply, DriverCall> driver, string device)
    {
        while (await driver.ResponseStream.MoveNext(default))
        {
            var call = driver.ResponseStream.Current;
            var answer = new DriverAnswer { Call = call.Call, Device = call.Map is null ? "" : device };
            await driver.RequestStream.WriteAsync(new DriverReply { Answer = answer });
        }
    }

    private Task UnshareAsync(string way, string space, ulong address) => way switch
    {
        "store" => StoreAsync(space, address),
        "touch" => CallAsync(
            space, new MemoryCall { Touch = new TouchCall { Address = address, Pages = 1, Write = true } }),
        "pin" => _client.Pinning.PinAsync(
            new PinRequest { AddressSpace = space, Start = address, Pages = 1, Write = true }).ResponseAsync,
        _ => StreamAsync(space, address),
    };

    private async Task StreamAsync(string space, ulong address)
    {
        using var stream = _client.Pinning.PinStream();
        var pin = new PinOperation { Pin = new PinRange { Start = address, Pages = 1, Write = true } };
        await stream.RequestStream.WriteAsync(
            new PinBatch { Sequence = 1, AddressSpace = space, Operations = { pin } });
        Assert.True(await stream.ResponseStream.MoveNext(default));
        Assert.Equal(1UL, stream.ResponseStream.Current.Results.Single().Frames);
    }

    private async Task<string> SpaceAsync(string lease = "")
    {
        var space = (await _client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest { Parent = _machine, Lease = lease })).Name;
        await MapAsync(space, At, Private);
        return space;
    }

    private async Task<string> FileAsync(string path, ulong inode = 0) => (await _client.Files.CreateFileAsync(
        new CreateFileRequest
        {
            Parent = _machine,
            Kind = FileKind.Shmem,
            SizeBytes = Length,
            Path = path,
            Inode = inode,
        })).Name;

    private Task MapAsync(string space, ulong at, uint flags, string file = "") => CallAsync(space, new MemoryCall
    {
        Mmap = new MmapCall { Address = at, Length = Length, Prot = 3, Flags = flags, Target = file },
    });

    private static MemoryCall Unmap(ulong at, ulong length) =>
        new() { Munmap = new MunmapCall { Address = at, Length = length } };

    private Task MadviseAsync(string space, ulong at, ulong length, uint advice) => CallAsync(space, new MemoryCall
    {
        Madvise = new MadviseCall { Address = at, Length = length, Advice = (int)advice },
    });

    private async Task TruncateAsync(string file, ulong size) =>
        await _client.Files.TruncateFileAsync(new TruncateFileRequest { Name = file, SizeBytes = size });

    private Task StoreAsync(string space, ulong address) =>
        new RemoteFrameMemory(_client).WriteAsync(space, address, new byte[] { 7 });

    private async Task CallAsync(string space, MemoryCall call) =>
        await _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space, Call = call });

    private async Task RefusedAsync(string space, MemoryCall call) =>
        await Assert.ThrowsAsync<RpcException>(() => CallAsync(space, call));

    private async Task<AsyncDuplexStreamingCall<WatchRequest, InvalidationEvent>> WatchAsync(
        string space, ulong start = At, ulong length = Length)
    {
        var watch = _client.Watches.WatchInvalidations();
        var open = new OpenWatch { AddressSpace = space, Start = start, Length = length };
        await watch.RequestStream.WriteAsync(new WatchRequest { Open = open });
        Assert.Equal(InvalidationKind.Opened, (await NextAsync(watch)).Kind);
        return watch;
    }

    private static async Task<InvalidationEvent> NextAsync(
        AsyncDuplexStreamingCall<WatchRequest, InvalidationEvent> watch)
    {
        Assert.True(await watch.ResponseStream.MoveNext(default).WaitAsync(Patience));
        return watch.ResponseStream.Current;
    }
}
