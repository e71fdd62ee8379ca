using FramePin.Client;
using FramePin.V1;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>Levels of page tables over the wire: fault A14 of the list of faults found from outside.</summary>
public sealed class PageTableLevelTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong High = 1UL << 50;
    private const ulong FourLevelEnd = (1UL << 47) - 4096;

    [Theory]
    [InlineData(0, 4)]
    [InlineData(4, 4)]
    [InlineData(5, 5)]
    public async Task A14_a_machine_says_its_levels(uint asked, uint told)
    {
        var machine = await CreateAsync(asked);
        Assert.Equal(told, machine.Spec.PageTableLevels);
        var request = new GetMachineRequest { Name = machine.Name };
        Assert.Equal(told, (await daemon.Client.Machines.GetMachineAsync(request)).Spec.PageTableLevels);
    }

    [Theory]
    [InlineData(3)]
    [InlineData(6)]
    public async Task A14_other_levels_are_refused(uint asked)
    {
        var refused = await Assert.ThrowsAsync<RpcException>(() => CreateAsync(asked));
        Assert.Equal(StatusCode.InvalidArgument, refused.StatusCode);
        Assert.Contains("page_table_levels", refused.Status.Detail, StringComparison.Ordinal);
    }

    /// <summary>A touch tells SIGSEGV, a read tells si_code and si_addr too; pagemap ends at TASK_SIZE.</summary>
    [Fact]
    public async Task A14_four_levels_end_below_2_47()
    {
        var space = await CreateSpaceAsync(4);
        foreach (var (address, code, told) in new[]
            { (FourLevelEnd, "SEGV_MAPERR", $"0x{FourLevelEnd:x}"), (1UL << 47, "SI_KERNEL", "0x0") })
        {
            var refused = await Assert.ThrowsAsync<RpcException>(() => ReadAsync(space, address));
            var info = FramePinException.From(refused);
            Assert.Equal((code, told), (info.Metadata["signal_code"], info.Metadata["si_addr"]));
        }

        var pagemap = new GetPagemapRequest { AddressSpace = space, Start = High, Pages = 1 };
        var above = await Assert.ThrowsAsync<RpcException>(
            async () => await daemon.Client.AddressSpaces.GetPagemapAsync(pagemap));
        Assert.Equal(StatusCode.InvalidArgument, above.StatusCode);
    }

    [Fact]
    public async Task A14_five_levels_map_above_2_47_by_a_hint()
    {
        var space = await CreateSpaceAsync(5);
        var map = new MemoryCall { Mmap = new MmapCall { Address = High, Length = 4096, Prot = 3, Flags = 0x22 } };
        var request = new CallRequest { AddressSpace = space, Call = map };
        Assert.Equal(High, (await daemon.Client.AddressSpaces.CallAsync(request)).Value);
        await ReadAsync(space, High);
        var pagemap = new GetPagemapRequest { AddressSpace = space, Start = High, Pages = 1 };
        var entries = (await daemon.Client.AddressSpaces.GetPagemapAsync(pagemap)).Entries;
        Assert.Equal(1UL, Assert.Single(entries) >> 63);
    }

    private async Task<V1.Machine> CreateAsync(uint levels) => await daemon.Client.Machines.CreateMachineAsync(
        new CreateMachineRequest { Spec = new MachineSpec { MemoryBytes = 16UL << 20, PageTableLevels = levels } });

    private async Task<string> CreateSpaceAsync(uint levels)
    {
        var machine = await CreateAsync(levels);
        return (await daemon.Client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest { Parent = machine.Name })).Name;
    }

    private async Task ReadAsync(string space, ulong address)
    {
        var target = new MemoryTarget { Name = space, Position = address };
        using var read = daemon.Client.Memory.ReadMemory(new ReadMemoryRequest { Target = target, Length = 8 });
        while (await read.ResponseStream.MoveNext(default)) { }
    }
}
