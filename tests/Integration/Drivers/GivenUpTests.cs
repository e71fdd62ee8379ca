using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.OmapVout;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using Google.Protobuf;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Sisters of D14 and D17: other answers that give something away and that nobody takes, and a fault handler whose
/// process is frozen.
/// </summary>
public sealed class GivenUpTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const uint Picture = 64 * 64 * 2;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    // D14
    [Fact]
    public async Task D14_pictures_of_omap_that_nobody_took_are_done_again_in_their_order()
    {
        await using var rig = await KernelRig.CreateAsync(daemon, "4.3");
        var driver = new OmapVoutDriver(rig.Kernel);
        rig.Lab.Anon(At, 8);
        var (_, file) = await driver.OpenAsync();
        await CallAsync(V4l2.SetFormat, new V4l2Format { Width = 64, Height = 64 });
        await CallAsync(V4l2.RequestBuffers, new V4l2RequestBuffers { Count = 4, Type = 2, Memory = 2 });
        for (var i = 0U; i < 4; i++) await CallAsync(V4l2.QueueBuffer, Buffer(i));
        await CallAsync(V4l2.StreamOn, new V4l2Stream { Type = 2 });
        var taken = new List<IoctlResult>();
        // The last picture stays shown.
        for (var i = 0; i < 3; i++) taken.Add(await TakeAsync());
        foreach (var i in new[] { 1, 0, 2 }) await taken[i].TakeBack!();
        // A second time it does nothing.
        await taken[1].TakeBack!();
        Assert.Equal(Errno.EINVAL, (await CallAsync(V4l2.QueueBuffer, Buffer(0))).Errno);
        for (var i = 0U; i < 3; i++)
        {
            taken[(int)i] = await TakeAsync();
            Assert.Equal(i, ((V4l2Buffer)taken[(int)i].Argument!).Sequence);
        }

        // Queued again, and not before STREAMOFF: the buffers have gone on.
        Assert.Equal(Errno.None, (await CallAsync(V4l2.QueueBuffer, Buffer(0))).Errno);
        await taken[0].TakeBack!();
        Assert.Equal(3U, ((V4l2Buffer)(await TakeAsync()).Argument!).Sequence);
        await CallAsync(V4l2.StreamOff, new V4l2Stream { Type = 2 });
        await taken[1].TakeBack!();
        Assert.Equal(Errno.None, (await CallAsync(V4l2.QueueBuffer, Buffer(1))).Errno);
        await file!.ReleaseAsync();

        Task<IoctlResult> TakeAsync() => CallAsync(V4l2.DequeueBuffer, new V4l2Buffer { Type = 2, Memory = 2 });

        async Task<IoctlResult> CallAsync(string command, IMessage argument) =>
            await file!.IoctlAsync(
                new IoctlContext(command, argument.ToByteString(), rig.SpaceName, IsNonBlocking: false));

        static V4l2Buffer Buffer(uint index) => new()
        {
            Index = index,
            Type = 2,
            Memory = 2,
            Planes = { new V4l2Plane { UserPointer = At + (index * 4096), Length = Picture } },
        };
    }

    // D14: MEDIA_IOC_REQUEST_ALLOC gives a request away.
    [Fact]
    public async Task D14_requests_go_with_their_taker_and_with_their_file()
    {
        const int most = 1024;
        await using var rig = await VividRig.CreateAsync(daemon, "6.12", new VividOptions { FramesPerSecond = 0 });
        var (_, file) = await rig.Driver.OpenAsync();
        for (var i = 0; i < most + 1; i++) await (await AllocateAsync(file!)).TakeBack!();
        // A buffer that is bound to a request is the application's again when that is closed.
        await rig.Device.RequestBuffersAsync(2, (uint)Vb2Memory.Mmap);
        var bound = await AllocateAsync(file!);
        var number = ((MediaRequest)bound.Argument!).Fd;
        Assert.Equal(Errno.None, (await rig.Device.QueueAsync(new V4l2Buffer
        {
            Memory = (uint)Vb2Memory.Mmap,
            Flags = V4l2.FlagRequestFd,
            RequestFd = number,
        })).Errno);
        Assert.Equal(1, (await rig.Driver.Queue.AuditAsync()).InRequest);
        await bound.TakeBack!();
        var books = await rig.Driver.Queue.AuditAsync();
        Assert.Equal((2, 2), (books.Dequeued, books.All));
        for (var i = 0; i < most; i++) Assert.Equal(Errno.None, (await AllocateAsync(file!)).Errno);
        Assert.Equal(Errno.ENOMEM, (await AllocateAsync(file!)).Errno);
        await file!.ReleaseAsync();
        Assert.Equal(Errno.None, (await rig.Device.IoctlAsync(V4l2.AllocateRequest, new MediaRequest())).Errno);

        static async Task<IoctlResult> AllocateAsync(DriverFile file) => await file.IoctlAsync(
            new IoctlContext(V4l2.AllocateRequest, ByteString.Empty, "", IsNonBlocking: false));
    }

    // D17: a handler without a lease would hold its range, and who waits in it, for as long as its process is frozen.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task D17_a_fault_handler_hangs_on_a_lease_of_its_own_and_dies_with_it(bool isDevice)
    {
        await using var rig = await FaultRig.CreateAsync(
            daemon, isDevice ? FramePin.V1.DeviceMapping.ServedPages : FramePin.V1.DeviceMapping.Unspecified);
        var registration = new RegisterFaultHandler { Device = rig.Device };
        if (isDevice)
        {
            await rig.EndHandlerAsync();
        }
        else
        {
            await rig.CallAsync(new MemoryCall
            {
                Mmap = new MmapCall { Address = FaultRig.At, Length = FaultRig.PageSize, Prot = 3, Flags = 0x32 },
            });
            registration = new RegisterFaultHandler
            {
                AddressSpace = rig.Space,
                Start = FaultRig.At,
                Length = FaultRig.PageSize,
            };
        }

        var before = await LeasesAsync(rig.Machine);
        var registered = new TaskCompletionSource();
        var asked = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        Task serving;
        // The end of the rig's handler may still be on its way: ALREADY_EXISTS until then.
        do serving = FaultServer.RunAsync(daemon.Client, registration, FreezeAsync, registered.SetResult);
        while (await Task.WhenAny(registered.Task, serving).WaitAsync(Patience) == serving);
        var touch = rig.TouchAsync(FaultRig.At, 1);
        await asked.Task.WaitAsync(Patience);
        // What its timer does when nothing was heard for the time to live.
        var own = Assert.Single((await LeasesAsync(rig.Machine)).Except(before));
        await daemon.Client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = own });
        const uint sigbus = 7;
        Assert.Equal(isDevice ? sigbus : 0, (await touch.WaitAsync(Patience)).Signal);
        var ended = await Assert.ThrowsAsync<FramePinException>(() => serving.WaitAsync(Patience));
        Assert.Equal("LEASE_NOT_FOUND", ended.Reason);
        // The place is free for another handler.
        await rig.ServeAsync(registration);

        async ValueTask<FaultAnswer> FreezeAsync(FaultEvent happened)
        {
            asked.TrySetResult();
            await Task.Delay(Timeout.InfiniteTimeSpan, CancellationToken.None);
            return new FaultAnswer();
        }
    }

    private async Task<List<string>> LeasesAsync(string machine) =>
        [.. (await daemon.Client.Leases.ListLeasesAsync(new ListLeasesRequest { Parent = machine })).Leases
            .Select(lease => lease.Name)];
}
