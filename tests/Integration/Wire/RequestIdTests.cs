using FramePin.Client;
using FramePin.V1;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration.Wire;

/// <summary>
/// A request_id identifies a request: a repeat gets the first answer, refusals included, and runs nothing.
/// </summary>
public sealed class RequestIdTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x10_0000;
    private const ulong Hole = 0x900_0000;

    private FramePinClient Client => daemon.Client;

    [Fact]
    public async Task A_repeat_gets_the_remembered_answer_and_runs_nothing()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 2);
        var pinning = new PinRequest { AddressSpace = space, Start = At, Pages = 2, Write = true, RequestId = "pin" };
        var pin = await Client.Pinning.PinAsync(pinning);
        var opening = new OpenLeaseRequest { Parent = machine, RequestId = "lease" };
        var lease = await Client.Leases.OpenLeaseAsync(opening);
        var before = daemon.MachineOf(machine).CommandNumber;
        Assert.Equal(pin, await Client.Pinning.PinAsync(pinning));
        Assert.Equal(lease, await Client.Leases.OpenLeaseAsync(opening));
        Assert.Equal(before, daemon.MachineOf(machine).CommandNumber);
        // The vector is gone, and its unpin is still answered as it was.
        var unpinning = new UnpinRequest { FrameVector = pin.FrameVector, RequestId = "unpin" };
        var unpin = await Client.Pinning.UnpinAsync(unpinning);
        Assert.Equal(2UL, unpin.Frames);
        Assert.Equal(unpin, await Client.Pinning.UnpinAsync(unpinning));
    }

    [Fact]
    public async Task A_refusal_is_remembered_although_the_request_would_succeed_now()
    {
        var (machine, space) = await daemon.CreateAsync();
        var request = new PinRequest { AddressSpace = space, Start = Hole, Pages = 1, RequestId = "hole" };
        var first = await Refused(() => Client.Pinning.PinAsync(request).ResponseAsync);
        Assert.Equal((StatusCode.FailedPrecondition, "EFAULT"), (first.StatusCode, first.Reason));
        await daemon.MapAsync(space, Hole, 1);
        var before = daemon.MachineOf(machine).CommandNumber;
        var second = await Refused(() => Client.Pinning.PinAsync(request).ResponseAsync);
        Assert.Equal(first.Metadata, second.Metadata);
        Assert.Equal((first.StatusCode, first.Reason), (second.StatusCode, second.Reason));
        Assert.Equal(before, daemon.MachineOf(machine).CommandNumber);
        // Another id is another request.
        request.RequestId = "mapped";
        Assert.Equal(1UL, (await Client.Pinning.PinAsync(request)).Frames);
    }

    [Fact]
    public async Task Another_request_under_a_used_id_is_refused_and_the_first_answer_stays()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 2);
        var request = new PinRequest { AddressSpace = space, Start = At, Pages = 2, RequestId = "one" };
        var pin = await Client.Pinning.PinAsync(request);
        var other = request.Clone();
        other.Pages = 1;
        var refusal = await Refused(() => Client.Pinning.PinAsync(other).ResponseAsync);
        Assert.Equal((StatusCode.InvalidArgument, "REQUEST_ID_REUSED"), (refusal.StatusCode, refusal.Reason));
        Assert.Equal("one", refusal.Metadata["request_id"]);
        Assert.Equal(pin, await Client.Pinning.PinAsync(request));
        // An id belongs to a method of a machine.
        var (elsewhere, _) = await daemon.CreateAsync();
        foreach (var parent in new[] { machine, elsewhere })
            Assert.StartsWith(
                $"{parent}/leases/",
                (await Client.Leases.OpenLeaseAsync(new() { Parent = parent, RequestId = "one" })).Name,
                StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_repeat_after_a_call_that_was_given_up_runs(bool expires)
    {
        // Fault S9.
        var (machine, space) = await daemon.CreateParkingAsync(At);
        var request = new PinRequest { AddressSpace = space, Start = At, Pages = 1, Write = true, RequestId = "again" };
        using var giveUp = new CancellationTokenSource();
        // The pin parks for ever, so that the deadline passes whatever the machine's load is.
        DateTime? deadline = expires ? DateTime.UtcNow.AddSeconds(1) : null;
        var first = Client.Pinning.PinAsync(request, deadline: deadline, cancellationToken: giveUp.Token);
        if (!expires)
        {
            while (daemon.MachineOf(machine).ParkedPins().Count == 0)
            {
                TestContext.Current.CancellationToken.ThrowIfCancellationRequested();
                await Task.Yield();
            }

            await giveUp.CancelAsync();
        }

        var ended = await Assert.ThrowsAsync<RpcException>(() => first.ResponseAsync);
        Assert.Equal(expires ? StatusCode.DeadlineExceeded : StatusCode.Cancelled, ended.StatusCode);
        // Whether the daemon has undone the first by now or not, the repeat runs and takes the only vector.
        if (expires) await ClearAsync(machine);
        var second = await Client.Pinning.PinAsync(request);
        Assert.Equal(1UL, second.Frames);
        Assert.Equal(second, await Client.Pinning.PinAsync(request));
        var listed = await Client.Pinning.ListFrameVectorsAsync(new() { Parent = machine });
        Assert.Equal(second.FrameVector, Assert.Single(listed.FrameVectors).Name);
    }

    [Fact]
    public async Task Repeats_that_come_while_the_first_runs_wait_for_its_answer()
    {
        var (machine, space) = await daemon.CreateParkingAsync(At);
        var request = new PinRequest { AddressSpace = space, Start = At, Pages = 1, Write = true, RequestId = "many" };
        var calls = Enumerable.Range(0, 5).Select(_ => Client.Pinning.PinAsync(request).ResponseAsync).ToList();
        while (daemon.MachineOf(machine).ParkedPins().Count == 0)
        {
            TestContext.Current.CancellationToken.ThrowIfCancellationRequested();
            await Task.Yield();
        }

        await Client.Pinning.ResumePinsAsync(new() { Machine = machine });
        var answers = await Task.WhenAll(calls);
        Assert.All(answers, answer => Assert.Equal(answers[0], answer));
        Assert.Single((await Client.Pinning.ListFrameVectorsAsync(new() { Parent = machine })).FrameVectors);
    }

    [Fact]
    public async Task Without_an_id_nothing_is_remembered()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 1);
        var request = new PinRequest { AddressSpace = space, Start = At, Pages = 1 };
        var (first, second) = (await Client.Pinning.PinAsync(request), await Client.Pinning.PinAsync(request));
        Assert.NotEqual(first.FrameVector, second.FrameVector);
        Assert.Equal(2, (await Client.Pinning.ListFrameVectorsAsync(new() { Parent = machine })).FrameVectors.Count);
    }

    private async Task ClearAsync(string machine) =>
        await Client.Machines.ClearFaultRulesAsync(new() { Machine = machine });

    private static async Task<FramePinException> Refused(Func<Task> call) =>
        FramePinException.From(await Assert.ThrowsAsync<RpcException>(call));
}
