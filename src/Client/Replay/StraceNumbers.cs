using System.Globalization;

namespace FramePin.Replay;

/// <summary>Numbers and named flags as strace writes them.</summary>
public static class StraceNumbers
{
    private const int HugeShift = 26;

    private static readonly Dictionary<string, uint> Flags = new(StringComparer.Ordinal)
    {
        ["PROT_NONE"] = 0,
        ["PROT_READ"] = 1,
        ["PROT_WRITE"] = 2,
        ["PROT_EXEC"] = 4,
        ["PROT_SEM"] = 8,
        ["PROT_GROWSDOWN"] = 0x1000000,
        ["PROT_GROWSUP"] = 0x2000000,
        ["MAP_FILE"] = 0,
        ["MAP_SHARED"] = 1,
        ["MAP_PRIVATE"] = 2,
        ["MAP_SHARED_VALIDATE"] = 3,
        ["MAP_DROPPABLE"] = 8,
        ["MAP_FIXED"] = 0x10,
        ["MAP_ANONYMOUS"] = 0x20,
        ["MAP_32BIT"] = 0x40,
        ["MAP_ABOVE4G"] = 0x80,
        ["MAP_GROWSDOWN"] = 0x100,
        ["MAP_DENYWRITE"] = 0x800,
        ["MAP_EXECUTABLE"] = 0x1000,
        ["MAP_LOCKED"] = 0x2000,
        ["MAP_NORESERVE"] = 0x4000,
        ["MAP_POPULATE"] = 0x8000,
        ["MAP_NONBLOCK"] = 0x10000,
        ["MAP_STACK"] = 0x20000,
        ["MAP_HUGETLB"] = 0x40000,
        ["MAP_SYNC"] = 0x80000,
        ["MAP_FIXED_NOREPLACE"] = 0x100000,
        ["MAP_UNINITIALIZED"] = 0x4000000,
        ["MAP_HUGE_2MB"] = 21U << HugeShift,
        ["MAP_HUGE_1GB"] = 30U << HugeShift,
        ["MREMAP_MAYMOVE"] = 1,
        ["MREMAP_FIXED"] = 2,
        ["MREMAP_DONTUNMAP"] = 4,
        ["MS_ASYNC"] = 1,
        ["MS_INVALIDATE"] = 2,
        ["MS_SYNC"] = 4,
        ["MCL_CURRENT"] = 1,
        ["MCL_FUTURE"] = 2,
        ["MCL_ONFAULT"] = 4,
        ["MLOCK_ONFAULT"] = 1,
        ["MADV_NORMAL"] = 0,
        ["MADV_RANDOM"] = 1,
        ["MADV_SEQUENTIAL"] = 2,
        ["MADV_WILLNEED"] = 3,
        ["MADV_DONTNEED"] = 4,
        ["MADV_FREE"] = 8,
        ["MADV_REMOVE"] = 9,
        ["MADV_DONTFORK"] = 10,
        ["MADV_DOFORK"] = 11,
        ["MADV_MERGEABLE"] = 12,
        ["MADV_UNMERGEABLE"] = 13,
        ["MADV_HUGEPAGE"] = 14,
        ["MADV_NOHUGEPAGE"] = 15,
        ["MADV_DONTDUMP"] = 16,
        ["MADV_DODUMP"] = 17,
        ["MADV_WIPEONFORK"] = 18,
        ["MADV_KEEPONFORK"] = 19,
        ["MADV_COLD"] = 20,
        ["MADV_PAGEOUT"] = 21,
        ["MADV_POPULATE_READ"] = 22,
        ["MADV_POPULATE_WRITE"] = 23,
        ["MADV_DONTNEED_LOCKED"] = 24,
        ["MADV_COLLAPSE"] = 25,
        ["MADV_HWPOISON"] = 100,
        ["MADV_SOFT_OFFLINE"] = 101,
        ["MADV_GUARD_INSTALL"] = 102,
        ["MADV_GUARD_REMOVE"] = 103,
    };

    /// <summary>Reads a decimal or hexadecimal number, or NULL.</summary>
    /// <param name="text">The number.</param>
    /// <exception cref="FormatException"><paramref name="text"/> is no number of 64 bits.</exception>
    public static ulong Parse(string text) =>
        TryParse(text, out var value) ? value : throw new FormatException($"'{text}' is no number");

    /// <summary>
    /// Reads names and numbers that are joined by '|'.
    /// </summary>
    /// <param name="text">The flags.</param>
    /// <exception cref="FormatException">A name is unknown, or a number is none of 32 bits.</exception>
    public static uint ParseFlags(string text) => TryParseFlags(text, out var value, out var unknown)
        ? value
        : throw new FormatException($"unknown flag '{unknown}'");

    /// <summary>Reads a number; false for what is none.</summary>
    internal static bool TryParse(string text, out ulong value)
    {
        value = 0;
        if (text is "NULL") return true;
        if (text.StartsWith("0x", StringComparison.Ordinal))
            return ulong.TryParse(
                text.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out value);
        if (ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out value)) return true;
        var isNegative = long.TryParse(
            text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var negative);
        value = unchecked((ulong)negative);
        return isNegative;
    }

    /// <summary>Reads flags; false where one is unknown.</summary>
    internal static bool TryParseFlags(string text, out uint value, out string unknown)
    {
        value = 0;
        foreach (var raw in text.Split('|'))
        {
            // strace adds a comment to flags that it cannot name.
            unknown = raw.Split(" /*")[0].Trim();
            if (!TryParseFlag(unknown, out var flag)) return false;
            value |= flag;
        }

        unknown = "";
        return true;
    }

    /// <summary>A name, a number, or "21&lt;&lt;MAP_HUGE_SHIFT".</summary>
    private static bool TryParseFlag(string text, out uint flag)
    {
        if (Flags.TryGetValue(text, out flag)) return true;
        var (shifted, shift) = (text, 0UL);
        if (text.IndexOf("<<", StringComparison.Ordinal) is var at and > 0)
        {
            shifted = text[..at];
            if (text[(at + 2)..] == "MAP_HUGE_SHIFT") shift = HugeShift;
            else if (!TryParse(text[(at + 2)..], out shift)) return false;
        }

        if (text.Length == 0 || !char.IsAsciiDigit(text[0]) || !TryParse(shifted, out var value)) return false;
        if (shift >= 32 || value > uint.MaxValue || value << (int)shift > uint.MaxValue) return false;
        flag = (uint)value << (int)shift;
        return true;
    }
}
