using FramePin.Client;
using FramePin.Drivers;
using FramePin.Server.Configuration;
using FramePin.Server.Drivers;
using FramePin.V1;
using FramePin.V1.Local;
using Google.Protobuf;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration;

/// <summary>
/// Answers that do not reach their callers (fault D14), and calls whose drivers are gone: what was given away comes
/// back, and no thread waits for a client.
/// </summary>
public sealed class LostAnswerTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x10_0000;
    private const uint Pages = 4;
    private const string Ioctl = "/framepin.v1.DriverService/Ioctl";
    private const string Pin = "/framepin.v1.PinningService/Pin";
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    /// <summary>Far more than an end in order takes, and less than the grace of calls in flight.</summary>
    private static readonly TimeSpan Bound = TimeSpan.FromSeconds(7);

    /// <summary>The thread is inside the end of a driver.</summary>
    [ThreadStatic]
    private static bool _isEnding;

    private string Calls => daemon.Endpoint["unix:".Length..] + ".calls";

    [Fact]
    public async Task D14_an_answer_that_a_local_client_left_unread_is_taken_back()
    {
        await using var driver = await SilentDriver.StartAsync(daemon.Client);
        var caller = new RawCaller(Calls);
        caller.Send([.. RawCaller.Head(Ioctl), .. RawCaller.Packet(PacketKind.Message, driver.Request.ToByteArray())]);
        var call = await driver.NextAsync();
        await driver.AnswerAsync(call, Errno.None);
        while (caller.Available == 0) await Task.Yield();
        caller.Dispose();
        var signal = await driver.NextAsync();
        Assert.Equal((call.Call, true), (signal.Interrupt, signal.Abandoned));
    }

    [Fact]
    public async Task D14_an_answer_that_was_read_stays_given_when_its_connection_ends()
    {
        await using var driver = await SilentDriver.StartAsync(daemon.Client);
        using (var caller = new RawCaller(Calls))
        {
            caller.Send(
                [.. RawCaller.Head(Ioctl), .. RawCaller.Packet(PacketKind.Message, driver.Request.ToByteArray())]);
            await driver.AnswerAsync(await driver.NextAsync(), Errno.None);
            Assert.Equal(0, caller.Status().Code);
        }

        // The next that the driver hears of is the next call.
        var next = daemon.Client.Drivers.IoctlAsync(driver.Request).ResponseAsync;
        var call = await driver.NextAsync();
        Assert.Equal(DriverCall.OperationOneofCase.Ioctl, call.OperationCase);
        await driver.AnswerAsync(call, Errno.None);
        await next.WaitAsync(Patience);
    }

    [Theory]
    [InlineData("")]
    [InlineData("once")]
    public async Task D14_a_pin_whose_answer_was_left_unread_is_given_back_unless_a_repeat_can_ask_for_it(string id)
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, Pages);
        var request = new PinRequest { AddressSpace = space, Start = At, Pages = Pages, Write = true, RequestId = id };
        var caller = new RawCaller(Calls);
        caller.Send([.. RawCaller.Head(Pin), .. RawCaller.Packet(PacketKind.Message, request.ToByteArray())]);
        while (caller.Available == 0) await Task.Yield();
        caller.Dispose();
        if (id.Length > 0)
        {
            var pinned = await daemon.Client.Pinning.PinAsync(request);
            Assert.Equal(1U, await VectorsAsync());
            await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pinned.FrameVector });
        }

        using var patience = new CancellationTokenSource(Patience);
        while (await VectorsAsync() > 0) patience.Token.ThrowIfCancellationRequested();

        async Task<uint> VectorsAsync() => (await daemon.Client.Machines.GetMachineAsync(
            new GetMachineRequest { Name = machine })).Statistics.FrameVectors;
    }

    // R7 of D14: a call that is remembered is found by its tag too.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task D14_InterruptDriverCall_finds_a_call_with_and_without_a_request_id(bool isRemembered)
    {
        await using var driver = await SilentDriver.StartAsync(daemon.Client);
        var request = driver.Request.Clone();
        request.Tag = 7;
        if (isRemembered) request.RequestId = $"{Guid.NewGuid():N}";
        var asking = daemon.Client.Drivers.IoctlAsync(request).ResponseAsync;
        var call = await driver.NextAsync();
        await daemon.Client.Drivers.InterruptDriverCallAsync(
            new InterruptDriverCallRequest { File = request.File, Tag = 7 });
        var signal = await driver.NextAsync().WaitAsync(Patience);
        Assert.Equal((call.Call, false), (signal.Interrupt, signal.Abandoned));
        await driver.AnswerAsync(call, Errno.ERESTARTSYS);
        Assert.Equal((uint)Errno.EINTR, (await asking.WaitAsync(Patience)).Errno);
    }

    // S4: a lease's timer ends drivers, and has no time for the clients of their calls.
    [Fact]
    public async Task S4_the_end_of_a_driver_runs_no_caller_on_its_thread()
    {
        var driver = new ServedDriver(null!, "node", "driver", polls: false, callsMax: 8);
        var asked = driver.CallAsync(new DriverCall(), CancellationToken.None);
        var isInline = asked.ContinueWith(
            _ => _isEnding, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously,
            TaskScheduler.Default);
        _isEnding = true;
        driver.End();
        _isEnding = false;
        Assert.False(await isInline.WaitAsync(Patience));
        Assert.Equal((uint)Errno.ENODEV, (await asked).Errno);
    }

    // S4: streams whose client reads no more, each with a thread of the daemon that waits to send.
    [Fact]
    public async Task S4_local_clients_that_do_not_read_do_not_hold_up_the_end()
    {
        // Longer than the test: an end that waited for one of these clients would take the whole grace of 10 s.
        await using var own = new StoppableDaemon(new DaemonLimits { LocalPatience = TimeSpan.FromHours(1) });
        await own.StartAsync();
        using var client = FramePinClient.Connect(own.Endpoint);
        var space = (await client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        await using var waiting = await SilentDriver.StartAsync(client);
        var deaf = Enumerable.Range(0, 3).Select(_ => new RawCaller(own.Calls)).ToList();
        try
        {
            foreach (var caller in deaf) Fill(caller, space);
            await own.StopAsync().WaitAsync(Bound);
            // A client that reads was told.
            var refusal = await Assert.ThrowsAsync<Grpc.Core.RpcException>(() => waiting.Ended.WaitAsync(Patience));
            Assert.Equal("SHUTTING_DOWN", FramePinException.From(refusal).Reason);
        }
        finally
        {
            foreach (var caller in deaf) caller.Dispose();
        }
    }

    /// <summary>Sends batches and reads no result until the daemon takes no more: it waits to send.</summary>
    private static void Fill(RawCaller caller, string space)
    {
        caller.Send(RawCaller.Head("/framepin.v1.PinningService/PinStream"));
        var batch = new PinBatch { AddressSpace = space };
        for (var i = 0; i < 512; i++)
            batch.Operations.Add(new PinOperation { Pin = new PinRange { Start = At, Pages = 1 } });
        for (var sequence = 1UL; ; sequence++)
        {
            batch.Sequence = sequence;
            if (!caller.TrySendNow(RawCaller.Packet(PacketKind.Message, batch.ToByteArray()))) return;
        }
    }
}
