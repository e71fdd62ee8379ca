using FramePin.Client;
using FramePin.V1;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>Pins of a process that has the machine's memory mapped.</summary>
public sealed class LocalPinTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x10_0000;
    private const uint Pages = 8;

    [Fact]
    public async Task A_hundred_pins_and_unpins_of_resident_pages_with_an_attachment_take_no_command()
    {
        var (machine, space) = await daemon.CreateAsync();
        var map = new MmapCall { Address = At, Length = Pages * 4096, Prot = 3, Flags = 0x32 };
        await CallAsync(space, new MemoryCall { Mmap = map });
        await CallAsync(
            space, new MemoryCall { Touch = new TouchCall { Address = At, Pages = Pages, Write = true } });
        using var local = await LocalMachine.AttachAsync(daemon.Client, machine);
        using var stream = daemon.Client.Pinning.PinStream();
        var before = daemon.MachineOf(machine).CommandNumber;
        for (var i = 0UL; i < 100; i++)
        {
            var pin = new PinOperation { Pin = new PinRange { Start = At, Pages = Pages, Write = true } };
            var pinned = await SendAsync(stream, space, local.Name.ToString(), (2 * i) + 1, pin);
            Assert.Equal((ulong)Pages, pinned.Frames);
            Assert.NotEqual(0UL, pinned.Hold);
            var unpin = new UnpinVector { FrameVector = pinned.FrameVector, Hold = pinned.Hold };
            var unpinned = await SendAsync(
                stream, space, local.Name.ToString(), (2 * i) + 2, new PinOperation { UnpinVector = unpin });
            Assert.Equal((0U, (ulong)Pages), (unpinned.Errno, unpinned.Frames));
        }

        Assert.Equal(0, daemon.MachineOf(machine).CommandNumber - before);
        await stream.RequestStream.CompleteAsync();
        daemon.Replay(machine);
    }

    private static async Task<PinOperationResult> SendAsync(
        Grpc.Core.AsyncDuplexStreamingCall<PinBatch, PinBatchResult> stream, string space, string attachment,
        ulong sequence, PinOperation operation)
    {
        await stream.RequestStream.WriteAsync(new PinBatch
        {
            Sequence = sequence,
            AddressSpace = space,
            Attachment = attachment,
            Operations = { operation },
        });
        Assert.True(await stream.ResponseStream.MoveNext(default));
        return stream.ResponseStream.Current.Results.Single();
    }

    private async Task CallAsync(string space, MemoryCall call) =>
        await daemon.Client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space, Call = call });
}
