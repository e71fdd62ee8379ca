using FramePin.Client;
using FramePin.Drivers;
using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;
using Xunit;
using static FramePin.Tests.Integration.FaultRig;

namespace FramePin.Tests.Integration;

/// <summary>
/// Faults that a process outside handles: whoever faults waits without the lock, and sees what happened meanwhile
/// (Semantics 3.5).
/// </summary>
public sealed class FaultTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const uint Sigbus = 7;
    private const uint Sigkill = 9;

    private FramePinClient Client => daemon.Client;

    [Fact]
    public async Task A_pin_waits_for_the_page_that_the_handler_gives_and_others_go_on_meanwhile()
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        var pin = rig.PinAsync(At, 2);
        var fault = await rig.NextAsync();
        Assert.Equal((rig.Space, At, 0UL, true), (fault.AddressSpace, fault.Address, fault.Page, fault.Write));
        // The lock is free: another call changes the same address space.
        await rig.CallAsync(
            new MemoryCall
            {
                Mmap = new MmapCall
                {
                    Address = At + (64 * PageSize),
                    Length = PageSize,
                    Prot = 3,
                    Flags = 0x32
                }
            });
        Assert.False(pin.IsCompleted);
        await rig.AnswerAsync(fault, FaultAnswerKind.Page, page: 5);
        fault = await rig.NextAsync();
        Assert.Equal(At + PageSize, fault.Address);
        await rig.AnswerAsync(fault, FaultAnswerKind.Page, page: 6);
        var pinned = await pin.WaitAsync(Patience);
        Assert.Equal(2UL, pinned.Frames);
        Assert.Equal(2U, pinned.Retries);
        Assert.Equal((rig.FirstPfn + 5, 2UL), (pinned.Runs.FirstPfns[0], pinned.Runs.Counts[0]));
        await rig.UnpinAsync(pin);
    }

    [Theory]
    [InlineData(FaultAnswerKind.Sigbus, 14)]
    [InlineData(FaultAnswerKind.Oom, 12)]
    [InlineData(FaultAnswerKind.Hwpoison, 14)]
    public async Task A_pin_ends_with_the_errno_of_the_handlers_answer(FaultAnswerKind answer, int errno)
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        var pin = rig.PinAsync(At, 1);
        await rig.AnswerAsync(await rig.NextAsync(), answer);
        Assert.Equal(errno, await ErrnoAsync(pin));
    }

    [Theory]
    [InlineData(FaultAnswerKind.Sigbus, Sigbus)]
    [InlineData(FaultAnswerKind.Hwpoison, Sigbus)]
    [InlineData(FaultAnswerKind.Oom, Sigkill)]
    public async Task A_touch_ends_with_the_signal_of_the_handlers_answer(FaultAnswerKind answer, uint signal)
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        var touch = rig.TouchAsync(At, 2);
        await rig.AnswerAsync(await rig.NextAsync(), FaultAnswerKind.Page, page: 1);
        await rig.AnswerAsync(await rig.NextAsync(), answer);
        var result = await touch.WaitAsync(Patience);
        Assert.Equal((1UL, signal), (result.Value, result.Signal));
    }

    [Fact]
    public async Task Retry_asks_the_handler_anew()
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        var pin = rig.PinAsync(At, 1);
        var first = await rig.NextAsync();
        await rig.AnswerAsync(first, FaultAnswerKind.Retry);
        var second = await rig.NextAsync();
        Assert.NotEqual(first.Fault, second.Fault);
        Assert.Equal(first.Address, second.Address);
        await rig.AnswerAsync(second, FaultAnswerKind.Page);
        await rig.UnpinAsync(pin);
    }

    [Fact]
    public async Task A_range_that_is_unmapped_while_the_pin_waits_is_gone_for_it()
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        var pin = rig.PinAsync(At, 1);
        var fault = await rig.NextAsync();
        await rig.CallAsync(
            new MemoryCall { Munmap = new MunmapCall { Address = At, Length = DevicePages * PageSize } });
        await rig.AnswerAsync(fault, FaultAnswerKind.Page);
        Assert.Equal(14, await ErrnoAsync(pin));
        Assert.Empty(
            (await Client.Machines.AuditMachineAsync(new AuditMachineRequest { Name = rig.Machine })).Findings);
    }

    [Fact]
    public async Task Memory_that_is_mapped_there_instead_while_the_pin_waits_is_what_it_gets()
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        var pin = rig.PinAsync(At, 1);
        var fault = await rig.NextAsync();
        await rig.CallAsync(
            new MemoryCall
            {
                Mmap = new MmapCall
                {
                    Address = At,
                    Length = DevicePages * PageSize,
                    Prot = 3,
                    Flags = 0x32
                }
            });
        await rig.AnswerAsync(fault, FaultAnswerKind.Page);
        var pinned = await pin.WaitAsync(Patience);
        Assert.False(pinned.Runs.FirstPfns[0] >= rig.FirstPfn && pinned.Runs.FirstPfns[0] < rig.FirstPfn + DevicePages);
        await rig.UnpinAsync(pin);
    }

    [Fact]
    public async Task The_exit_of_the_address_space_ends_the_wait()
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        var (pin, touch) = (rig.PinAsync(At, 1), rig.TouchAsync(At + PageSize, 1));
        var fault = await rig.NextAsync();
        await rig.NextAsync();
        await Client.AddressSpaces.ExitAddressSpaceAsync(new ExitAddressSpaceRequest { Name = rig.Space });
        Assert.Equal(14, await ErrnoAsync(pin));
        Assert.NotEqual(0U, (await touch.WaitAsync(Patience)).Signal);
        // The answer comes too late for anybody.
        await rig.AnswerAsync(fault, FaultAnswerKind.Page);
        Assert.Equal((uint)Errno.ENOENT, (await rig.NextAsync()).Errno);
    }

    [Fact]
    public async Task A_handler_that_goes_leaves_a_sigbus()
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        var (pin, touch) = (rig.PinAsync(At, 1), rig.TouchAsync(At + PageSize, 1));
        await rig.NextAsync();
        await rig.NextAsync();
        await rig.EndHandlerAsync();
        Assert.Equal(14, await ErrnoAsync(pin));
        Assert.Equal(Sigbus, (await touch.WaitAsync(Patience)).Signal);
        Assert.Equal(Sigbus, (await rig.TouchAsync(At, 1).WaitAsync(Patience)).Signal);
        // Another one may serve the device now.
        await rig.ServeAsync();
        touch = rig.TouchAsync(At, 1);
        await rig.AnswerAsync(await rig.NextAsync(), FaultAnswerKind.Page);
        Assert.Equal(0U, (await touch.WaitAsync(Patience)).Signal);
    }

    [Fact]
    public async Task An_answer_that_the_device_does_not_know_is_refused_and_the_fault_waits_on()
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        var touch = rig.TouchAsync(At, 1);
        var fault = await rig.NextAsync();
        foreach (var (kind, page) in new[] { (FaultAnswerKind.InsertPfn, 0UL),
            (FaultAnswerKind.Page, (ulong)DevicePages), (FaultAnswerKind.Copy, 0UL),
            (FaultAnswerKind.Unspecified, 0UL) })
        {
            await rig.AnswerAsync(fault, kind, page);
            var refused = await rig.NextAsync();
            Assert.Equal((fault.Fault, (uint)Errno.EINVAL), (refused.Fault, refused.Errno));
        }

        Assert.False(touch.IsCompleted);
        await rig.AnswerAsync(fault, FaultAnswerKind.Page, DevicePages - 1);
        Assert.Equal(0U, (await touch.WaitAsync(Patience)).Signal);
    }

    [Fact]
    public async Task Inserted_pfns_show_the_devices_bytes_and_are_refused_to_pins_without_a_question()
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPfns);
        // check_vma_flags: VM_PFNMAP, before any fault.
        Assert.Equal(14, await ErrnoAsync(rig.PinAsync(At, 1)));
        var export = await Client.Devices.ExportDeviceAsync(new ExportDeviceRequest { Name = rig.Device });
        var remote = new RemoteFrameMemory(Client);
        await remote.WriteAsync(export.FrameVector, 3 * PageSize, new byte[] { 0x5a });
        var bytes = new byte[1];
        var read = remote.ReadAsync(rig.Space, At, bytes);
        await rig.AnswerAsync(await rig.NextAsync(), FaultAnswerKind.InsertPfn, page: 3);
        Assert.Equal(1, await read.WaitAsync(Patience));
        Assert.Equal(0x5a, bytes[0]);
    }

    [Fact]
    public async Task A_device_has_one_handler_and_only_the_served_kinds_have_any()
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        using var second = Client.Faults.ServeFaults();
        await second.RequestStream.WriteAsync(
            new FaultReply { Register = new RegisterFaultHandler { Device = rig.Device } });
        var taken = await Assert.ThrowsAsync<RpcException>(() => second.ResponseStream.MoveNext(default));
        Assert.Equal(StatusCode.AlreadyExists, taken.StatusCode);
        var plain = await Client.Devices.CreateDeviceAsync(
            new CreateDeviceRequest
            {
                Parent = rig.Machine,
                Mapping = DeviceMapping.FaultPages,
                Pages = 1,
                Ram = true
            });
        using var third = Client.Faults.ServeFaults();
        await third.RequestStream.WriteAsync(
            new FaultReply { Register = new RegisterFaultHandler { Device = plain.Name } });
        var bad = await Assert.ThrowsAsync<RpcException>(() => third.ResponseStream.MoveNext(default));
        Assert.Equal(StatusCode.InvalidArgument, bad.StatusCode);
    }

    [Fact]
    public async Task A_private_mapping_gets_a_copy_of_the_page_that_the_handler_gives()
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages, isPrivate: true);
        var pin = rig.PinAsync(At, 1);
        await rig.AnswerAsync(await rig.NextAsync(), FaultAnswerKind.Page, page: 2);
        Assert.NotEqual(rig.FirstPfn + 2, (await pin.WaitAsync(Patience)).Runs.FirstPfns[0]);
        await rig.UnpinAsync(pin);
    }

    [Theory]
    [InlineData(0x22U)]
    [InlineData(0x21U)]
    public async Task Missing_pages_of_a_range_come_from_its_handler(uint flags)
    {
        const int pages = 40;
        await using var rig = await FaultRig.CreateAsync(daemon);
        await rig.CallAsync(
            new MemoryCall
            {
                Mmap = new MmapCall
                {
                    Address = At,
                    Length = pages * PageSize,
                    Prot = 3,
                    Flags = flags | 0x10
                }
            });
        using var stop = new CancellationTokenSource();
        var registered = new TaskCompletionSource();
        var asked = 0;
        var serving = FaultServer.RunAsync(
            Client, new RegisterFaultHandler { AddressSpace = rig.Space, Start = At, Length = pages * PageSize },
            fault =>
            {
                Interlocked.Increment(ref asked);
                var number = (fault.Address - At) / PageSize;
                var answer = number % 3 == 0
                    ? new FaultAnswer { Kind = FaultAnswerKind.ZeroPage }
                    : new FaultAnswer
                    {
                        Kind = FaultAnswerKind.Copy,
                        Data = ByteString.CopyFrom(Enumerable.Repeat((byte)number, (int)PageSize).ToArray())
                    };
                return ValueTask.FromResult(answer);
            },
            registered.SetResult, stop.Token);
        await registered.Task.WaitAsync(Patience);
        // Half by loads, half by a pin.
        var bytes = new byte[pages / 2 * PageSize];
        Assert.Equal(bytes.Length, await new RemoteFrameMemory(Client).ReadAsync(rig.Space, At, bytes));
        var pinned = await rig.PinAsync(At + (pages / 2 * PageSize), pages / 2).WaitAsync(Patience);
        Assert.Equal((ulong)pages / 2, pinned.Frames);
        var rest = new byte[pages / 2 * PageSize];
        await new RemoteFrameMemory(Client).ReadAsync(pinned.FrameVector, 0, rest);
        foreach (var (page, first) in bytes.Concat(rest).Chunk((int)PageSize).Select((chunk, i) => (i, chunk)))
            Assert.All(first, value => Assert.Equal(page % 3 == 0 ? 0 : page, value));
        Assert.Equal(pages, asked);
        await stop.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => serving);
        await Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pinned.FrameVector });
    }

    [Fact]
    public async Task Who_waits_in_a_range_goes_on_with_ordinary_memory_when_its_handler_goes()
    {
        await using var rig = await FaultRig.CreateAsync(daemon);
        await rig.CallAsync(
            new MemoryCall { Mmap = new MmapCall { Address = At, Length = 4 * PageSize, Prot = 3, Flags = 0x32 } });
        await rig.ServeAsync(new RegisterFaultHandler { AddressSpace = rig.Space, Start = At, Length = 4 * PageSize });
        var (pin, touch) = (rig.PinAsync(At, 1), rig.TouchAsync(At + PageSize, 1));
        var first = await rig.NextAsync();
        await rig.NextAsync();
        // UFFDIO_WAKE alone: still missing, and asked about anew.
        await rig.AnswerAsync(first, FaultAnswerKind.Wake);
        Assert.Equal(first.Address, (await rig.NextAsync()).Address);
        Assert.False(pin.IsCompleted);
        await rig.EndHandlerAsync();
        await rig.UnpinAsync(pin);
        Assert.Equal(0U, (await touch.WaitAsync(Patience)).Signal);
        Assert.Equal(0U, (await rig.TouchAsync(At + (2 * PageSize), 1).WaitAsync(Patience)).Signal);
    }

    [Fact]
    public async Task A_machine_that_is_deleted_ends_its_handlers_and_who_waits_for_them()
    {
        var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        var (pin, touch) = (rig.PinAsync(At, 1), rig.TouchAsync(At + PageSize, 1));
        await rig.NextAsync();
        await rig.NextAsync();
        await Client.Machines.DeleteMachineAsync(new DeleteMachineRequest { Name = rig.Machine });
        await Assert.ThrowsAsync<RpcException>(() => pin.WaitAsync(Patience));
        await Assert.ThrowsAsync<RpcException>(() => touch.WaitAsync(Patience));
        var ended = await Assert.ThrowsAsync<RpcException>(() => rig.NextAsync());
        Assert.Equal(StatusCode.NotFound, ended.StatusCode);
    }

    [Fact]
    public async Task A_call_that_is_given_up_while_it_waits_leaves_nothing_behind()
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        using var signal = new CancellationTokenSource();
        var request = new PinRequest { AddressSpace = rig.Space, Start = At, Pages = 3, Write = true };
        var pin = Client.Pinning.PinAsync(request, cancellationToken: signal.Token).ResponseAsync;
        await rig.AnswerAsync(await rig.NextAsync(), FaultAnswerKind.Page);
        var second = await rig.NextAsync();
        await signal.CancelAsync();
        await Assert.ThrowsAsync<RpcException>(() => pin.WaitAsync(Patience));
        // The page that it had is given back as soon as the daemon has noticed.
        while ((await Client.Machines.GetMachineAsync(
            new GetMachineRequest { Name = rig.Machine })).Statistics is { } now
            && (now.PinsAcquired != now.PinsReleased || now.ParkedPins > 0)) await Task.Yield();
        // The late answer is there for whoever comes next.
        await rig.AnswerAsync(second, FaultAnswerKind.Page, page: 4);
        var touch = await rig.TouchAsync(At + PageSize, 1).WaitAsync(Patience);
        Assert.Equal(0U, touch.Signal);
    }

    [Fact]
    public async Task A_handler_ends_with_its_lease()
    {
        await using var rig = await FaultRig.CreateAsync(daemon, DeviceMapping.ServedPages);
        await rig.EndHandlerAsync();
        await using var lease = await FramePinLease.OpenAsync(Client, rig.Machine, "handler");
        await rig.ServeAsync(new RegisterFaultHandler { Device = rig.Device, Lease = lease.Name });
        var touch = rig.TouchAsync(At, 1);
        await rig.NextAsync();
        await lease.DisposeAsync();
        Assert.Equal(Sigbus, (await touch.WaitAsync(Patience)).Signal);
    }

    private static async Task<int> ErrnoAsync(Task<PinResponse> pin) =>
        FramePinException.From(await Assert.ThrowsAsync<RpcException>(() => pin.WaitAsync(Patience))).Errno;
}
