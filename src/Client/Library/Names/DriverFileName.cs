using System.Diagnostics.CodeAnalysis;

namespace FramePin.Client;

/// <summary>Name of an application's open file of a driver's node: "machines/{machine}/driverFiles/{number}".</summary>
/// <remarks>Immutable. The default value names nothing, and its text is empty.</remarks>
public readonly record struct DriverFileName : IParsable<DriverFileName>
{
    private const string Collection = "driverFiles";

    /// <summary>Makes the name of the file with a number.</summary>
    /// <param name="machine">The machine.</param>
    /// <param name="number">Counts from 1 in a machine.</param>
    /// <exception cref="ArgumentException"><paramref name="machine"/> names nothing, or <paramref name="number"/> is 0.
    /// </exception>
    public DriverFileName(MachineName machine, ulong number)
    {
        Machine = ResourceName.Checked(machine, nameof(machine));
        Number = ResourceName.Checked(number, nameof(number));
    }

    /// <summary>The machine of the file.</summary>
    public MachineName Machine { get; }

    /// <summary>The last segment of the name. 0 for the default value.</summary>
    public ulong Number { get; }

    /// <summary>Reads a name.</summary>
    /// <param name="text">"machines/{machine}/driverFiles/{number}".</param>
    /// <exception cref="FormatException"><paramref name="text"/> has another form.</exception>
    public static DriverFileName Parse(string text) => TryParse(text, out var name)
        ? name
        : throw ResourceName.Wrong("machines/{machine}/driverFiles/{number}", text);

    /// <summary>Reads a name. Returns false for a text of another form.</summary>
    /// <param name="text">"machines/{machine}/driverFiles/{number}".</param>
    /// <param name="name">The name, or the default value.</param>
    public static bool TryParse([NotNullWhen(true)] string? text, out DriverFileName name)
    {
        var isName = ResourceName.TrySplit(text, Collection, out var machine, out ulong number);
        name = isName ? new DriverFileName(machine, number) : default;
        return isName;
    }

    /// <summary>The text of the name, as requests carry it. Empty for the default value.</summary>
    public override string ToString() => Number == 0 ? "" : string.Create(
        System.Globalization.CultureInfo.InvariantCulture, $"{Machine}/{Collection}/{Number}");

    /// <summary>The text of the name, for the fields of raw requests.</summary>
    /// <param name="name">The name.</param>
    public static implicit operator string(DriverFileName name) => name.ToString();

    static DriverFileName IParsable<DriverFileName>.Parse(string s, IFormatProvider? provider) => Parse(s);

    static bool IParsable<DriverFileName>.TryParse(
        [NotNullWhen(true)] string? s, IFormatProvider? provider, out DriverFileName result) =>
        TryParse(s, out result);
}
