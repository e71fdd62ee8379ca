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
        var unread = new List<UnreadLine>();
        var result = Parse(lines, "maps", unread);
        return unread.Count == 0
            ? result
            : throw new FormatException(
                $"line {unread[0].Line}: not a line of /proc/PID/maps: {unread[0].Text}");
    }

    /// <summary>Reads lines of /proc/PID/maps, and tells what it does not understand.</summary>
    /// <param name="lines">The lines.</param>
    /// <param name="file">Name of the file, for the reasons.</param>
    /// <param name="unread">Gets the lines that are none of /proc/PID/maps. They are passed over.</param>
    internal static IReadOnlyList<MapsLine> Parse(
        IEnumerable<string> lines, string file, ICollection<UnreadLine> unread)
    {
        var result = new List<MapsLine>();
        var number = 0;
        foreach (var line in lines)
        {
            number++;
            if (line.Length == 0) continue;
            if (Read(line) is { } read) result.Add(read);
            else unread.Add(new UnreadLine(number, line, $"{file}: not a line of /proc/PID/maps"));
        }

        return result;
    }

    private static MapsLine? Read(string line)
    {
        var match = Line().Match(line);
        if (!match.Success) return null;
        bool Hex(string group, out ulong value) => ulong.TryParse(
            match.Groups[group].Value, NumberStyles.HexNumber, CultureInfo.InvariantCulture, out value);
        return Hex("start", out var start) && Hex("end", out var end) && Hex("offset", out var offset) && start < end
            && ulong.TryParse(match.Groups["inode"].Value, CultureInfo.InvariantCulture, out var inode)
            ? new MapsLine(
                start, end, match.Groups["perms"].Value, offset, match.Groups["dev"].Value, inode,
                match.Groups["name"].Value)
            : null;
    }
}
