using System.Buffers;
using System.Runtime.InteropServices;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Frames;
using FramePin.Core.Native;

namespace FramePin.Core.Pinning;

/// <summary>
/// struct frame_vector: what a pin fills, pages with references or bare PFNs (Semantics 2). Filled in runs; at
/// worst, on wholly scattered frames, a run a frame: eight bytes a slot, as in the kernel.
/// </summary>
/// <remarks>
/// As in the kernel there is no lock inside: the owner of a vector uses it from one thread at a time. The machine that
/// made it owns its memory; <see cref="FrameVectors.Destroy"/> gives it back.
/// </remarks>
public sealed class FrameVector
{
    /// <summary>The kernel's cap: INT_MAX / 8 / 2 slots.</summary>
    public const long MaxFrames = int.MaxValue / 8 / 2;

    /// <summary>Vectors with more slots live in native memory, untouched until they are filled.</summary>
    private const long LargestManaged = 1 << 16;

    /// <summary>Rented: a vector a frame of a stream does not go to the garbage collector.</summary>
    private ulong[]? _managed;
    private readonly NativeArray<ulong> _native;

    internal FrameVector(long slots)
    {
        Allocated = slots;
        if (slots <= LargestManaged) _managed = ArrayPool<ulong>.Shared.Rent((int)slots);
        else _native = NativeArray<ulong>.Reserve((ulong)slots);
    }

    /// <summary>Number in its machine; 0 for a vector that no machine made.</summary>
    public VectorId Id { get; internal set; }

    /// <summary>Number of the last command before the vector was filled or emptied.</summary>
    internal long Epoch { get; set; }

    /// <summary>nr_allocated: slots, fixed when the vector was made.</summary>
    public long Allocated { get; private set; }

    /// <summary>nr_frames: frames held now.</summary>
    public long Count { get; internal set; }

    /// <summary>got_ref: the frames hold references or pins that put must drop.</summary>
    public bool GotRef { get; internal set; }

    /// <summary>is_pfns: the frames are to be read as PFNs.</summary>
    public bool IsPfns { get; internal set; }

    /// <summary>The references are FOLL_PIN pins and not plain ones.</summary>
    public bool IsPinned { get; internal set; }

    /// <summary>
    /// First of the holds that rely on the vector's references. <see cref="FrameHolds"/> guards the list by its lock.
    /// </summary>
    internal FrameHold? FirstHold { get; set; }

    /// <summary>Runs in use.</summary>
    public int RunCount { get; internal set; }

    /// <summary>The frames in order, as runs of consecutive PFNs. Valid until the vector is changed.</summary>
    public ReadOnlySpan<FrameRun> Runs => MemoryMarshal.Cast<ulong, FrameRun>(Slots[..RunCount]);

    internal Span<ulong> Slots =>
        _managed is not null ? _managed.AsSpan(0, (int)Allocated) : _native.Slice(0, (int)Allocated);

    /// <summary>The frame in slot <paramref name="index"/>, 0-based. Linear in the runs before it.</summary>
    public Pfn this[long index]
    {
        get
        {
            ArgumentOutOfRangeException.ThrowIfNegative(index);
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, Count);
            var rest = (ulong)index;
            foreach (var run in Runs)
            {
                if (rest < run.Count) return run.First + rest;
                rest -= run.Count;
            }

            throw new InvalidOperationException("the runs of a frame vector do not add up to its count");
        }
    }

    /// <summary>
    /// frame_vector_to_pages: every PFN must have a struct page, else -EINVAL and nothing changes. Takes no references.
    /// </summary>
    internal Errno ToPages(FrameTable frames)
    {
        if (!IsPfns) return Errno.None;
        foreach (var run in Runs)
            if (!frames.IsValid(run.First) || !frames.IsValid(run.First + (run.Count - 1))) return Errno.EINVAL;
        IsPfns = false;
        return Errno.None;
    }

    /// <summary>frame_vector_to_pfns: never fails.</summary>
    internal void ToPfns() => IsPfns = true;

    /// <summary>The frames hold references from now on.</summary>
    internal void Hold()
    {
        GotRef = true;
        IsPfns = false;
    }

    /// <summary>The references are gone, and with them the frames.</summary>
    internal void LetGo()
    {
        GotRef = false;
        IsPfns = false;
        Reset();
    }

    internal void Reset()
    {
        Count = 0;
        RunCount = 0;
    }

    internal void Release()
    {
        if (_managed is not { } rented)
        {
            _native.Release();
            return;
        }

        // A late reader of this vector sees an empty array, and not the slots of the array's next owner.
        Allocated = 0;
        _managed = [];
        ArrayPool<ulong>.Shared.Return(rented);
    }
}
