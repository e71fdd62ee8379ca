using FramePin.Core.Abi;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;

namespace FramePin.Core.Pinning;

/// <summary>Making, emptying and destroying frame vectors (Semantics 2.1, 2.2, 2.7).</summary>
internal static class FrameVectors
{
    /// <summary>frame_vector_create: null for 0 slots and above the cap (rows 1, 2).</summary>
    public static FrameVector? Create(long slots) =>
        slots is <= 0 or > FrameVector.MaxFrames ? null : new FrameVector(slots);

    /// <summary>
    /// put_vaddr_frames: drops one reference a frame if the vector holds any; a PFN vector touches no page. A second
    /// put does nothing. Does not mark pages dirty unless asked (which the kernel leaves to drivers). Without a turn.
    /// </summary>
    public static void Put(KernelState kernel, FrameVector vector, bool makeDirty)
    {
        if (vector.GotRef)
        {
            // References were only ever taken on frames with a struct page, so converting back cannot fail.
            Unpin.All(kernel, vector, makeDirty);
            return;
        }

        vector.Reset();
        vector.Epoch = kernel.CommandNumber;
    }

    /// <summary>frame_vector_destroy. False: frames are still held, which is the caller's bug (row 9).</summary>
    public static bool Destroy(FrameVector vector)
    {
        if (vector.Count > 0) return false;
        vector.Release();
        return true;
    }
}
