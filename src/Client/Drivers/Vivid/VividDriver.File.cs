using FramePin.V1;

namespace FramePin.Drivers.Vivid;

/// <summary>The open files of a vivid node.</summary>
public sealed partial class VividDriver
{
    private sealed class VividFile(VividDriver driver) : DriverFile
    {
        public override async ValueTask<IoctlResult> IoctlAsync(
            IoctlContext context, CancellationToken signal = default)
        {
            if (await driver.Queue.TryIoctlAsync(this, context, signal).ConfigureAwait(false) is { } answered)
                return answered;
            return context.Command switch
            {
                V4l2.QueryCapabilities => driver.Capabilities(),
                V4l2.GetFormat or V4l2.SetFormat or V4l2.TryFormat =>
                    driver.Format(context.Command, V4l2Format.Parser.ParseFrom(context.Argument)),
                V4l2.GetControl or V4l2.SetControl =>
                    driver.Control(context.Command, V4l2Control.Parser.ParseFrom(context.Argument)),
                V4l2.SetParameters => driver.Parameters(V4l2StreamParameters.Parser.ParseFrom(context.Argument)),
                _ => Errno.ENOTTY,
            };
        }

        public override ValueTask<UapiIoctlResult> UapiIoctlAsync(
            UapiIoctl ioctl, CancellationToken signal = default) =>
            V4l2Uapi.RunAsync(this, ioctl, driver._kernel, signal);

        public override ValueTask<(Errno Errno, ulong Bytes)> TransferAsync(
            TransferCall call, CancellationToken signal = default) =>
            driver.Queue.TransferAsync(this, call, signal);

        public override ValueTask<(Errno Errno, PollEvents Events)> PollAsync(
            PollEvents events, bool waits, CancellationToken signal = default) =>
            driver.Queue.PollAsync(this, events, waits, signal);

        public override ValueTask<(Errno Errno, string Device)> MapAsync(
            MapCall call, CancellationToken cancellationToken = default) =>
            new(driver.Queue.MapAsync(call, cancellationToken));

        public override async ValueTask ReleaseAsync(CancellationToken cancellationToken = default) =>
            await driver.Queue.ReleaseAsync(this, cancellationToken).ConfigureAwait(false);
    }
}
