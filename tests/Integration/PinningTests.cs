using FramePin.Client;
using FramePin.V1;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>Pin, unpin and convert over the wire: answers, names, repeats, streams, parked pins.</summary>
public sealed class PinningTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x10_0000;

    private static async Task<FramePinException> Refused<T>(AsyncUnaryCall<T> call)
    {
        var exception = await Assert.ThrowsAsync<RpcException>(async () => await call);
        var refusal = FramePinException.From(exception);
        Assert.NotEqual("", refusal.Reason);
        return refusal;
    }

    [Fact]
    public async Task Pin_convert_and_unpin_keep_the_books()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 8);
        var pin = await daemon.Client.Pinning.PinAsync(
            new PinRequest { AddressSpace = space, Start = At, Pages = 8, Write = true });
        Assert.Equal(8UL, pin.Frames);
        Assert.Equal(FrameKind.Pages, pin.Kind);
        Assert.Equal(8UL, pin.Runs.Counts.Count == 0
            ? (ulong)pin.Runs.FirstPfns.Count
            : pin.Runs.Counts.Aggregate((a, b) => a + b));
        var pages = await daemon.Client.Pinning.GetPagesAsync(new GetPagesRequest { FrameVector = pin.FrameVector });
        Assert.All(pages.Pages, page => Assert.Equal(1025, page.RefCount));
        var pfns = await daemon.Client.Pinning.ConvertAsync(
            new ConvertRequest { FrameVector = pin.FrameVector, To = FrameKind.Pfns });
        Assert.Equal(FrameKind.Pfns, pfns.Kind);
        Assert.Equal(pin.Runs, pfns.Runs);
        var listed = await daemon.Client.Pinning.ListFrameVectorsAsync(
            new ListFrameVectorsRequest { Parent = machine });
        Assert.Equal(pin.FrameVector, Assert.Single(listed.FrameVectors).Name);
        var unpin = await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector });
        Assert.Equal(8UL, unpin.Frames);
        Assert.Equal("FRAME_VECTOR_NOT_FOUND", (await Refused(
            daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector }))).Reason);
        await daemon.DigestAsync(machine);
    }

    [Fact]
    public async Task A_partial_pin_is_ok_with_its_reason_and_all_or_nothing_makes_it_a_refusal()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 2);
        var request = new PinRequest { AddressSpace = space, Start = At, Pages = 4, Write = true };
        var pin = await daemon.Client.Pinning.PinAsync(request);
        Assert.Equal(2UL, pin.Frames);
        Assert.Equal(StopReason.Hole, pin.StopReason);
        await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector });
        request.AllOrNothing = true;
        var refusal = await Refused(daemon.Client.Pinning.PinAsync(request));
        Assert.Equal("PARTIAL_PIN", refusal.Reason);
        Assert.Equal("0x102000", refusal.Metadata["address"]);
        var state = await daemon.Client.Machines.GetMachineAsync(new GetMachineRequest { Name = machine });
        Assert.Equal(state.Statistics.PinsAcquired, state.Statistics.PinsReleased);
    }

    /// <summary>
    /// The fast path takes a present page of a write-only area, which the slow path refuses to read (found by
    /// FuzzTests, seed 1956044090).
    /// </summary>
    [Fact]
    public async Task A_refusal_takes_no_page_where_the_fast_path_would_take_one()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 1);
        var protect = new MprotectCall { Address = At, Length = 4096, Prot = 2 };
        var call = new CallRequest { AddressSpace = space, Call = new MemoryCall { Mprotect = protect } };
        Assert.Equal(0U, (await daemon.Client.AddressSpaces.CallAsync(call)).Errno);
        var request = new PinRequest { AddressSpace = space, Start = At, Pages = 2 };
        var pin = await daemon.Client.Pinning.PinAsync(request);
        Assert.Equal(1UL, pin.Frames);
        await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector });
        var before = daemon.MachineOf(machine).Digest();
        request.AllOrNothing = true;
        Assert.Equal("PARTIAL_PIN", (await Refused(daemon.Client.Pinning.PinAsync(request))).Reason);
        Assert.Equal(before, daemon.MachineOf(machine).Digest());
    }

    [Fact]
    public async Task An_errno_travels_with_its_number_and_name()
    {
        var (_, space) = await daemon.CreateAsync();
        var refusal = await Refused(
            daemon.Client.Pinning.PinAsync(new PinRequest { AddressSpace = space, Start = At, Pages = 1 }));
        Assert.Equal(14, refusal.Errno);
        Assert.Equal("EFAULT", refusal.Reason);
        Assert.Equal("Hole", refusal.Metadata["stop_reason"]);
    }

    [Fact]
    public async Task A_repeat_of_a_request_gets_the_first_answer_and_runs_nothing()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 2);
        var request = new PinRequest { AddressSpace = space, Start = At, Pages = 2, Write = true, RequestId = "r1" };
        var answers = await Task.WhenAll(
            Enumerable.Range(0, 8).Select(_ => daemon.Client.Pinning.PinAsync(request).ResponseAsync));
        Assert.All(answers, answer => Assert.Equal(answers[0], answer));
        var listed = await daemon.Client.Pinning.ListFrameVectorsAsync(
            new ListFrameVectorsRequest { Parent = machine });
        Assert.Single(listed.FrameVectors);
        request.Pages = 1;
        Assert.Equal("REQUEST_ID_REUSED", (await Refused(daemon.Client.Pinning.PinAsync(request))).Reason);
        var bad = new PinRequest { AddressSpace = space, Start = 0x900_0000, Pages = 1, RequestId = "r2" };
        var first = await Refused(daemon.Client.Pinning.PinAsync(bad));
        await daemon.MapAsync(space, 0x900_0000, 1);
        Assert.Equal(first.Reason, (await Refused(daemon.Client.Pinning.PinAsync(bad))).Reason);
    }

    [Fact]
    public async Task The_stream_works_batches_off_in_order()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 64);
        using var stream = daemon.Client.Pinning.PinStream(cancellationToken: TestContext.Current.CancellationToken);
        var batch = new PinBatch { Sequence = 1, AddressSpace = space };
        for (var i = 0UL; i < 64; i++)
            batch.Operations.Add(
                new PinOperation
                {
                    Pin = new PinRange
                    {
                        Start = At + (i * 4096),
                        Pages = 1,
                        Write = true,
                        WithFrames = true
                    }
                });
        batch.Operations.Add(new PinOperation { Pin = new PinRange { Start = 0x900_0000, Pages = 1 } });
        await stream.RequestStream.WriteAsync(batch);
        Assert.True(await stream.ResponseStream.MoveNext(TestContext.Current.CancellationToken));
        var result = stream.ResponseStream.Current;
        Assert.Equal(65, result.Results.Count);
        Assert.Equal(14u, result.Results[64].Errno);
        var second = new PinBatch { Sequence = 2, AddressSpace = space };
        foreach (var pinned in result.Results.Take(64))
        {
            second.Operations.Add(
                new PinOperation
                {
                    Convert = new ConvertVector
                    {
                        FrameVector = pinned.FrameVector,
                        To = FrameKind.Pfns
                    }
                });
            second.Operations.Add(new PinOperation { Unpin = pinned.FrameVector });
        }

        await stream.RequestStream.WriteAsync(second);
        Assert.True(await stream.ResponseStream.MoveNext(TestContext.Current.CancellationToken));
        Assert.All(stream.ResponseStream.Current.Results, answer => Assert.Equal(0u, answer.Errno));
        await stream.RequestStream.CompleteAsync();
        Assert.False(await stream.ResponseStream.MoveNext(TestContext.Current.CancellationToken));
        await daemon.DigestAsync(machine);
    }

    [Fact]
    public async Task A_stream_that_broke_is_taken_up_again_and_runs_nothing_twice()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 4);
        PinBatch Batch(ulong sequence, ulong acknowledged) => new()
        {
            Sequence = sequence,
            Session = machine,
            AddressSpace = space,
            Acknowledged = acknowledged,
            Operations = { new PinOperation { Pin = new PinRange { Start = At, Pages = 4, Write = true } } },
        };
        async Task<PinBatchResult> Send(AsyncDuplexStreamingCall<PinBatch, PinBatchResult> stream, PinBatch batch)
        {
            await stream.RequestStream.WriteAsync(batch);
            Assert.True(await stream.ResponseStream.MoveNext(TestContext.Current.CancellationToken));
            return stream.ResponseStream.Current;
        }

        PinBatchResult first;
        using (var stream = daemon.Client.Pinning.PinStream()) first = await Send(stream, Batch(1, 0));
        using var again = daemon.Client.Pinning.PinStream();
        Assert.Equal(first, await Send(again, Batch(1, 0)));
        var second = await Send(again, Batch(2, 1));
        Assert.NotEqual(first.Results[0].FrameVector, second.Results[0].FrameVector);
        var listed = await daemon.Client.Pinning.ListFrameVectorsAsync(
            new ListFrameVectorsRequest { Parent = machine });
        Assert.Equal(2, listed.FrameVectors.Count);
        // Acknowledged answers are forgotten, and a gap in the count is no message of this session.
        await again.RequestStream.WriteAsync(Batch(1, 1));
        await Assert.ThrowsAsync<RpcException>(
            () => again.ResponseStream.MoveNext(TestContext.Current.CancellationToken));
        using var gap = daemon.Client.Pinning.PinStream();
        await gap.RequestStream.WriteAsync(Batch(9, 1));
        await Assert.ThrowsAsync<RpcException>(
            () => gap.ResponseStream.MoveNext(TestContext.Current.CancellationToken));
    }

    [Fact]
    public async Task A_parked_pin_waits_for_its_resume_and_a_cancelled_one_is_undone()
    {
        var (machine, space) = await daemon.CreateAsync();
        var map = new MemoryCall { Mmap = new MmapCall { Address = At, Length = 0x4000, Prot = 3, Flags = 0x32 } };
        await daemon.Client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space, Call = map });
        var rules = new AddFaultRulesRequest { Machine = machine };
        rules.Rules.Add(new FaultRule { Point = ChoicePoint.Fault, Action = FaultAction.Park, Times = 2 });
        await daemon.Client.Machines.AddFaultRulesAsync(rules);
        var request = new PinRequest { AddressSpace = space, Start = At, Pages = 4, Write = true };
        var waiting = daemon.Client.Pinning.PinAsync(request);
        await UntilParked(machine);
        Assert.False(waiting.ResponseAsync.IsCompleted);
        await daemon.Client.Pinning.ResumePinsAsync(new ResumePinsRequest { Machine = machine });
        await UntilParked(machine);
        await daemon.Client.Pinning.ResumePinsAsync(new ResumePinsRequest { Machine = machine });
        var pin = await waiting;
        Assert.Equal(4UL, pin.Frames);
        Assert.Equal(2u, pin.Retries);
        await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector });

        var unmap = new MemoryCall { Madvise = new MadviseCall { Address = At, Length = 0x4000, Advice = 4 } };
        await daemon.Client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space, Call = unmap });
        rules.Rules[0].Times = 1;
        await daemon.Client.Machines.AddFaultRulesAsync(rules);
        using var giveUp = new CancellationTokenSource();
        var cancelled = daemon.Client.Pinning.PinAsync(request, cancellationToken: giveUp.Token);
        await UntilParked(machine);
        await giveUp.CancelAsync();
        await Assert.ThrowsAsync<RpcException>(async () => await cancelled);
        while (daemon.MachineOf(machine).ParkedPins().Count > 0) await Task.Yield();
        while ((await daemon.Client.Pinning.ListFrameVectorsAsync(
            new ListFrameVectorsRequest { Parent = machine })).FrameVectors.Count > 0)
            await Task.Yield();
        var state = await daemon.Client.Machines.GetMachineAsync(new GetMachineRequest { Name = machine });
        Assert.Equal(state.Statistics.PinsAcquired, state.Statistics.PinsReleased);
    }

    [Fact]
    public async Task Swap_and_soft_dirty_are_seen_over_the_wire_and_a_pin_brings_memory_back()
    {
        const ulong swapped = 1UL << 62, softDirty = 1UL << 55;
        var spec = new MachineSpec
        {
            Profile = "6.18",
            MemoryBytes = 64UL << 20,
            SwapBytes = 1UL << 20,
            TracksSoftDirty = true,
            Thp = ThpMode.Madvise
        };
        var machine = await daemon.Client.Machines.CreateMachineAsync(new CreateMachineRequest { Spec = spec });
        // The answer holds the defaults of the fields that were left out.
        spec.QuarantineBytesMax = 256UL << 20;
        spec.QuarantinePolicy = QuarantinePolicy.Fence;
        spec.PageTableLevels = 4;
        Assert.Equal(spec, machine.Spec);
        var space = (await daemon.Client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest { Parent = machine.Name })).Name;
        await daemon.MapAsync(space, At, 8);
        var calls = new CallBatchRequest { AddressSpace = space };
        calls.Calls.Add(new MemoryCall { ClearRefs = new ClearRefsCall { Value = 4 } });
        calls.Calls.Add(new MemoryCall { Madvise = new MadviseCall { Address = At, Length = 8 * 4096, Advice = 21 } });
        Assert.All(
            (await daemon.Client.AddressSpaces.CallBatchAsync(calls)).Results,
            result => Assert.Equal((0U, 0U), (result.Errno, result.Signal)));
        var maps = await daemon.Client.AddressSpaces.GetMapsAsync(
            new GetMapsRequest { AddressSpace = space, WithUsage = true });
        Assert.Equal(8UL * 4096, Assert.Single(maps.Entries, entry => entry.Start == At).Swap);
        var pin = await daemon.Client.Pinning.PinAsync(
            new PinRequest { AddressSpace = space, Start = At, Pages = 4, Write = true });
        Assert.Equal(4UL, pin.Frames);
        var entries = (await daemon.Client.AddressSpaces.GetPagemapAsync(
            new GetPagemapRequest { AddressSpace = space, Start = At, Pages = 8 })).Entries;
        Assert.All(entries.Take(4), entry => Assert.Equal(softDirty, entry & (swapped | softDirty)));
        Assert.All(entries.Skip(4), entry => Assert.Equal(swapped, entry & (swapped | softDirty)));
        await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector });
        var other = new CallRequest
        {
            AddressSpace = space,
            Call = new MemoryCall { ClearRefs = new ClearRefsCall { Value = 1 } }
        };
        Assert.Equal("BAD_FIELD", (await Refused(daemon.Client.AddressSpaces.CallAsync(other))).Reason);
        await daemon.DigestAsync(machine.Name);
    }

    [Fact]
    public async Task Bytes_go_through_the_address_space_and_through_the_frames()
    {
        var (_, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 64);
        var memory = new RemoteFrameMemory(daemon.Client);
        var bytes = new byte[200_000];
        new Random(1).NextBytes(bytes);
        await memory.WriteAsync(space, At + 100, bytes);
        var pin = await daemon.Client.Pinning.PinAsync(
            new PinRequest { AddressSpace = space, Start = At, Pages = 64, Write = true });
        var seen = new byte[bytes.Length];
        Assert.Equal(bytes.Length, await memory.ReadAsync(pin.FrameVector, 100, seen));
        Assert.Equal(bytes, seen);
        await memory.WriteAsync(pin.FrameVector, 0, new byte[] { 1, 2, 3 });
        await memory.ReadAsync(space, At, seen.AsMemory(0, 3));
        Assert.Equal([1, 2, 3], seen[..3]);
        await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector });
    }

    private async Task UntilParked(string machine)
    {
        // The pin parks on the daemon's side: ask until it has, bounded by the test's own time.
        while (daemon.MachineOf(machine).ParkedPins().Count == 0)
        {
            TestContext.Current.CancellationToken.ThrowIfCancellationRequested();
            await Task.Yield();
        }
    }
}
