using System.Diagnostics;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.V1;
using Grpc.Core;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// The stream over which a driver pins and puts: what it says of single operations, and what happens when it is taken
/// or breaks.
/// </summary>
public sealed class PinLineTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    [Fact]
    public async Task What_is_refused_of_one_operation_is_answered_there_and_stops_no_other()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 4);
        using var stream = daemon.Client.Pinning.PinStream();
        var pins = new PinBatch { Sequence = 1, Machine = machine };
        foreach (var (name, pages) in new[] { (space, 4UL), (space, 0UL), ($"{machine}/addressSpaces/none", 1UL),
            ("", 1UL), (space, 2UL) })
            pins.Operations.Add(
                new PinOperation
                {
                    Pin = new PinRange
                    {
                        AddressSpace = name,
                        Start = At,
                        Pages = pages,
                        Write = true,
                        WithFrames = true
                    }
                });
        var answers = await AskAsync(stream, pins);
        Assert.Equal(
            [StatusCode.OK, StatusCode.InvalidArgument, StatusCode.NotFound, StatusCode.InvalidArgument, StatusCode.OK],
            answers.Select(answer => (StatusCode)(answer.Refusal?.Code ?? 0)));
        Assert.All(
            answers.Where(answer => answer.Refusal is not null),
            answer => Assert.NotEqual("", answer.Refusal.Message));
        var puts = new PinBatch { Sequence = 2, Machine = machine };
        foreach (var number in new[] { answers[0].FrameVector, answers[0].FrameVector, answers[4].FrameVector })
            puts.Operations.Add(
                new PinOperation { UnpinVector = new UnpinVector { FrameVector = number, Dirty = true } });
        Assert.Equal([("", 4UL), ("FRAME_VECTOR_NOT_FOUND", 0UL), ("", 2UL)],
            (await AskAsync(stream, puts)).Select(answer => (ReasonOf(answer), answer.Frames)));
        await daemon.DigestAsync(machine);
    }

    [Fact]
    public async Task A_lease_or_an_attachment_that_is_not_there_refuses_pins_and_no_unpins()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 1);
        using var stream = daemon.Client.Pinning.PinStream();
        var pin = new PinOperation { Pin = new PinRange { AddressSpace = space, Start = At, Pages = 1 } };
        var held = (await AskAsync(
            stream, new PinBatch { Sequence = 1, Machine = machine, Operations = { pin } }))[0].FrameVector;
        var unpin = new PinOperation { UnpinVector = new UnpinVector { FrameVector = held, Hold = 7 } };
        var answers = await AskAsync(
            stream, new PinBatch
            {
                Sequence = 2,
                Machine = machine,
                Attachment = $"{machine}/attachments/gone",
                Operations = { pin, unpin }
            });
        Assert.Equal((int)StatusCode.NotFound, answers[0].Refusal.Code);
        Assert.Equal(("", 1UL), (ReasonOf(answers[1]), answers[1].Frames));
        answers = await AskAsync(
            stream,
            new PinBatch { Sequence = 3, Machine = machine, Lease = $"{machine}/leases/gone", Operations = { pin } });
        Assert.Equal((int)StatusCode.NotFound, answers[0].Refusal.Code);
        Assert.Equal(0, daemon.MachineOf(machine).Statistics().Vectors);
    }

    [Fact]
    public async Task A_pin_that_waits_for_its_pages_holds_up_no_other()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.18");
        rig.Lab.Anon(At, 1, written: false);
        rig.Lab.Anon(2 * At, 2);
        var rule = new FaultRule { Point = ChoicePoint.Fault, Action = FaultAction.Park, Times = 1 };
        await daemon.Client.Machines.AddFaultRulesAsync(
            new AddFaultRulesRequest { Machine = rig.MachineName, Rules = { rule } });
        var waiting = rig.Kernel.GetVaddrFramesAsync(rig.SpaceName, At, 1, isWrite: true, isForce: false);
        while (rig.Machine.ParkedPins().Count == 0) await Task.Yield();
        var (errno, frames) = await rig.Kernel.GetVaddrFramesAsync(
            rig.SpaceName, 2 * At, 2, isWrite: true, isForce: false).WaitAsync(Patience);
        Assert.Equal((Errno.None, 2UL), (errno, frames!.Count));
        // In place of another one too: put first, then pinned, by two calls.
        (errno, var second) = await rig.Kernel.GetVaddrFramesAsync(
            rig.SpaceName, 2 * At, 1, isWrite: true, isForce: false, new PutFrames(frames, IsDirty: true))
                .WaitAsync(Patience);
        Assert.Equal((Errno.None, 2), (errno, rig.Vectors));
        await rig.Kernel.PutAsync(second!, isDirty: false).WaitAsync(Patience);
        Assert.False(waiting.IsCompleted);
        await daemon.Client.Pinning.ResumePinsAsync(new ResumePinsRequest { Machine = rig.MachineName });
        (errno, var first) = await waiting.WaitAsync(Patience);
        Assert.Equal((Errno.None, 1UL), (errno, first!.Count));
        await rig.Kernel.PutAsync(first, isDirty: false);
    }

    [Fact]
    public async Task What_is_replaced_is_put_before_the_pin_and_dirty_and_unmapped()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.18");
        rig.Lab.Anon(At, 4);
        var (_, old) = await rig.Kernel.GetVaddrFramesAsync(rig.SpaceName, At, 4, isWrite: true, isForce: false);
        var frames = rig.Frames(At, 4);
        Assert.True(rig.Machine.Munmap(rig.Lab.Space, At, 4 * Tests.Support.Lab.Page).IsOk);
        rig.Lab.Anon(2 * At, 1);
        var free = rig.Machine.Statistics().FreeFrames;
        var (errno, fresh) = await rig.Kernel.GetVaddrFramesAsync(
            rig.SpaceName, 2 * At, 1, isWrite: true, isForce: false, new PutFrames(old!, IsDirty: true));
        Assert.Equal((Errno.None, 1), (errno, rig.Vectors));
        // Nobody has them any more: the hold of this process went with the put.
        Assert.All(frames, pfn => Assert.Equal(0, rig.Machine.ViewPage(pfn).RefCount));
        Assert.Equal(free + 4, rig.Machine.Statistics().FreeFrames);
        // A pin that is refused has put what it replaces all the same.
        (errno, var none) = await rig.Kernel.GetVaddrFramesAsync(
            rig.SpaceName, 8 * At, 1, isWrite: true, isForce: false, new PutFrames(fresh!, IsDirty: false));
        Assert.Equal((Errno.EFAULT, 0), (errno, rig.Vectors));
        Assert.Null(none);
    }

    [Fact]
    public async Task A_pin_of_a_driver_belongs_to_the_trace_of_who_asked_for_it()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "6.18");
        rig.Lab.Anon(At, 1);
        using var caller = new Activity("caller").SetIdFormat(ActivityIdFormat.W3C).Start();
        var (_, frames) = await rig.Kernel.GetVaddrFramesAsync(rig.SpaceName, At, 1, isWrite: true, isForce: false);
        var vector = await daemon.Client.Pinning.GetFrameVectorAsync(new GetFrameVectorRequest { Name = frames!.Name });
        Assert.Equal((caller.TraceId.ToHexString(), rig.Kernel.Lease), (vector.TraceId, vector.Lease));
        await rig.Kernel.PutAsync(frames, isDirty: false);
    }

    [Fact]
    public async Task A_stream_that_breaks_between_two_pins_is_opened_anew()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 1);
        using var relay = new SocketRelay(daemon.Endpoint["unix:".Length..]);
        using var client = FramePinClient.Connect($"unix:{relay.Path}");
        await using var kernel = await DriverKernel.OpenAsync(
            client, machine, "test", isLocal: false, TimeSpan.FromMinutes(5));
        for (var i = 0; i < 3; i++)
        {
            var (errno, frames) = await kernel.GetVaddrFramesAsync(
                space, At, 1, isWrite: true, isForce: false).WaitAsync(Patience);
            Assert.Equal((Errno.None, 1UL), (errno, frames!.Count));
            relay.BreakAll();
            await kernel.PutAsync(frames, isDirty: true).WaitAsync(Patience);
            Assert.Equal(0, daemon.MachineOf(machine).Statistics().Vectors);
            relay.BreakAll();
        }
    }

    [Fact]
    public async Task An_answer_that_is_lost_for_good_is_no_later_messages_answer()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 4);
        using var relay = new SocketRelay(daemon.Endpoint["unix:".Length..]);
        using var client = FramePinClient.Connect($"unix:{relay.Path}");
        await using var kernel = await DriverKernel.OpenAsync(
            client, machine, "test", isLocal: false, TimeSpan.FromMinutes(5));
        // The connection may break before the daemon has read the message, by an answer to something else.
        var lost = 0;
        for (var round = 0; round < 50 && lost < 3; round++)
        {
            var (_, first) = await kernel.GetVaddrFramesAsync(
                space, At, 1, isWrite: true, isForce: false).WaitAsync(Patience);
            relay.LosesAnswers = true;
            await Assert.ThrowsAsync<FramePinException>(
                () => kernel.GetVaddrFramesAsync(space, At, 2, isWrite: true, isForce: false).WaitAsync(Patience));
            relay.LosesAnswers = false;
            var (errno, third) = await kernel.GetVaddrFramesAsync(
                space, At, 3, isWrite: true, isForce: false).WaitAsync(Patience);
            Assert.Equal((Errno.None, 3UL), (errno, third!.Count));
            await kernel.PutAsync(first!, isDirty: false).WaitAsync(Patience);
            await kernel.PutAsync(third, isDirty: false).WaitAsync(Patience);
            // A vector whose answer was lost hangs on the lease.
            lost = daemon.MachineOf(machine).Statistics().Vectors;
        }

        Assert.True(lost >= 3, $"{lost} answers were lost in 50 rounds");
        await kernel.DisposeAsync();
        while (daemon.MachineOf(machine).Statistics().Vectors > 0) await Task.Yield();
    }

    [Fact]
    public async Task A_driver_that_ends_gives_up_the_pin_that_waits()
    {
        var (machine, space) = await daemon.CreateParkingAsync(At);
        var kernel = await DriverKernel.OpenAsync(daemon.Client, machine, "test", isLocal: false);
        var waiting = kernel.GetVaddrFramesAsync(space, At, 1, isWrite: true, isForce: false);
        while (daemon.MachineOf(machine).ParkedPins().Count == 0) await Task.Yield();
        await kernel.DisposeAsync().AsTask().WaitAsync(Patience);
        await Task.WhenAny(waiting).WaitAsync(Patience);
        while (daemon.MachineOf(machine).Statistics().Vectors > 0) await Task.Yield();
        Assert.Empty(daemon.MachineOf(machine).ParkedPins());
    }

    private static string ReasonOf(PinOperationResult answer) =>
        answer.Refusal is { } refusal ? FramePinException.From(refusal.ToRpcException()).Reason : "";

    private static async Task<IList<PinOperationResult>> AskAsync(
        AsyncDuplexStreamingCall<PinBatch, PinBatchResult> stream, PinBatch batch)
    {
        await stream.RequestStream.WriteAsync(batch);
        Assert.True(await stream.ResponseStream.MoveNext(CancellationToken.None).WaitAsync(Patience));
        return stream.ResponseStream.Current.Results;
    }
}
