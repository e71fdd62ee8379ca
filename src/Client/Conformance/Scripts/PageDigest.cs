using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;

namespace FramePin.Conformance.Scripts;

/// <summary>
/// A page's contents in a snapshot: its first byte, and a number for the rest when that is not all zero.
/// </summary>
/// <param name="First">-1 for a page that nobody may look at.</param>
/// <param name="Rest">0 when every other byte is zero.</param>
public readonly record struct PageDigest(int First, uint Rest)
{
    public static PageDigest Unreadable => new(-1, 0);

    public static PageDigest Of(ReadOnlySpan<byte> page)
    {
        if (page[1..].IndexOfAnyExcept((byte)0) < 0) return new PageDigest(page[0], 0);
        const ulong prime = 0x9e37_79b9_7f4a_7c15;
        var hash = 1UL;
        foreach (var word in MemoryMarshal.Cast<byte, ulong>(page)) hash = ulong.RotateLeft((hash ^ word) * prime, 31);
        return new PageDigest(page[0], (uint)(hash >> 32) | 1);
    }

    public void AppendTo(StringBuilder text)
    {
        text.Append(CultureInfo.InvariantCulture, $"={First:x}");
        if (Rest != 0) text.Append(CultureInfo.InvariantCulture, $"+{Rest:x8}");
    }
}
