using FramePin.Client;
using FramePin.V1;
using Grpc.Core;
using Xunit;
using static FramePin.Tests.Integration.FaultRig;

namespace FramePin.Tests.Integration;

/// <summary>
/// Memory calls that fault pages in wait for a handler outside, as a touch does: fault A13 of the list of faults found
/// from outside.
/// </summary>
public sealed class FaultCallTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const int PopulateRead = 22;
    private const int PopulateWrite = 23;

    private static readonly Dictionary<string, MemoryCall> Calls = new()
    {
        ["MADV_POPULATE_READ"] = Advise(PopulateRead),
        ["MADV_POPULATE_WRITE"] = Advise(PopulateWrite),
        ["mlock"] = new MemoryCall { Mlock = new MlockCall { Address = At, Length = 2 * PageSize } },
        ["mlockall"] = new MemoryCall { Mlockall = new MlockallCall { Flags = 1 } },
    };

    public static TheoryData<string> Names() => [.. Calls.Keys];

    [Theory]
    [MemberData(nameof(Names))]
    public async Task A13_a_call_waits_for_each_page(string name)
    {
        await using var rig = await RangeAsync();
        var call = rig.CallAsync(Calls[name]);
        for (var page = 0UL; page < 2; page++)
        {
            var fault = await rig.NextAsync();
            Assert.Equal(At + (page * PageSize), fault.Address);
            // The lock is free: another call changes the same address space meanwhile.
            await rig.CallAsync(Map(At + (64 * PageSize)));
            Assert.False(call.IsCompleted);
            await rig.AnswerAsync(fault, FaultAnswerKind.ZeroPage);
        }

        Assert.Equal(0U, (await call.WaitAsync(Patience)).Errno);
        Assert.Equal(2UL, (await rig.TouchAsync(At, 2).WaitAsync(Patience)).Value);
    }

    /// <summary>In a batch the call behind the one that waits runs when that has ended.</summary>
    [Fact]
    public async Task A13_a_batch_waits_in_its_place()
    {
        await using var rig = await RangeAsync();
        var batch = new CallBatchRequest { AddressSpace = rig.Space };
        batch.Calls.Add(Advise(PopulateWrite));
        batch.Calls.Add(Map(At + (64 * PageSize)));
        var call = daemon.Client.AddressSpaces.CallBatchAsync(batch).ResponseAsync;
        for (var page = 0; page < 2; page++) await rig.AnswerAsync(await rig.NextAsync(), FaultAnswerKind.ZeroPage);
        var response = await call.WaitAsync(Patience);
        Assert.Equal([0U, 0U], response.Results.Select(result => result.Errno));
        Assert.Equal(At + (64 * PageSize), response.Results[1].Value);
    }

    [Fact]
    public async Task A13_mmap_with_populate_answers_its_address_behind_the_wait()
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        var map = Map(At + (64 * PageSize));
        (map.Mmap.Target, map.Mmap.Flags) = (rig.Device, 0x8011);
        var call = rig.CallAsync(map);
        var fault = await rig.NextAsync();
        Assert.Equal(At + (64 * PageSize), fault.Address);
        await rig.AnswerAsync(fault, FaultAnswerKind.Page, page: 3);
        Assert.Equal(At + (64 * PageSize), (await call.WaitAsync(Patience)).Value);
    }

    /// <summary>The wait is killable: the caller gives up, and the machine is left in order.</summary>
    [Fact]
    public async Task A13_a_caller_that_gives_up_ends_its_call()
    {
        await using var rig = await RangeAsync();
        using var signal = new CancellationTokenSource();
        using var call = daemon.Client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = rig.Space, Call = Calls["mlock"] }, cancellationToken: signal.Token);
        var fault = await rig.NextAsync();
        await signal.CancelAsync();
        var end = await Assert.ThrowsAsync<RpcException>(async () => await call.ResponseAsync.WaitAsync(Patience));
        Assert.Equal(StatusCode.Cancelled, end.StatusCode);
        await rig.AnswerAsync(fault, FaultAnswerKind.ZeroPage);
        var audit = await daemon.Client.Machines.AuditMachineAsync(new AuditMachineRequest { Name = rig.Machine });
        Assert.Empty(audit.Findings);
    }

    /// <summary>The handler's process dies: the range is ordinary memory, and the call goes on.</summary>
    [Fact]
    public async Task A13_a_call_goes_on_when_its_handler_dies()
    {
        await using var rig = await RangeAsync();
        var call = rig.CallAsync(Calls["mlock"]);
        await rig.NextAsync();
        await rig.EndHandlerAsync();
        Assert.Equal(0U, (await call.WaitAsync(Patience)).Errno);
    }

    private async Task<FaultRig> RangeAsync()
    {
        var rig = await FaultRig.CreateAsync(daemon);
        await rig.CallAsync(Map(At));
        await rig.ServeAsync(
            new RegisterFaultHandler { AddressSpace = rig.Space, Start = At, Length = 2 * PageSize });
        return rig;
    }

    private static MemoryCall Map(ulong address) => new()
    {
        Mmap = new MmapCall
        {
            Address = address,
            Length = address == At ? 2 * PageSize : PageSize,
            Prot = 3,
            Flags = 0x32,
        },
    };

    private static MemoryCall Advise(int advice) =>
        new() { Madvise = new MadviseCall { Address = At, Length = 2 * PageSize, Advice = advice } };
}
