using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;

namespace FramePin.Core.Pinning;

/// <summary>Bytes of a vector's frames, as a device sees them by DMA.</summary>
internal static class FrameCopy
{
    /// <summary>
    /// Copies from byte <paramref name="offset"/> of the first frame on. Needs no turn: the vector's references keep
    /// the frames.
    /// </summary>
    /// <returns>Bytes done; fewer with -ENXIO at MMIO without memory behind it.</returns>
    public static int Run(
        KernelState kernel, FrameVector vector, ulong offset, Span<byte> buffer, bool isWrite, out Errno error)
    {
        error = Errno.None;
        var done = 0;
        var first = 0UL;
        foreach (var run in vector.Runs)
        {
            var runBytes = run.Count << PageGeometry.PageShift;
            while (done < buffer.Length && offset + (ulong)done < first + runBytes && offset + (ulong)done >= first)
            {
                var at = offset + (ulong)done - first;
                var pfn = run.First + (at >> PageGeometry.PageShift);
                if (!kernel.Memory.Frames.IsValid(pfn))
                {
                    error = Errno.ENXIO;
                    return done;
                }

                var within = (int)(at & ~PageGeometry.PageMask);
                var part = buffer.Slice(done, Math.Min(buffer.Length - done, (int)PageGeometry.PageSize - within));
                var bytes = kernel.Memory.Bytes.Of(pfn).Slice(within, part.Length);
                if (isWrite) part.CopyTo(bytes);
                else bytes.CopyTo(part);
                done += part.Length;
            }

            first += runBytes;
        }

        return done;
    }
}
