using System.Globalization;
using System.Text.RegularExpressions;

namespace FramePin.Replay;

/// <summary>A line of /proc/PID/maps.</summary>
/// <param name="Start">First byte.</param>
/// <param name="End">First byte behind it.</param>
/// <param name="Permissions">Four letters, such as "rw-p".</param>
/// <param name="Offset">Offset in the file in bytes.</param>
/// <param name="Device">Device number, such as "08:01".</param>
/// <param name="Inode">Inode number; 0 without a file.</param>
/// <param name="Name">Path, name in brackets, or nothing.</param>
public sealed record MapsLine(
    ulong Start, ulong End, string Permissions, ulong Offset, string Device, ulong Inode, string Name)
{
    private const string Deleted = " (deleted)";

    /// <summary>
    /// The line without device, inode and " (deleted)", for comparisons. A log of memory calls shows no unlink.
    /// </summary>
    public string Comparable =>
        string.Create(CultureInfo.InvariantCulture, $"{Start:x}-{End:x} {Permissions} {Offset:x8} {PathOnly}")
            .TrimEnd();

    private string PathOnly => Name.EndsWith(Deleted, StringComparison.Ordinal) ? Name[..^Deleted.Length] : Name;

    /// <summary>The mapping is one of a file with a path.</summary>
    public bool IsFile => Inode != 0 && Name.StartsWith('/');
}

/// <summary>Reads /proc/PID/maps.</summary>
public static partial class MapsFile
{
    [GeneratedRegex(
        @"^(?<start>[0-9a-f]+)-(?<end>[0-9a-f]+) (?<perms>\S{4}) (?<offset>[0-9a-f]+) (?<dev>\S+) "
        + @"(?<inode>\d+)\s*(?<name>.*)$")]
    private static partial Regex Line();

    /// <summary>Reads lines of /proc/PID/maps. Empty lines are passed over.</summary>
    /// <param name="lines">The lines.</param>
    /// <exception cref="FormatException">A line is none of /proc/PID/maps; the message names it.</exception>
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
