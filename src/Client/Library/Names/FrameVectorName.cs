using System.Diagnostics.CodeAnalysis;

namespace FramePin.Client;

/// <summary>Name of a frame vector: "machines/{machine}/frameVectors/{number}".</summary>
/// <remarks>Immutable. The default value names nothing, and its text is empty.</remarks>
public readonly record struct FrameVectorName : IParsable<FrameVectorName>
{
    private const string Collection = "frameVectors";

    /// <summary>Makes the name of the vector with a number.</summary>
    /// <param name="machine">The machine.</param>
    /// <param name="number">Counts from 1 in a machine.</param>
    /// <exception cref="ArgumentException"><paramref name="machine"/> names nothing, or <paramref name="number"/> is 0.
    /// </exception>
    public FrameVectorName(MachineName machine, ulong number)
    {
        Machine = ResourceName.Checked(machine, nameof(machine));
        Number = ResourceName.Checked(number, nameof(number));
    }

    /// <summary>The machine of the vector.</summary>
    public MachineName Machine { get; }

    /// <summary>The last segment of the name. 0 for the default value.</summary>
    public ulong Number { get; }

    /// <summary>Reads a name.</summary>
    /// <param name="text">"machines/{machine}/frameVectors/{number}".</param>
    /// <exception cref="FormatException"><paramref name="text"/> has another form.</exception>
    public static FrameVectorName Parse(string text) => TryParse(text, out var name)
        ? name
        : throw ResourceName.Wrong("machines/{machine}/frameVectors/{number}", text);

    /// <summary>Reads a name. Returns false for a text of another form.</summary>
    /// <param name="text">"machines/{machine}/frameVectors/{number}".</param>
    /// <param name="name">The name, or the default value.</param>
    public static bool TryParse([NotNullWhen(true)] string? text, out FrameVectorName name)
    {
        var isName = ResourceName.TrySplit(text, Collection, out var machine, out ulong number);
        name = isName ? new FrameVectorName(machine, number) : default;
        return isName;
    }

    /// <summary>The text of the name, as requests carry it. Empty for the default value.</summary>
    public override string ToString() => Number == 0 ? "" : string.Create(
        System.Globalization.CultureInfo.InvariantCulture, $"{Machine}/{Collection}/{Number}");

    /// <summary>The text of the name, for the fields of raw requests.</summary>
    /// <param name="name">The name.</param>
    public static implicit operator string(FrameVectorName name) => name.ToString();

    static FrameVectorName IParsable<FrameVectorName>.Parse(string s, IFormatProvider? provider) => Parse(s);

    static bool IParsable<FrameVectorName>.TryParse(
        [NotNullWhen(true)] string? s, IFormatProvider? provider, out FrameVectorName result) =>
        TryParse(s, out result);
}
