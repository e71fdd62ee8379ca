using System.Globalization;

namespace FramePin.Client;

/// <summary>The grammar of names: "machines/{machine}" and "machines/{machine}/{collection}/{id}".</summary>
internal static class ResourceName
{
    private const string Machines = "machines";

    /// <summary>Splits "machines/{machine}". False for any other text.</summary>
    public static bool TrySplit(string? text, out string machine)
    {
        machine = text?.Split('/') is [Machines, var id] && IsId(id) ? id : "";
        return machine.Length > 0;
    }

    /// <summary>Splits "machines/{machine}/{collection}/{id}". False for any other text.</summary>
    public static bool TrySplit(string? text, string collection, out MachineName machine, out string id)
    {
        (machine, id) = (default, "");
        if (text?.Split('/') is not [Machines, var first, var kind, var last] || kind != collection || !IsId(first))
            return false;
        (machine, id) = (new MachineName(first), last);
        return true;
    }

    /// <summary>Splits a name whose id is a number.</summary>
    public static bool TrySplit(string? text, string collection, out MachineName machine, out ulong number)
    {
        number = 0;
        return TrySplit(text, collection, out machine, out string id)
            && ulong.TryParse(id, NumberStyles.None, CultureInfo.InvariantCulture, out number) && number > 0
            && id[0] != '0';
    }

    /// <summary>
    /// An id is a letter, then letters, digits, '-' and '_', all of ASCII. The daemon's limit name_length_max bounds
    /// it.
    /// </summary>
    public static bool IsId(ReadOnlySpan<char> id)
    {
        if (id.IsEmpty || !char.IsAsciiLetter(id[0])) return false;
        foreach (var letter in id)
        {
            if (!char.IsAsciiLetterOrDigit(letter) && letter is not ('-' or '_')) return false;
        }

        return true;
    }

    /// <summary>Returns <paramref name="id"/>, or throws <see cref="ArgumentException"/> when it is no id.</summary>
    public static string Checked(string id, string parameter)
    {
        ArgumentNullException.ThrowIfNull(id, parameter);
        return IsId(id)
            ? id
            : throw new ArgumentException("an id is a letter, then letters, digits, '-' and '_'", parameter);
    }

    /// <summary>Returns <paramref name="machine"/>, or throws when it is the default value, which names
    /// nothing.</summary>
    public static MachineName Checked(MachineName machine, string parameter) =>
        machine.Id.Length > 0 ? machine : throw new ArgumentException("the name of a machine is empty", parameter);

    /// <summary>Returns <paramref name="number"/>, or throws when it is 0. The daemon counts from 1.</summary>
    public static ulong Checked(ulong number, string parameter)
    {
        ArgumentOutOfRangeException.ThrowIfZero(number, parameter);
        return number;
    }

    /// <summary>The exception for a text that is no name of the expected form.</summary>
    public static FormatException Wrong(string expected, string? text) =>
        new($"expected {expected}, got '{(text?.Length > 80 ? text[..80] + "…" : text)}'");
}
