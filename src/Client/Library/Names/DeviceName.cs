using System.Diagnostics.CodeAnalysis;

namespace FramePin.Client;

/// <summary>Name of a device: "machines/{machine}/devices/{id}".</summary>
/// <remarks>Immutable. The default value names nothing, and its text is empty.</remarks>
public readonly record struct DeviceName : IParsable<DeviceName>
{
    private const string Collection = "devices";

    private readonly string? _id;

    /// <summary>Makes the name of the device <paramref name="id"/> of a machine.</summary>
    /// <param name="machine">The machine.</param>
    /// <param name="id">A letter, then letters, digits, '-' and '_'.</param>
    /// <exception cref="ArgumentException"><paramref name="machine"/> names nothing, or <paramref name="id"/> is no id.
    /// </exception>
    public DeviceName(MachineName machine, string id)
    {
        Machine = ResourceName.Checked(machine, nameof(machine));
        _id = ResourceName.Checked(id, nameof(id));
    }

    /// <summary>The machine of the device.</summary>
    public MachineName Machine { get; }

    /// <summary>The last segment of the name. Empty for the default value.</summary>
    public string Id => _id ?? "";

    /// <summary>Reads a name.</summary>
    /// <param name="text">"machines/{machine}/devices/{id}".</param>
    /// <exception cref="FormatException"><paramref name="text"/> has another form.</exception>
    public static DeviceName Parse(string text) => TryParse(text, out var name)
        ? name
        : throw ResourceName.Wrong("machines/{machine}/devices/{id}", text);

    /// <summary>Reads a name. Returns false for a text of another form.</summary>
    /// <param name="text">"machines/{machine}/devices/{id}".</param>
    /// <param name="name">The name, or the default value.</param>
    public static bool TryParse([NotNullWhen(true)] string? text, out DeviceName name)
    {
        var isName = ResourceName.TrySplit(text, Collection, out var machine, out string id) && ResourceName.IsId(id);
        name = isName ? new DeviceName(machine, id) : default;
        return isName;
    }

    /// <summary>The text of the name, as requests carry it. Empty for the default value.</summary>
    public override string ToString() => _id is null ? "" : $"{Machine}/{Collection}/{_id}";

    /// <summary>The text of the name, for the fields of raw requests.</summary>
    /// <param name="name">The name.</param>
    public static implicit operator string(DeviceName name) => name.ToString();

    static DeviceName IParsable<DeviceName>.Parse(string s, IFormatProvider? provider) => Parse(s);

    static bool IParsable<DeviceName>.TryParse(
        [NotNullWhen(true)] string? s, IFormatProvider? provider, out DeviceName result) =>
        TryParse(s, out result);
}
