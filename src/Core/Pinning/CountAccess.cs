using System.Runtime.CompilerServices;

namespace FramePin.Core.Pinning;

/// <summary>
/// Chooses between plain and interlocked count changes at compile time, so that the loops have no branch for it.
/// </summary>
internal interface ICountAccess
{
    /// <summary>Adds to a count word (subtracts, when negative) and returns what it holds then.</summary>
    static abstract long Add(ref long word, long delta);
}

/// <summary>The caller is alone inside the gate.</summary>
internal readonly struct PlainCounts : ICountAccess
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static long Add(ref long word, long delta) => word += delta;
}

/// <summary>Other pins are inside the gate too.</summary>
internal readonly struct InterlockedCounts : ICountAccess
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static long Add(ref long word, long delta) => Interlocked.Add(ref word, delta);
}
