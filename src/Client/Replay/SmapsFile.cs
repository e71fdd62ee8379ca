using System.Globalization;

namespace FramePin.Replay;

/// <summary>
/// What /proc/PID/smaps says of an area: its first byte, the first behind it, and whether it holds pages of its own.
/// </summary>
public sealed record SmapsArea(ulong Start, ulong End, bool HasOwnPages)
{
    /// <summary>Reads /proc/PID/smaps; lines that it does not need are passed over.</summary>
    public static IReadOnlyList<SmapsArea> Parse(IEnumerable<string> lines)
    {
        var areas = new List<SmapsArea>();
        foreach (var line in lines)
        {
            if (line.Length == 0) continue;
            if (char.IsAsciiHexDigitLower(line[0]))
            {
                var area = MapsFile.Parse([line])[0];
                areas.Add(new SmapsArea(area.Start, area.End, HasOwnPages: false));
            }
            else if (areas.Count > 0
                && (line.StartsWith("Anonymous:", StringComparison.Ordinal)
                || line.StartsWith("Swap:", StringComparison.Ordinal)))
            {
                var kilobytes = ulong.Parse(
                    line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture);
                if (kilobytes > 0) areas[^1] = areas[^1] with { HasOwnPages = true };
            }
        }

        return areas;
    }
}
