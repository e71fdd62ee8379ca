using System.Threading.Channels;
using FramePin.Drivers;
using FramePin.Drivers.Vivid;
using FramePin.V1;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>A vivid whose opens, calls and releases a test can wait for.</summary>
internal sealed class WatchedDriver(VividDriver vivid) : DriverModule
{
    private readonly Channel<WatchedFile> _opened = Channel.CreateUnbounded<WatchedFile>();

    public VividDriver Vivid => vivid;

    public override string Name => vivid.Name;

    /// <summary>The files in the order of their opens, one a call.</summary>
    public Task<WatchedFile> NextFileAsync() => _opened.Reader.ReadAsync().AsTask();

    public override async ValueTask<(Errno Errno, DriverFile? File)> OpenAsync(
        CancellationToken cancellationToken = default)
    {
        var (errno, file) = await vivid.OpenAsync(cancellationToken);
        if (file is null) return (errno, file);
        var watched = new WatchedFile(file);
        _opened.Writer.TryWrite(watched);
        return (errno, watched);
    }

    public override async ValueTask DisposeAsync()
    {
        await vivid.DisposeAsync();
        await base.DisposeAsync();
    }
}

/// <summary>An open file of a <see cref="WatchedDriver"/>.</summary>
internal sealed class WatchedFile(DriverFile file) : DriverFile
{
    private readonly Channel<string> _done = Channel.CreateUnbounded<string>();
    private readonly TaskCompletionSource _released = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Completes after file_operations.release.</summary>
    public Task Released => _released.Task;

    /// <summary>Completes when the driver has answered this command so many times. For one waiter.</summary>
    public async Task CallsAsync(string command, int count)
    {
        while (count > 0)
            if (await _done.Reader.ReadAsync() == command) count--;
    }

    public override async ValueTask<IoctlResult> IoctlAsync(IoctlContext context, CancellationToken signal = default)
    {
        var result = await file.IoctlAsync(context, signal);
        _done.Writer.TryWrite(context.Command);
        return result;
    }

    public override ValueTask<UapiIoctlResult> UapiIoctlAsync(UapiIoctl ioctl, CancellationToken signal = default) =>
        file.UapiIoctlAsync(ioctl, signal);

    public override ValueTask<(Errno Errno, string Device)> MapAsync(
        MapCall call, CancellationToken cancellationToken = default) => file.MapAsync(call, cancellationToken);

    public override ValueTask<(Errno Errno, ulong Bytes)> TransferAsync(
        TransferCall call, CancellationToken signal = default) => file.TransferAsync(call, signal);

    public override async ValueTask ReleaseAsync(CancellationToken cancellationToken = default)
    {
        await file.ReleaseAsync(cancellationToken);
        _released.TrySetResult();
    }
}
