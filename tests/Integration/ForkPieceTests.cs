using FramePin.Client;
using FramePin.V1;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>
/// A fork over the wire, whose pinned pages are copied in several turns: fault A15 of the list of faults found from
/// outside.
/// </summary>
public sealed class ForkPieceTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const uint Pages = 5000;

    [Fact]
    public async Task A15_a_fork_of_many_pinned_pages_answers_when_all_of_them_are_there()
    {
        var client = daemon.Client;
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, Pages);
        var memory = new RemoteFrameMemory(client);
        var bytes = new byte[Pages * 4096];
        new Random(15).NextBytes(bytes);
        await memory.WriteAsync(space, At, bytes);
        var pin = await client.Pinning.PinAsync(
            new PinRequest { AddressSpace = space, Start = At, Pages = Pages, Write = true });
        Assert.Equal(Pages, (uint)pin.Frames);
        var before = (await client.Machines.GetMachineAsync(new GetMachineRequest { Name = machine })).Statistics;
        var fork = new ForkAddressSpaceRequest { Name = space };
        var child = (await client.AddressSpaces.ForkAddressSpaceAsync(fork)).Name;
        var after = (await client.Machines.GetMachineAsync(new GetMachineRequest { Name = machine })).Statistics;
        // Several commands: the turn was free between them.
        Assert.True(after.Commands - before.Commands >= 3, $"{after.Commands - before.Commands} commands");
        var copied = new byte[bytes.Length];
        Assert.Equal(copied.Length, await memory.ReadAsync(child, At, copied));
        Assert.True(bytes.AsSpan().SequenceEqual(copied));
        await client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector });
        var audit = await client.Machines.AuditMachineAsync(new AuditMachineRequest { Name = machine });
        Assert.Empty(audit.Findings);
        await client.Machines.DeleteMachineAsync(new DeleteMachineRequest { Name = machine });
    }
}
