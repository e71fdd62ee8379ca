using System.Globalization;
using System.Text;
using FramePin.Server.Configuration;

namespace FramePin.Server.Mapping;

/// <summary>Resource names by AIP-122. An empty parent means the machine "default".</summary>
internal static class Names
{
    public const string DefaultMachine = "default";
    public const string AddressSpaces = "addressSpaces";
    public const string Files = "files";
    public const string Devices = "devices";
    public const string FrameVectors = "frameVectors";
    public const string Drivers = "drivers";
    public const string DriverFiles = "driverFiles";
    public const string Leases = "leases";
    public const string Attachments = "attachments";
    public const string Machines = "machines";

    public static string Machine(string id) => $"{Machines}/{id}";

    public static string Child(string machine, string collection, string id) =>
        $"{Collection(machine, collection)}/{id}";

    public static string Collection(string machine, string collection) => $"{Machines}/{machine}/{collection}";

    /// <summary>The last segment of a name.</summary>
    public static string LastSegment(string name) => name[(name.LastIndexOf('/') + 1)..];

    /// <summary>The id in "machines/{id}"; "default" for an empty name.</summary>
    public static string MachineId(string name, string field)
    {
        if (name.Length == 0) return DefaultMachine;
        var parts = name.Split('/');
        return parts is [Machines, { Length: > 0 } id]
            ? id
            : throw Refusals.Bad(field, $"expected machines/{{machine}}, got '{Short(name)}'");
    }

    /// <summary>The ids in "machines/{m}/{collection}/{id}".</summary>
    public static (string Machine, string Id) ChildIds(string name, string collection, string field)
    {
        var parts = name.Split('/');
        return parts.Length == 4 && parts[0] == Machines && parts[2] == collection && parts[1].Length > 0
            && parts[3].Length > 0
            ? (parts[1], parts[3])
            : throw Refusals.Bad(field, $"expected machines/{{machine}}/{collection}/{{id}}, got '{Short(name)}'");
    }

    /// <summary>The number that is the last segment of a vector's or an open file's name.</summary>
    public static ulong Number(string id, string field) =>
        ulong.TryParse(id, NumberStyles.None, CultureInfo.InvariantCulture, out var number)
            ? number
            : throw Refusals.Bad(field, "the last segment of the name is a number");

    /// <summary>The collection that a child's name says it belongs to; empty when it is no child's name.</summary>
    public static string CollectionOf(string name) =>
        name.Split('/') is [Machines, _, var collection, _] ? collection : "";

    /// <summary>Refuses an id that cannot be the last segment of a name.</summary>
    public static void CheckId(string id, DaemonLimits limits, string field)
    {
        if (id.Length > limits.NameLengthMax)
            throw Refusals.Limit("name_length_max", (ulong)limits.NameLengthMax, (ulong)id.Length);
        var isSound = char.IsAsciiLetter(id[0]) && id.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_');
        if (!isSound) throw Refusals.Bad(field, "an id is a letter, then letters, digits, '-' and '_'");
    }

    /// <summary>
    /// A text that is stored and shown to others: in maps, tables and logs. Characters that move a cursor, break a line
    /// or turn the direction of writing are refused.
    /// </summary>
    public static void CheckText(string text, int most, string limit, string field)
    {
        if (text.Length > most) throw Refusals.Limit(limit, (ulong)most, (ulong)text.Length);
        // Half a pair of surrogates is the replacement character of EnumerateRunes, and harmless.
        foreach (var rune in text.EnumerateRunes())
            if (IsObeyed(rune))
                throw Refusals.Bad(field, "must hold no line break, control or format character");
    }

    /// <summary>Text for a terminal, with a question mark for each character that one would obey.</summary>
    public static string Shown(string text) => string.Concat(
        text.EnumerateRunes().Select(rune => IsObeyed(rune) ? "?" : rune.ToString()));

    private static bool IsObeyed(Rune rune) => Rune.GetUnicodeCategory(rune) is UnicodeCategory.Control
        or UnicodeCategory.Format or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator;

    /// <summary>A device's number as maps shows it, major and minor in hexadecimal; empty for the usual one.</summary>
    public static void CheckDeviceNumber(string text, string field)
    {
        if (text.Length == 0) return;
        var isSound = text.Split(':') is [{ Length: >= 2 and <= 3 } major, { Length: >= 2 and <= 5 } minor]
            && (major + minor).All(char.IsAsciiHexDigitLower);
        if (!isSound) throw Refusals.Bad(field, "is two numbers in hexadecimal, such as 08:01");
    }

    private static string Short(string name) => name.Length <= 80 ? name : name[..80] + "…";
}
