using System.CommandLine.Parsing;
using System.Globalization;
using System.Text;

namespace FramePin.Cli;

/// <summary>Addresses in hex, sizes with suffixes, short names, and text of others made fit to be shown.</summary>
internal static class Values
{
    private const string Suffixes = "KMGT";
    private const string HexPrefix = "0x";

    /// <summary>
    /// "0x7f00", "4096", "64K", "64KiB", "2M", "1G": bytes. Throws <see cref="FormatException"/> for other text and
    /// <see cref="OverflowException"/> above 64 bits.
    /// </summary>
    public static ulong ParseSize(string text)
    {
        text = text.Trim();
        if (text.StartsWith(HexPrefix, StringComparison.OrdinalIgnoreCase))
            return ulong.Parse(
                text.AsSpan(HexPrefix.Length), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
        var digits = text.TrimEnd('B', 'b').TrimEnd('i');
        var unit = 1UL;
        if (digits.Length > 0 && Suffixes.IndexOf(
            char.ToUpperInvariant(digits[^1]), StringComparison.Ordinal) is var at and >= 0)
        {
            unit = 1UL << (10 * (at + 1));
            digits = digits[..^1];
        }

        return checked(ulong.Parse(digits, NumberStyles.None, CultureInfo.InvariantCulture) * unit);
    }

    /// <summary>For options and arguments: a size, or an error that says what is wanted.</summary>
    public static ulong Size(ArgumentResult result)
    {
        var text = result.Tokens.Count > 0 ? result.Tokens[0].Value : "";
        try
        {
            return ParseSize(text);
        }
        catch (FormatException)
        {
            result.AddError($"'{text}' is no address or size: write 0x7f00, 4096, 64K, 2M or 1G");
        }
        catch (OverflowException)
        {
            result.AddError($"'{text}' is larger than any address or size: 0xffffffffffffffff is the largest");
        }

        return 0;
    }

    /// <summary>A full name, made from its last segment where only that is given.</summary>
    public static string Name(string given, string machine, string collection) =>
        given.Contains('/', StringComparison.Ordinal) ? given : $"{Machine(machine)}/{collection}/{given}";

    /// <summary>
    /// A full name, made from its number where only that is given. Throws <see cref="FormatException"/> when the last
    /// segment is no number.
    /// </summary>
    public static string Number(string given, string machine, string collection, string thing)
    {
        var name = Name(given, machine, collection);
        return ulong.TryParse(
            name.AsSpan(name.LastIndexOf('/') + 1), NumberStyles.None, CultureInfo.InvariantCulture, out _)
            ? name
            : throw new FormatException(
                $"'{given}' is no {thing}: write its number, such as 1, or its full name, such as "
                + $"{Machine(machine)}/{collection}/1");
    }

    public static string Machine(string given) =>
        given.Contains('/', StringComparison.Ordinal) ? given : $"machines/{given}";

    public static string Hex(ulong value) => string.Create(CultureInfo.InvariantCulture, $"0x{value:x}");

    /// <summary>Text as it may go to a terminal: what a terminal would obey is shown by its number.</summary>
    public static string Show(string text)
    {
        var shown = default(StringBuilder);
        var done = 0;
        foreach (var rune in text.EnumerateRunes())
        {
            if (IsObeyed(rune))
            {
                shown ??= new StringBuilder(text, 0, done, text.Length + 8);
                shown.Append(rune.Value < 0x100 ? "\\x" : "\\u").Append(
                    rune.Value.ToString(rune.Value < 0x100 ? "x2" : "x4", CultureInfo.InvariantCulture));
            }
            else
            {
                shown?.Append(rune.ToString());
            }

            done += rune.Utf16SequenceLength;
        }

        return shown?.ToString() ?? text;
    }

    /// <summary>Controls, marks of direction, and what ends a line.</summary>
    private static bool IsObeyed(Rune rune) => Rune.GetUnicodeCategory(rune) is UnicodeCategory.Control
        or UnicodeCategory.Format or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator;
}
