using FramePin.Drivers;

namespace FramePin.Samples;

/// <summary>
/// A driver of one's own: an engine that copies bytes within a process's memory. The frame helper gives it the pages of
/// both sides, whatever kind of mapping lies there; it copies between its own views of them, marks what it wrote dirty,
/// and puts them.
/// </summary>
public sealed class DmaEngine(DriverKernel kernel) : DriverModule
{
    public const string CopyCommand = "DMA_COPY";
    private const ulong MaxBytes = 64UL << 20;

    public override string Name => "dma-engine";

    public override ValueTask<(Errno Errno, DriverFile? File)> OpenAsync() =>
        ValueTask.FromResult<(Errno, DriverFile?)>((Errno.None, new DmaFile(kernel)));

    private sealed class DmaFile(DriverKernel kernel) : DriverFile
    {
        public override async ValueTask<IoctlResult> IoctlAsync(IoctlContext context, CancellationToken signal)
        {
            if (context.Command != CopyCommand) return Errno.ENOTTY;
            var copy = DmaCopy.Parser.ParseFrom(context.Argument);
            if (copy.Length is 0 or > MaxBytes) return Errno.EINVAL;
            // The device reads the source and writes the destination.
            var (errno, source) = await kernel.CreateFramevecAsync(
                context.AddressSpace, copy.Source, copy.Length, isWrite: false);
            if (source is null) return errno;
            try
            {
                (errno, var destination) = await kernel.CreateFramevecAsync(
                    context.AddressSpace, copy.Destination, copy.Length, isWrite: true);
                if (destination is null) return errno;
                try
                {
                    await CopyAsync(copy, source, destination);
                }
                finally
                {
                    await kernel.PutAsync(destination, isDirty: true);
                }
            }
            finally
            {
                await kernel.PutAsync(source, isDirty: false);
            }

            copy.Copied = copy.Length;
            return new IoctlResult(Errno.None, copy);
        }

        private async Task CopyAsync(DmaCopy copy, PinnedFrames source, PinnedFrames destination)
        {
            using var from = await kernel.MapAsync(source);
            using var to = await kernel.MapAsync(destination);
            var bytes = new byte[copy.Length];
            await from.ReadAsync(copy.Source % 4096, bytes);
            await to.WriteAsync(copy.Destination % 4096, bytes);
        }
    }
}
