using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace FramePin.Drivers.Native;

/// <summary>
/// Stores past the caches, as a device's DMA does: a large picture does not drive out what the processors work with.
/// </summary>
internal static unsafe class StreamingStores
{
    /// <summary>
    /// Copies all of <paramref name="source"/>. Others see it behind <see cref="Fence"/>. Throws when the target is
    /// shorter.
    /// </summary>
    public static void Copy(ReadOnlySpan<byte> source, Span<byte> target)
    {
        if (target.Length < source.Length) throw new ArgumentException("shorter than the source", nameof(target));
        var width = Vector256<byte>.Count;
        // SAFETY: both are pinned, every access lies within the source's length, and the target is at least as long.
        fixed (byte* from = source, to = target)
        {
            var head = Math.Min((int)(-(nint)to & (width - 1)), source.Length);
            source[..head].CopyTo(target);
            var i = head;
            for (; i + width <= source.Length; i += width) Vector256.Load(from + i).StoreAlignedNonTemporal(to + i);
            source[i..].CopyTo(target[i..]);
        }
    }

    /// <summary>What was copied before is stored before whatever this thread stores next.</summary>
    public static void Fence()
    {
        if (Sse.IsSupported) Sse.StoreFence();
        else Interlocked.MemoryBarrier();
    }
}
