using System.Globalization;
using System.Text;

namespace FramePin.Conformance.Scripts;

/// <summary>Writes snapshots: one line an area, one line for its pages that are there.</summary>
internal sealed class SnapshotWriter(FrameNames names)
{
    private const ulong Present = 1UL << 63;
    private const ulong Swapped = 1UL << 62;
    private const ulong FileOrShared = 1UL << 61;
    private const ulong Guard = 1UL << 58;
    private const ulong Exclusive = 1UL << 56;
    public const ulong PfnMask = (1UL << 55) - 1;

    private readonly StringBuilder _text = new();

    /// <summary>Most pages of an area that a snapshot shows.</summary>
    public const int MaxPages = 2048;

    public void Begin(bool keepsNames)
    {
        names.Begin(keepsNames);
        _text.Clear();
    }

    public void Process(int number) => _text.Append(CultureInfo.InvariantCulture, $"process {number}\n");

    public void Area(ulong start, ulong end, ReadOnlySpan<char> permissions, ulong offset, string name, string flags) =>
        _text.Append(CultureInfo.InvariantCulture, $"{start:x}-{end:x} {permissions} {offset:x} {name} {flags}\n");

    /// <summary>
    /// The entries of an area, as /proc/PID/pagemap has them. <paramref name="contents"/> looks at a page by its number
    /// in the area.
    /// </summary>
    public void Pages(ulong start, ReadOnlySpan<ulong> entries, Func<int, PageDigest> contents)
    {
        var any = false;
        for (var i = 0; i < entries.Length; i++)
        {
            var entry = entries[i];
            if (entry == 0) continue;
            if ((entry & (Present | Swapped)) == 0) continue;
            var address = start + ((ulong)i << 12);
            _text.Append(any ? " " : "   ").Append(CultureInfo.InvariantCulture, $"{address >> 12:x}:");
            any = true;
            if ((entry & Swapped) != 0)
            {
                _text.Append((entry & Guard) != 0 ? 'G' : 'S');
                continue;
            }

            _text.Append(names.Of(entry & PfnMask, out var isFirst));
            if ((entry & FileOrShared) != 0) _text.Append('F');
            if ((entry & Exclusive) != 0) _text.Append('X');
            if (isFirst) contents(i).AppendTo(_text);
        }

        if (any) _text.Append('\n');
    }

    /// <summary>
    /// One page of pagemap in the letters of the recorded tables; the map count is asked for the first three.
    /// </summary>
    public static string Letters(ulong entry, int page, Func<long> mapCount)
    {
        if ((entry & Swapped) != 0) return (entry & Guard) != 0 ? "S:G" : "S:";
        if ((entry & Present) == 0) return "-";
        if (page >= 3) return "P";
        var letters = "P" + ((entry & FileOrShared) != 0 ? "F" : "") + ((entry & Exclusive) != 0 ? "X" : "");
        return string.Create(CultureInfo.InvariantCulture, $"{letters}:f:c{mapCount()}");
    }

    public string End() => _text.ToString();
}
