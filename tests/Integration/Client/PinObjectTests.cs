using FramePin.Client;
using FramePin.V1;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration.Client;

/// <summary>
/// The pin as an object: its block unpins it, and a refusal is an exception with the errno of the kernel.
/// </summary>
public sealed class PinObjectTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong Page = 4096;

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task The_end_of_its_block_unpins_a_pin(bool isLocal)
    {
        var cancelled = TestContext.Current.CancellationToken;
        using var client = FramePinClient.Connect(daemon.Endpoint, options => options.IsLocal = isLocal);
        var space = await SpaceAsync(client);
        var address = await space.MmapAsync(4 * Page, cancellationToken: cancelled);
        FrameVectorName name;
        await using (var pin = await space.PinAsync(address, 4, write: true, cancelled))
        {
            name = pin.Name;
            Assert.Equal((4, FrameKind.Pages, StopReason.Unspecified), (pin.Count, pin.Kind, pin.StopReason));
            Assert.Equal(4, pin.Runs.Sum(run => run.Count));
            Assert.Equal(space.Name, (await pin.GetAsync(cancelled)).AddressSpace);
            Assert.All(await pin.GetPagesAsync(cancellationToken: cancelled), page => Assert.True(page.RefCount > 1));
            byte[] written = [1, 2, 3];
            await pin.WriteAsync(Page, written, cancelled);
            var read = new byte[3];
            Assert.Equal(3, await space.ReadAsync(address + Page, read, cancelled));
            Assert.Equal(written, read);
            Assert.False(pin.IsReleased);
        }

        var refused = await Assert.ThrowsAsync<RpcException>(
            async () => await client.Pinning.GetFrameVectorAsync(new GetFrameVectorRequest { Name = name }));
        Assert.Equal(StatusCode.NotFound, refused.StatusCode);
        var statistics = (await space.Machine.GetAsync(cancelled)).Statistics;
        Assert.Equal((4UL, 4UL), (statistics.PinsAcquired, statistics.PinsReleased));
        Assert.Empty((await space.Machine.AuditAsync(cancelled)).Findings);
    }

    [Fact]
    public async Task A_pin_that_is_disposed_twice_is_unpinned_once()
    {
        var calls = new RecordedCalls();
        using var client = FramePinClient.Connect(daemon.Endpoint, options => options.Interceptors.Add(calls));
        var space = await SpaceAsync(client);
        var pin = await space.PinAsync(await space.MmapAsync(Page), 1);
        await pin.DisposeAsync();
        await pin.DisposeAsync();
        await pin.UnpinAsync(TestContext.Current.CancellationToken);
        Assert.True(pin.IsReleased);
        Assert.Equal(1, calls.Names.Count(name => name == "Unpin"));
        Assert.Throws<ObjectDisposedException>(() => pin.Map());
        Assert.Throws<InvalidOperationException>(pin.MarkDirty);
    }

    [Fact]
    public async Task A_conversion_changes_the_pin_in_place()
    {
        var space = await SpaceAsync(daemon.Client);
        await using var pin = await space.PinAsync(await space.MmapAsync(2 * Page), 2, write: true);
        var runs = pin.Runs;
        await pin.ConvertAsync(FrameKind.Pfns, TestContext.Current.CancellationToken);
        Assert.Equal(FrameKind.Pfns, pin.Kind);
        Assert.Equal(runs, pin.Runs);
        await pin.ConvertAsync(FrameKind.Pages, TestContext.Current.CancellationToken);
        Assert.Equal(FrameKind.Pages, pin.Kind);
    }

    [Fact]
    public async Task A_refusal_throws_with_errno_reason_and_place()
    {
        var space = await SpaceAsync(daemon.Client);
        var refused = await Assert.ThrowsAsync<FramePinException>(() => space.PinAsync(0x1000, 1, write: true));
        Assert.Equal((14, "EFAULT", 0), (refused.Errno, refused.Reason, refused.Signal));
        Assert.Equal((StopReason.Hole, 0x1000UL), (refused.StopReason, refused.Address));
        Assert.Equal(StatusCode.FailedPrecondition, refused.StatusCode);
        Assert.Null(refused.Limit);
        Assert.IsType<RpcException>(refused.InnerException);
    }

    [Fact]
    public async Task A_limit_that_would_be_passed_is_in_the_exception()
    {
        const long most = 1 << 20;
        var space = await SpaceAsync(daemon.Client);
        var refused = await Assert.ThrowsAsync<FramePinException>(() => space.PinAsync(0x1000, most + 1));
        Assert.Equal(new FramePinLimit("vector_pages_max", most, most + 1), refused.Limit);
        Assert.Equal(StatusCode.ResourceExhausted, refused.StatusCode);
    }

    [Fact]
    public async Task A_short_pin_tells_why_and_all_or_nothing_refuses_it()
    {
        var space = await SpaceAsync(daemon.Client);
        var address = await space.MmapAsync(3 * Page);
        await space.MunmapAsync(address + (2 * Page), Page);
        await using var pin = await space.PinAsync(address, 2);
        await space.MprotectAsync(address + Page, Page, MemoryProtection.None);
        await using var shorter = await space.PinAsync(address, 2);
        Assert.Equal((1, true), (shorter.Count, shorter.StopReason != StopReason.Unspecified));
        var refused = await Assert.ThrowsAsync<FramePinException>(
            () => space.PinAsync(address, 2, new PinOptions { AllOrNothing = true }));
        Assert.Equal("PARTIAL_PIN", refused.Reason);
    }

    [Fact]
    public async Task A_pin_without_frames_is_an_error_of_the_caller()
    {
        var space = await SpaceAsync(daemon.Client);
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => space.PinAsync(0x1000, 0));
        await Assert.ThrowsAsync<ArgumentNullException>(() => space.PinAsync(0x1000, 1, options: null!));
    }

    [Fact]
    public async Task A_pin_that_is_given_up_throws_as_cancelled_and_holds_nothing()
    {
        var (machine, name) = await daemon.CreateParkingAsync(0x10_0000);
        var space = daemon.Client.GetMachine(MachineName.Parse(machine)).GetAddressSpace(name.Split('/')[^1]);
        using var giveUp = new CancellationTokenSource();
        var pinning = space.PinAsync(0x10_0000, 1, write: true, giveUp.Token);
        await giveUp.CancelAsync();
        var cancelled = await Assert.ThrowsAnyAsync<OperationCanceledException>(() => pinning);
        Assert.Equal(giveUp.Token, cancelled.CancellationToken);
        var statistics = (await space.Machine.GetAsync()).Statistics;
        Assert.Equal(statistics.PinsAcquired, statistics.PinsReleased);
    }

    [Fact]
    public async Task A_disposal_that_is_refused_throws_nothing_and_is_logged()
    {
        using var log = new RecordedLog();
        using var client = FramePinClient.Connect(daemon.Endpoint, options => options.LoggerFactory = log);
        var space = await SpaceAsync(client);
        var pin = await space.PinAsync(await space.MmapAsync(Page), 1);
        await space.Machine.DeleteAsync(force: true);
        await pin.DisposeAsync();
        Assert.Contains(("FramePin.Client", "UnpinFailed"), log.Events);
        var refused = await Assert.ThrowsAsync<FramePinException>(() => pin.UnpinAsync());
        Assert.Equal(StatusCode.NotFound, refused.StatusCode);
    }

    [Fact]
    public async Task A_pin_for_a_local_machine_is_mapped_into_this_process()
    {
        var space = await SpaceAsync(daemon.Client);
        using var local = await space.Machine.AttachAsync();
        var address = await space.MmapAsync(2 * Page);
        await using var pin = await space.PinAsync(address, 2, new PinOptions { Write = true, LocalMachine = local });
        pin.Map().Bytes[(int)Page] = 7;
        var read = new byte[1];
        await space.ReadAsync(address + Page, read);
        Assert.Equal(7, read[0]);
    }

    [Fact]
    public async Task A_raw_stub_throws_its_own_exception_which_the_library_converts()
    {
        var request = new PinRequest { AddressSpace = "machines/default/addressSpaces/none", Start = 0, Pages = 1 };
        var raw = await Assert.ThrowsAsync<RpcException>(async () => await daemon.Client.Pinning.PinAsync(request));
        Assert.Equal("ADDRESS_SPACE_NOT_FOUND", FramePinException.From(raw).Reason);
        var typed = await Assert.ThrowsAsync<FramePinException>(
            () => daemon.Client.Pinning.PinAsync(request).TypedAsync(TestContext.Current.CancellationToken));
        Assert.Equal("ADDRESS_SPACE_NOT_FOUND", typed.Reason);
    }

    private static async Task<FramePinAddressSpace> SpaceAsync(FramePinClient client)
    {
        var machine = await client.CreateMachineAsync(new MachineSpec { Profile = "6.18", MemoryBytes = 64 << 20 });
        return await machine.CreateAddressSpaceAsync();
    }
}
