using System.Globalization;

namespace FramePin.Replay;

/// <summary>An area of /proc/PID/smaps.</summary>
/// <param name="Start">First byte.</param>
/// <param name="End">First byte behind it.</param>
/// <param name="HasOwnPages">It has anonymous pages, in memory or in swap.</param>
public sealed record SmapsArea(ulong Start, ulong End, bool HasOwnPages)
{
    /// <summary>Reads lines of /proc/PID/smaps. Lines that it does not need are passed over.</summary>
    /// <param name="lines">The lines.</param>
    /// <exception cref="FormatException">A line looks like an area's first and is none.</exception>
    public static IReadOnlyList<SmapsArea> Parse(IEnumerable<string> lines)
    {
        var areas = new List<SmapsArea>();
        foreach (var line in lines)
        {
            if (line.Length == 0) continue;
            if (char.IsAsciiHexDigitLower(line[0]))
            {
                // What the size of an area that is not understood was, nobody knows: it has no lines of its own.
                foreach (var area in MapsFile.Parse([line], "smaps.end", []))
                    areas.Add(new SmapsArea(area.Start, area.End, HasOwnPages: false));
            }
            else if (areas.Count > 0
                && (line.StartsWith("Anonymous:", StringComparison.Ordinal)
                || line.StartsWith("Swap:", StringComparison.Ordinal)))
            {
                var words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
                if (words.Length > 1 && ulong.TryParse(words[1], CultureInfo.InvariantCulture, out var kilobytes)
                    && kilobytes > 0)
                    areas[^1] = areas[^1] with { HasOwnPages = true };
            }
        }

        return areas;
    }
}
