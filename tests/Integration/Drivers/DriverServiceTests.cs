using FramePin.Client;
using FramePin.Drivers;
using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Calls between applications and drivers: who serves a node, what reaches it, and what happens when either side goes.
/// </summary>
public sealed class DriverServiceTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    [Fact]
    public async Task A_node_is_served_by_one_and_opened_only_while_it_is()
    {
        var (machine, _) = await daemon.CreateAsync();
        await Refused(StatusCode.NotFound, "DRIVER_NOT_FOUND", () => OpenAsync(machine));
        using var stop = new CancellationTokenSource();
        var serving = await ServeAsync(machine, new Scripted(), stop.Token);
        await Refused(StatusCode.AlreadyExists, "NAME_TAKEN",
            () => DriverServer.RunAsync(daemon.Client, machine, "dev0", new Scripted()));
        var file = await OpenAsync(machine);
        Assert.Equal(
            1U, (await daemon.Client.Drivers.ListDriversAsync(
                new ListDriversRequest { Parent = machine })).Drivers.Single().OpenFiles);
        await stop.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => serving);
        // The file outlives the driver as a file of a device that is gone.
        while ((await CallAsync(file, "ECHO")).Errno != Errno.ENODEV) await Task.Yield();
        await file.DisposeAsync();
    }

    [Fact]
    public async Task The_first_message_registers_and_only_the_first()
    {
        using var wrong = daemon.Client.Drivers.ServeDriver();
        await wrong.RequestStream.WriteAsync(new DriverReply { Answer = new DriverAnswer() });
        await Refused(StatusCode.InvalidArgument, "BAD_FIELD", () => wrong.ResponseStream.MoveNext(default));
        using var unnamed = daemon.Client.Drivers.ServeDriver();
        await unnamed.RequestStream.WriteAsync(new DriverReply { Register = new RegisterDriver() });
        await Refused(StatusCode.InvalidArgument, "BAD_FIELD", () => unnamed.ResponseStream.MoveNext(default));
        using var twice = daemon.Client.Drivers.ServeDriver();
        await twice.RequestStream.WriteAsync(new DriverReply { Register = new RegisterDriver { Node = "twice0" } });
        Assert.True(await twice.ResponseStream.MoveNext(default));
        await twice.RequestStream.WriteAsync(new DriverReply { Register = new RegisterDriver { Node = "twice1" } });
        await Refused(StatusCode.InvalidArgument, "BAD_FIELD", () => twice.ResponseStream.MoveNext(default));
    }

    [Fact]
    public async Task What_a_driver_answers_or_throws_reaches_its_caller()
    {
        var (machine, space) = await daemon.CreateAsync();
        var driver = new Scripted();
        using var stop = new CancellationTokenSource();
        var serving = await ServeAsync(machine, driver, stop.Token);
        await using var file = await OpenAsync(machine);
        var (errno, answer) = await file.IoctlAsync(space, "ECHO", new V4l2Control { Id = "x", Value = 7 });
        Assert.Equal((Errno.None, "x", 8), (errno, answer.Id, answer.Value));
        Assert.Equal(space, driver.LastSpace);
        Assert.Equal(Errno.ENOTTY, (await CallAsync(file, "NOTHING")).Errno);
        Assert.Equal(Errno.ENODEV, (await file.MapAsync(space, 4096, 3, 1, 0)).Errno);
        // Bytes that are no message of the command.
        var garbage = await daemon.Client.Drivers.IoctlAsync(
            new IoctlRequest { File = file.File, Command = "ECHO", Argument = ByteString.CopyFrom(0xff, 0xff, 0xff) });
        Assert.Equal((uint)Errno.EFAULT, garbage.Errno);
        var (_, other) = await daemon.CreateAsync();
        await Refused(StatusCode.InvalidArgument, "BAD_FIELD", () => file.IoctlAsync(other, "ECHO", new V4l2Control()));
        await Refused(StatusCode.InvalidArgument, "BAD_FIELD", () => new DriverHandle(
            daemon.Client, $"{machine}/driverFiles/x").IoctlAsync(space, "ECHO", new V4l2Control()));
        Assert.Equal(Errno.ENODEV,
            (await CallAsync(new DriverHandle(daemon.Client, $"{machine}/driverFiles/999999"), "ECHO")).Errno);
        // D1. A bug of the driver's: its caller is answered, whoever runs the driver is told, and the others go on.
        var bug = new TaskCompletionSource<Exception>();
        driver.BugFound = bug.SetResult;
        await using var second = await OpenAsync(machine);
        Assert.Equal(Errno.EIO, (await CallAsync(file, "BUG")).Errno);
        Assert.IsType<InvalidOperationException>(await bug.Task.WaitAsync(Patience));
        Assert.Equal(Errno.None, (await CallAsync(second, "ECHO")).Errno);
        Assert.Equal(Errno.None, (await CallAsync(file, "ECHO")).Errno);
        Assert.False(serving.IsCompleted);
        await stop.CancelAsync();
    }

    [Fact]
    public async Task A_call_that_waits_ends_with_its_caller_or_with_its_driver()
    {
        var (machine, _) = await daemon.CreateAsync();
        var driver = new Scripted();
        using var stop = new CancellationTokenSource();
        var serving = await ServeAsync(machine, driver, stop.Token);
        var file = await OpenAsync(machine);
        using var signal = new CancellationTokenSource();
        var waiting = file.IoctlAsync("", "WAIT", new V4l2Control(), cancellationToken: signal.Token);
        await driver.Waiting.WaitAsync(Patience);
        await signal.CancelAsync();
        await Assert.ThrowsAsync<OperationCanceledException>(() => waiting);
        await driver.Interrupted.WaitAsync(Patience);
        var second = file.IoctlAsync("", "WAIT", new V4l2Control());
        await driver.Waiting.WaitAsync(Patience);
        await stop.CancelAsync();
        Assert.Equal(Errno.ENODEV, (await second.WaitAsync(Patience)).Errno);
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => serving);
        await file.DisposeAsync();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_file_is_released_once_by_close_or_with_its_openers_lease(bool byLease)
    {
        var (machine, _) = await daemon.CreateAsync();
        var driver = new Scripted();
        using var stop = new CancellationTokenSource();
        await ServeAsync(machine, driver, stop.Token);
        var lease = await daemon.Client.Leases.OpenLeaseAsync(
            new OpenLeaseRequest { Parent = machine, Owner = "test" });
        var (_, file) = await DriverHandle.OpenAsync(daemon.Client, $"{machine}/drivers/dev0", lease.Name);
        // A call that waits in the file at its release leaves first.
        var waiting = byLease ? file!.IoctlAsync("", "WAIT", new V4l2Control())
            : Task.FromResult((Errno.ENODEV, new V4l2Control()));
        if (byLease) await driver.Waiting.WaitAsync(Patience);
        else await file!.DisposeAsync();
        await daemon.Client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = lease.Name });
        await driver.Released.WaitAsync(Patience);
        // D14: 512 is the kernel's own. To the application the file is gone.
        Assert.Equal(Errno.ENODEV, (await waiting.WaitAsync(Patience)).Item1);
        Assert.Equal(Errno.ENODEV, (await CallAsync(file!, "ECHO")).Errno);
        Assert.Equal(1, driver.Releases);
        await stop.CancelAsync();
    }

    [Fact]
    public async Task Devices_and_address_spaces_go_with_their_lease()
    {
        var (machine, _) = await daemon.CreateAsync();
        var lease = await daemon.Client.Leases.OpenLeaseAsync(
            new OpenLeaseRequest { Parent = machine, Owner = "test" });
        var free = daemon.MachineOf(machine).Statistics().FreeFrames;
        var device = await daemon.Client.Devices.CreateDeviceAsync(new CreateDeviceRequest
        {
            Parent = machine,
            Mapping = DeviceMapping.MixedPages,
            Pages = 8,
            Ram = true,
            Lease = lease.Name,
        });
        var space = await daemon.Client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest { Parent = machine, Lease = lease.Name });
        await daemon.MapAsync(space.Name, 0x10_0000, 4);
        await daemon.Client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = lease.Name });
        var left = daemon.MachineOf(machine).Statistics();
        Assert.Equal((free, 0, 1), (left.FreeFrames, left.Devices, left.AddressSpaces));
        await Refused(StatusCode.NotFound, "DEVICE_NOT_FOUND", () => daemon.Client.Devices.DeleteDeviceAsync(
            new DeleteDeviceRequest { Name = device.Name }).ResponseAsync);
        await daemon.DigestAsync(machine);
    }

    private async Task<Task> ServeAsync(string machine, DriverModule driver, CancellationToken cancelled)
    {
        var ready = new TaskCompletionSource();
        var serving = DriverServer.RunAsync(daemon.Client, machine, "dev0", driver, ready.SetResult, cancelled);
        await ready.Task.WaitAsync(Patience, CancellationToken.None);
        return serving;
    }

    private async Task<DriverHandle> OpenAsync(string machine) =>
        (await DriverHandle.OpenAsync(daemon.Client, $"{machine}/drivers/dev0")).File!;

    private static Task<(Errno Errno, V4l2Control Answer)> CallAsync(DriverHandle file, string command) =>
        file.IoctlAsync("", command, new V4l2Control());

    private static async Task Refused(StatusCode code, string reason, Func<Task> call)
    {
        var thrown = await Record.ExceptionAsync(() => call().WaitAsync(Patience));
        // The raw stubs throw what gRPC throws, the library its own.
        var refusal = thrown as FramePinException ?? FramePinException.From(Assert.IsType<RpcException>(thrown));
        Assert.Equal((code, reason), (refusal.StatusCode, refusal.Reason));
    }

    /// <summary>A driver that answers, waits, or breaks, as it is told.</summary>
    private sealed class Scripted : DriverModule
    {
        private int _releases;

        public override string Name => "scripted";

        public SemaphoreSlim Waiting { get; } = new(0);

        public SemaphoreSlim Interrupted { get; } = new(0);

        public SemaphoreSlim Released { get; } = new(0);

        public string LastSpace { get; private set; } = "";

        public int Releases => _releases;

        public override ValueTask<(Errno Errno, DriverFile? File)> OpenAsync(
            CancellationToken cancellationToken = default) =>
            new((Errno.None, new ScriptedFile(this)));

        private sealed class ScriptedFile(Scripted driver) : DriverFile
        {
            public override async ValueTask<IoctlResult> IoctlAsync(IoctlContext context, CancellationToken signal)
            {
                driver.LastSpace = context.AddressSpace;
                switch (context.Command)
                {
                    case "ECHO":
                        var argument = V4l2Control.Parser.ParseFrom(context.Argument);
                        argument.Value++;
                        return new IoctlResult(Errno.None, argument);
                    case "WAIT":
                        driver.Waiting.Release();
                        try
                        {
                            await new TaskCompletionSource().Task.WaitAsync(signal);
                        }
                        finally
                        {
                            driver.Interrupted.Release();
                        }

                        return Errno.None;
                    case "BUG":
                        throw new InvalidOperationException("a bug of the driver's");
                    default:
                        return Errno.ENOTTY;
                }
            }

            public override ValueTask ReleaseAsync(CancellationToken cancellationToken = default)
            {
                Interlocked.Increment(ref driver._releases);
                driver.Released.Release();
                return ValueTask.CompletedTask;
            }
        }
    }
}
