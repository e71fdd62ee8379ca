using System.Collections.Concurrent;
using System.Diagnostics;
using System.Diagnostics.Metrics;
using FramePin.Client;
using FramePin.Core.Abi;
using FramePin.Core.Machines;
using FramePin.Server;
using FramePin.Server.Configuration;
using FramePin.Server.Machines;
using FramePin.Server.Telemetry;
using FramePin.V1;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.DependencyInjection;
using Xunit;
using PinRange = FramePin.V1.PinRange;

namespace FramePin.Tests.Integration;

/// <summary>
/// The five ways to pin are one transaction: they count and tag alike, and a step that fails leaves nothing behind,
/// whichever way and whichever step it was.
/// </summary>
public abstract partial class PinTransactionTests
{
    public static TheoryData<string> Ways => ["Pin", "Gup", "GetVaddrFrames", "PinStream", "ExportDevice"];

    /// <summary>The ways that the kernel can refuse. A device's pages it never does.</summary>
    public static TheoryData<string> RefusableWays => ["Pin", "Gup", "GetVaddrFrames", "PinStream"];

    [Theory]
    [MemberData(nameof(Ways))]
    public async Task Every_way_to_pin_counts_its_pages_and_tags_its_span(string way)
    {
        var vector = await PinAsync(way, At);
        Assert.Equal(Pages, (ulong)_counts.GetValueOrDefault(TelemetryNames.PagesPinned));
        var span = Assert.Single(
            _spans, span => Equals(span.GetTagItem(TelemetryNames.FrameVector), NumberOf(vector)));
        string[] names =
        [
            TelemetryNames.Machine, TelemetryNames.Profile, TelemetryNames.PagesRequested, TelemetryNames.PagesPinned,
            TelemetryNames.Runs, TelemetryNames.FrameKind, TelemetryNames.StopReason, TelemetryNames.Errno,
            TelemetryNames.Retries, TelemetryNames.Epoch,
        ];
        Assert.All(names, name => Assert.NotNull(span.GetTagItem(name)));
        Assert.Equal(("default", (long)Pages, (long)Pages, "None"),
            (span.GetTagItem(TelemetryNames.Machine), span.GetTagItem(TelemetryNames.PagesRequested),
                span.GetTagItem(TelemetryNames.PagesPinned), span.GetTagItem(TelemetryNames.Errno)));
        // A device's pages belong to no address space.
        Assert.Equal(way == "ExportDevice", span.GetTagItem(TelemetryNames.AddressSpace) is null);
        Assert.Equal(way == "PinStream" ? Traceparent.Split('-')[1] : span.TraceId.ToHexString(),
            (await GetAsync(vector)).TraceId);
        await _client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = vector });
        Assert.Equal(Pages, (ulong)_counts.GetValueOrDefault(TelemetryNames.PagesReleased));
    }

    [Theory]
    [MemberData(nameof(RefusableWays))]
    public async Task Every_way_to_pin_counts_a_refusal_by_the_kernel(string way)
    {
        await Assert.ThrowsAsync<RpcException>(() => PinAsync(way, 0x7000_0000));
        Assert.Equal(1, _counts.GetValueOrDefault(TelemetryNames.PinsRefused));
        Assert.Equal(0, _counts.GetValueOrDefault(TelemetryNames.PagesPinned));
        await AssertNothingIsLeftAsync(way);
    }

    [Fact]
    public async Task A_batch_that_is_refused_as_a_whole_keeps_no_pin_and_counts_all_that_it_gave_back()
    {
        var pin = new PinOperation { Pin = new PinRange { Start = At, Pages = Pages, Write = true } };
        using var stream = _client.Pinning.PinStream();
        await stream.RequestStream.WriteAsync(
            new PinBatch
            {
                Sequence = 1,
                AddressSpace = _space,
                Operations = { pin, new PinOperation { Unpin = 1 }, pin, new PinOperation() },
            });
        await Assert.ThrowsAsync<RpcException>(() => stream.ResponseStream.MoveNext(default));
        var statistics = (await _client.Machines.GetMachineAsync(new GetMachineRequest())).Statistics;
        Assert.Equal(0U, statistics.FrameVectors);
        Assert.Equal((2 * Pages, 2 * Pages), Counted);
    }

    [Fact]
    public async Task A_batch_that_breaks_off_by_a_fault_of_the_daemon_keeps_no_pin()
    {
        var creations = 0;
        void FailTheSecond()
        {
            if (++creations == 2) throw new InvalidOperationException("planted");
        }

        _script.Before = (PinStep.Create, FailTheSecond);
        var pin = new PinOperation { Pin = new PinRange { Start = At, Pages = Pages, Write = true } };
        using var stream = _client.Pinning.PinStream();
        await stream.RequestStream.WriteAsync(
            new PinBatch { Sequence = 1, AddressSpace = _space, Operations = { pin, pin } });
        var refusal = await Assert.ThrowsAsync<RpcException>(() => stream.ResponseStream.MoveNext(default));
        Assert.Equal(StatusCode.Internal, refusal.StatusCode);
        Assert.Equal((Pages, Pages), Counted);
        await AssertNothingIsLeftAsync("PinStream");
    }

    [Fact]
    public async Task A_session_in_use_is_remembered_before_one_that_is_not()
    {
        PinBatchResult second;
        using (var first = _client.Pinning.PinStream())
        {
            await SendAsync(first, "a", 1);
            // As many as are remembered. The first stream uses its session between them.
            var others = new DaemonLimits().StreamSessionsMax;
            for (var i = 0; i < others; i++)
            {
                if (i == others / 2) await SendAsync(first, "a", 2);
                using var other = _client.Pinning.PinStream();
                await SendAsync(other, $"b{i}", 1);
            }

            second = await SendAsync(first, "a", 3);
        }

        using var again = _client.Pinning.PinStream();
        Assert.Equal(second, await SendAsync(again, "a", 3));
    }

    [Fact]
    public async Task No_way_to_unpin_gives_back_a_hold_of_another_machine()
    {
        var machine = await _client.Machines.CreateMachineAsync(new CreateMachineRequest { MachineId = "other" });
        var space = (await _client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest { Parent = machine.Name })).Name;
        var map = new MmapCall { Address = At, Length = Pages * 4096, Prot = 3, Flags = 0x32 };
        await _client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = space, Call = new MemoryCall { Mmap = map } });
        using var local = await LocalMachine.AttachAsync(_client, machine.Name);
        var pinned = await _client.Pinning.PinAsync(new PinRequest
        {
            AddressSpace = space,
            Start = At,
            Pages = Pages,
            Write = true,
            Attachment = local.Name,
        });
        await _client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pinned.FrameVector });
        var unmap = new MemoryCall { Munmap = new MunmapCall { Address = At, Length = Pages * 4096 } };
        await _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space, Call = unmap });

        var unpin = new UnpinRequest
        {
            FrameVector = "machines/default/frameVectors/999",
            Attachment = local.Name,
            Hold = pinned.Hold,
        };
        var refusal = await Assert.ThrowsAsync<RpcException>(async () => await _client.Pinning.UnpinAsync(unpin));
        Assert.Equal(StatusCode.InvalidArgument, refusal.StatusCode);
        var operation = new UnpinVector { FrameVector = 999, Hold = pinned.Hold };
        using var stream = _client.Pinning.PinStream();
        await stream.RequestStream.WriteAsync(new PinBatch
        {
            Sequence = 1,
            AddressSpace = _space,
            Attachment = local.Name,
            Operations = { new PinOperation { UnpinVector = operation } },
        });
        Assert.True(await stream.ResponseStream.MoveNext(default));
        var answer = Assert.Single(stream.ResponseStream.Current.Results);
        Assert.Equal((int)StatusCode.InvalidArgument, answer.Refusal.Code);
        var statistics = (await _client.Machines.GetMachineAsync(
            new GetMachineRequest { Name = machine.Name })).Statistics;
        Assert.Equal(Pages, statistics.QuarantinedFrames);
    }

    [Fact]
    public async Task A_get_of_no_pages_leaves_the_origin_of_the_frames()
    {
        var vector = await CreateAndGetAsync(At, "");
        var before = await GetAsync(vector);
        await _client.Pinning.GetVaddrFramesAsync(
            new GetVaddrFramesRequest { FrameVector = vector, AddressSpace = _space, Start = 0xdead_0000 });
        Assert.Equal(before, await GetAsync(vector));
    }

    [Fact]
    public async Task A_get_of_no_pages_whose_lease_ends_counts_the_frames_that_it_gives_back()
    {
        var lease = await _client.Leases.OpenLeaseAsync(new OpenLeaseRequest { Owner = "test" });
        var vector = await CreateAndGetAsync(At, lease.Name);
        var close = new CloseLeaseRequest { Name = lease.Name };
        _script.Before = (PinStep.Fill, () => _client.Leases.CloseLease(close));
        var get = new GetVaddrFramesRequest { FrameVector = vector, AddressSpace = _space, Start = At };
        var refusal = await Assert.ThrowsAsync<RpcException>(
            async () => await _client.Pinning.GetVaddrFramesAsync(get));
        Assert.Equal(StatusCode.NotFound, refusal.StatusCode);
        Assert.Equal((Pages, Pages), Counted);
        await AssertNothingIsLeftAsync("GetVaddrFrames");
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public async Task Every_way_to_pin_counts_what_a_lease_that_ends_at_the_last_step_gives_back(string way)
    {
        var lease = await _client.Leases.OpenLeaseAsync(new OpenLeaseRequest { Owner = "test" });
        var close = new CloseLeaseRequest { Name = lease.Name };
        _script.Before = (PinStep.Done, () => _client.Leases.CloseLease(close));
        await PinAsync(way, At, lease.Name);
        Assert.Equal((Pages, Pages), Counted);
        if (_hold != 0)
            await _client.Memory.UnmapFramesAsync(new UnmapFramesRequest { Attachment = _local.Name, Hold = _hold });
        await AssertNothingIsLeftAsync(way);
    }

    [Fact]
    public async Task V6_a_pin_whose_deadline_passed_while_it_ran_is_given_back()
    {
        var services = _app!.Services;
        var host = services.GetRequiredService<MachineRegistry>().All.Single();
        using (var pin = services.GetRequiredService<PinTransactions>().Begin(null))
        {
            pin.Create(new PinScope(host, null, null), Pages);
            var space = host.Spaces.Get(_space.Split('/')[^1]);
            var range = new FramePin.Server.Machines.PinRange(space, At, Pages, GupFlags.Write, default);
            using var deadline = new CancellationTokenSource();
            // Under the turn, when the walk begins.
            _script.BeforePhase = phase =>
            {
                if (phase is PinPhase.Walk or PinPhase.Fault) deadline.Cancel();
            };
            await Assert.ThrowsAnyAsync<OperationCanceledException>(
                async () => await pin.FillAsync(range, deadline.Token));
            _script.BeforePhase = null;
            Assert.Equal(Pages, (ulong)pin.Record.Vector.Count);
        }

        Assert.Equal((0UL, 0UL), Counted);
        await AssertNothingIsLeftAsync("Pin");
    }

    // V6: of a range that is not there yet, no more is faulted in than until the next look for the deadline.
    [Fact]
    public async Task V6_a_pin_whose_deadline_passes_stops_at_its_next_batch()
    {
        const ulong pages = 8192;
        const ulong batch = 1024;
        const ulong at = 0x4000_0000;
        var map = new MmapCall { Address = at, Length = pages * 4096, Prot = 3, Flags = 0x32 };
        await Call(new MemoryCall { Mmap = map });
        var services = _app!.Services;
        var host = services.GetRequiredService<MachineRegistry>().All.Single();
        var before = host.Machine.Statistics().FreeFrames;
        using (var pin = services.GetRequiredService<PinTransactions>().Begin(null))
        {
            pin.Create(new PinScope(host, null, null), pages);
            var space = host.Spaces.Get(_space.Split('/')[^1]);
            var range = new FramePin.Server.Machines.PinRange(space, at, pages, GupFlags.Write, default);
            using var deadline = new CancellationTokenSource();
            _script.BeforePhase = phase =>
            {
                if (phase is PinPhase.Walk or PinPhase.Fault) deadline.Cancel();
            };
            await Assert.ThrowsAnyAsync<OperationCanceledException>(
                async () => await pin.FillAsync(range, deadline.Token));
            _script.BeforePhase = null;
            Assert.Equal(batch, (ulong)pin.Record.Vector.Count);
        }

        // And its page tables.
        Assert.InRange(before - host.Machine.Statistics().FreeFrames, batch, batch + 16);
        Assert.Equal((0UL, 0UL), Counted);
        await Call(new MemoryCall { Munmap = new MunmapCall { Address = at, Length = pages * 4096 } });
        await AssertNothingIsLeftAsync("Pin");
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public async Task Every_way_to_pin_gives_everything_back_when_a_step_fails(string way)
    {
        await PinAndUnpinAsync(way);
        PinStep[] steps = way is "Pin" or "PinStream"
            ? [PinStep.Create, PinStep.Fill, PinStep.Answer, PinStep.Hold, PinStep.Publish, PinStep.Done]
            : [PinStep.Create, PinStep.Fill, PinStep.Answer, PinStep.Publish, PinStep.Done];
        Assert.Equal(steps, _script.Seen);
        foreach (var step in steps)
        {
            var before = _counts.GetValueOrDefault(TelemetryNames.PagesPinned);
            _script.FailAt = step;
            var refusal = await Assert.ThrowsAsync<RpcException>(() => PinAsync(way, At));
            _script.FailAt = null;
            Assert.Equal(StatusCode.DataLoss, refusal.StatusCode);
            Assert.Equal(before, _counts.GetValueOrDefault(TelemetryNames.PagesPinned));
            await AssertNothingIsLeftAsync(way);
            // And the same pin succeeds afterwards.
            await PinAndUnpinAsync(way);
        }

        // A hold that was left behind would keep the frames of the range from the allocator.
        await Call(new MemoryCall { Munmap = new MunmapCall { Address = At, Length = Pages * 4096 } });
        await AssertNothingIsLeftAsync(way);
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public async Task Every_way_to_pin_gives_everything_back_when_its_lease_ends_meanwhile(string way)
    {
        var lease = await _client.Leases.OpenLeaseAsync(new OpenLeaseRequest { Owner = "test" });
        var close = new CloseLeaseRequest { Name = lease.Name };
        _script.Before = (PinStep.Publish, () => _client.Leases.CloseLease(close));
        var refusal = await Assert.ThrowsAsync<RpcException>(() => PinAsync(way, At, lease.Name));
        Assert.Equal(StatusCode.NotFound, refusal.StatusCode);
        Assert.Equal(0, _counts.GetValueOrDefault(TelemetryNames.PagesPinned));
        await AssertNothingIsLeftAsync(way);
    }
}

/// <summary>On a kernel that counts references: a pin waits for the machine's turn.</summary>
public sealed class PinTransactionOn43Tests() : PinTransactionTests("4.3");

/// <summary>On a kernel that counts pins, and with the walk that takes no turn.</summary>
public sealed class PinTransactionOn618Tests() : PinTransactionTests("6.18");
