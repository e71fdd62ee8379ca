using System.Globalization;
using System.Text.RegularExpressions;

namespace FramePin.Replay;

/// <summary>A line of /proc/PID/maps.</summary>
public sealed record MapsLine(
    ulong Start, ulong End, string Permissions, ulong Offset, string Device, ulong Inode, string Name)
{
    private const string Deleted = " (deleted)";

    /// <summary>
    /// The line without device and inode, for comparisons; and without " (deleted)", since a log of memory calls does
    /// not tell of an unlink.
    /// </summary>
    public string Comparable =>
        string.Create(CultureInfo.InvariantCulture, $"{Start:x}-{End:x} {Permissions} {Offset:x8} {PathOnly}")
            .TrimEnd();

    private string PathOnly => Name.EndsWith(Deleted, StringComparison.Ordinal) ? Name[..^Deleted.Length] : Name;

    public bool IsFile => Inode != 0 && Name.StartsWith('/');
}

/// <summary>Reads /proc/PID/maps.</summary>
public static partial class MapsFile
{
    [GeneratedRegex(
        @"^(?<start>[0-9a-f]+)-(?<end>[0-9a-f]+) (?<perms>\S{4}) (?<offset>[0-9a-f]+) (?<dev>\S+) (?<inode>\d+)\s*(?<name>.*)$")]
    private static partial Regex Line();

    public static IReadOnlyList<MapsLine> Parse(IEnumerable<string> lines)
    {
        var result = new List<MapsLine>();
        var number = 0;
        foreach (var line in lines)
        {
            number++;
            if (line.Length == 0) continue;
            var match = Line().Match(line);
            if (!match.Success) throw new FormatException($"line {number}: not a line of /proc/PID/maps: {line}");
            ulong Hex(string group) =>
                ulong.Parse(match.Groups[group].Value, NumberStyles.HexNumber, CultureInfo.InvariantCulture);
            result.Add(new MapsLine(
                Hex("start"), Hex("end"), match.Groups["perms"].Value, Hex("offset"), match.Groups["dev"].Value,
                ulong.Parse(match.Groups["inode"].Value, CultureInfo.InvariantCulture), match.Groups["name"].Value));
        }

        return result;
    }
}
