using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace FramePin.Core.Native;

/// <summary>
/// A sparse, zero-filled array outside the managed heap: reserved at once, backed by host memory only where it is
/// written. The garbage collector never sees it, so a machine's tables can be as large as its memory.
/// </summary>
/// <remarks>
/// A struct that holds one pointer, so that a copy in a local lives in a register inside a hot loop. Exactly one owner
/// calls <see cref="Release"/>, after which every copy is dangling: the owner is the object that created it.
/// </remarks>
internal readonly unsafe struct NativeArray<T> where T : unmanaged
{
    private readonly T* _items;

    private NativeArray(T* items, ulong length)
    {
        _items = items;
        Length = length;
    }

    /// <summary>Number of items.</summary>
    public ulong Length { get; }

    /// <summary>Reserves <paramref name="length"/> zeroed items. Costs no resident memory until written.</summary>
    public static NativeArray<T> Reserve(ulong length)
    {
        var bytes = checked((nuint)(length * (ulong)sizeof(T)));
        var flags = LibC.MapPrivate | LibC.MapAnonymous | LibC.MapNoReserve;
        // SAFETY: a fresh anonymous mapping; the kernel chooses the address.
        var address = LibC.mmap(null, Math.Max(bytes, 1), LibC.ProtRead | LibC.ProtWrite, flags, -1, 0);
        if ((nint)address == -1) throw LibC.Refused(Marshal.GetLastPInvokeError(), "reserving native memory");
        return new NativeArray<T>((T*)address, length);
    }

    /// <summary>
    /// The item at <paramref name="index"/>. The caller guarantees index &lt; Length; Debug builds check it.
    /// </summary>
    public ref T this[ulong index]
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get
        {
            System.Diagnostics.Debug.Assert(index < Length, "native index out of range");
            // SAFETY: index < Length by the caller's contract, and the mapping lives until the owner releases it.
            return ref _items[index];
        }
    }

    /// <summary>A window of <paramref name="count"/> items from <paramref name="start"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Span<T> Slice(ulong start, int count)
    {
        if (start > Length || (ulong)count > Length - start) ThrowRange();
        // SAFETY: just checked to lie within the mapping.
        return new Span<T>(_items + start, count);
    }

    /// <summary>Unmaps the array. Only the owner calls it, once.</summary>
    public void Release()
    {
        // SAFETY: the owner guarantees that no copy is used afterwards.
        if (_items != null) _ = LibC.munmap(_items, Math.Max((nuint)(Length * (ulong)sizeof(T)), 1));
    }

    private static void ThrowRange() => throw new ArgumentOutOfRangeException(nameof(T), "native slice out of range");
}
