using System.Buffers.Binary;
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

    /// <summary>
    /// DMA_COPY as a C program calls it: _IOWR('D', 1, struct dma_copy), where struct dma_copy has four __u64: source,
    /// destination, length, copied.
    /// </summary>
    public const uint CopyRequest = 0xC020_4401;

    private const int CopyBytes = 32;
    private const ulong MaxBytes = 64UL << 20;

    public override string Name => "dma-engine";

    public override ValueTask<(Errno Errno, DriverFile? File)> OpenAsync(
        CancellationToken cancellationToken = default) =>
        ValueTask.FromResult<(Errno, DriverFile?)>((Errno.None, new DmaFile(kernel)));

    private sealed class DmaFile(DriverKernel kernel) : DriverFile
    {
        public override async ValueTask<IoctlResult> IoctlAsync(
            IoctlContext context, CancellationToken signal = default)
        {
            if (context.Command != CopyCommand) return Errno.ENOTTY;
            var copy = DmaCopy.Parser.ParseFrom(context.Argument);
            return new IoctlResult(await RunAsync(context.AddressSpace, copy), copy);
        }

        public override async ValueTask<UapiIoctlResult> UapiIoctlAsync(
            UapiIoctl ioctl, CancellationToken signal = default)
        {
            if (ioctl.Request != CopyRequest) return Errno.ENOTTY;
            if (ioctl.Argument.Length != CopyBytes) return Errno.EFAULT;
            var copy = new DmaCopy
            {
                Source = BinaryPrimitives.ReadUInt64LittleEndian(ioctl.Argument.Span),
                Destination = BinaryPrimitives.ReadUInt64LittleEndian(ioctl.Argument.Span[8..]),
                Length = BinaryPrimitives.ReadUInt64LittleEndian(ioctl.Argument.Span[16..]),
            };
            var errno = await RunAsync(ioctl.AddressSpace, copy);
            var answer = ioctl.Argument.ToArray();
            BinaryPrimitives.WriteUInt64LittleEndian(answer.AsSpan(24), copy.Copied);
            return new UapiIoctlResult(errno, answer);
        }

        private async Task<Errno> RunAsync(string space, DmaCopy copy)
        {
            if (copy.Length is 0 or > MaxBytes) return Errno.EINVAL;
            // The device reads the source and writes the destination.
            var (errno, source) = await kernel.CreateFramevecAsync(
                space, copy.Source, copy.Length, isWrite: false);
            if (source is null) return errno;
            try
            {
                (errno, var destination) = await kernel.CreateFramevecAsync(
                    space, copy.Destination, copy.Length, isWrite: true);
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
            return Errno.None;
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
