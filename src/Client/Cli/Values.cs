using System.CommandLine.Parsing;
using System.Globalization;

namespace FramePin.Cli;

/// <summary>Addresses in hex, sizes with suffixes, short names.</summary>
internal static class Values
{
    private const string Suffixes = "KMGT";

    /// <summary>"0x7f00", "4096", "64K", "2M", "1G": bytes.</summary>
    public static ulong ParseSize(string text)
    {
        text = text.Trim();
        var digits = text.TrimEnd('i', 'B', 'b');
        var shift = 0;
        if (digits.Length > 0 && Suffixes.IndexOf(
            char.ToUpperInvariant(digits[^1]), StringComparison.Ordinal) is var at and >= 0
            && !digits.StartsWith("0x", StringComparison.OrdinalIgnoreCase))
        {
            shift = 10 * (at + 1);
            digits = digits[..^1];
        }

        var isHex = digits.StartsWith("0x", StringComparison.OrdinalIgnoreCase);
        var value = isHex
            ? ulong.Parse(digits.AsSpan(2), NumberStyles.HexNumber, CultureInfo.InvariantCulture)
            : ulong.Parse(digits, NumberStyles.None, CultureInfo.InvariantCulture);
        return checked(value << shift);
    }

    /// <summary>For options and arguments: a size, or an error that says what is wanted.</summary>
    public static ulong Size(ArgumentResult result)
    {
        var text = result.Tokens.Count > 0 ? result.Tokens[0].Value : "";
        try
        {
            return ParseSize(text);
        }
        catch (Exception exception) when (exception is FormatException or OverflowException)
        {
            result.AddError($"'{text}' is no address or size: write 0x7f00, 4096, 64K, 2M or 1G");
            return 0;
        }
    }

    /// <summary>A full name, made from its last segment where only that is given.</summary>
    public static string Name(string given, string machine, string collection) =>
        given.Contains('/', StringComparison.Ordinal) ? given : $"{Machine(machine)}/{collection}/{given}";

    public static string Machine(string given) =>
        given.Contains('/', StringComparison.Ordinal) ? given : $"machines/{given}";

    public static string Hex(ulong value) => string.Create(CultureInfo.InvariantCulture, $"0x{value:x}");
}
