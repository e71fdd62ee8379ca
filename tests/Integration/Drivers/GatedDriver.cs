using FramePin.Drivers;
using FramePin.Drivers.Vivid;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>A vivid whose answers to DQBUF and EXPBUF can be held back when the work is done.</summary>
internal sealed class GatedDriver(VividDriver vivid) : DriverModule
{
    private HeldAnswer? _next;

    public override string Name => vivid.Name;

    public HeldAnswer HoldNext() => _next = new HeldAnswer();

    public override async ValueTask<(Errno Errno, DriverFile? File)> OpenAsync(
        CancellationToken cancellationToken = default)
    {
        var (errno, file) = await vivid.OpenAsync(cancellationToken);
        return (errno, file is null ? null : new GatedFile(this, file));
    }

    private sealed class GatedFile(GatedDriver driver, DriverFile file) : DriverFile
    {
        public override async ValueTask<IoctlResult> IoctlAsync(
            IoctlContext context, CancellationToken signal = default)
        {
            var result = await file.IoctlAsync(context, signal);
            var isHeld = context.Command is V4l2.DequeueBuffer or V4l2.ExportBuffer;
            if (isHeld && Interlocked.Exchange(ref driver._next, null) is { } held) await held.HoldAsync(signal);
            return result;
        }

        public override ValueTask ReleaseAsync(CancellationToken cancellationToken = default) =>
            file.ReleaseAsync(cancellationToken);
    }
}

/// <summary>An answer of a driver that is held back.</summary>
internal sealed class HeldAnswer
{
    private readonly TaskCompletionSource _taken = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource _interrupted = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource _released = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>The driver has done its work.</summary>
    public Task Taken => _taken.Task;

    /// <summary>The driver was told of a signal.</summary>
    public Task Interrupted => _interrupted.Task;

    public void Release() => _released.TrySetResult();

    public async Task HoldAsync(CancellationToken signal)
    {
        _taken.TrySetResult();
        using var registration = signal.Register(() => _interrupted.TrySetResult());
        await _released.Task;
    }
}
