using System.Diagnostics.CodeAnalysis;

namespace FramePin.Client;

/// <summary>Name of a machine: "machines/{id}".</summary>
/// <remarks>Immutable. The default value names nothing, and its text is empty.</remarks>
public readonly record struct MachineName : IParsable<MachineName>
{
    private readonly string? _id;

    /// <summary>Makes the name of the machine <paramref name="id"/>.</summary>
    /// <param name="id">A letter, then letters, digits, '-' and '_'.</param>
    /// <exception cref="ArgumentException"><paramref name="id"/> is no id.</exception>
    public MachineName(string id) => _id = ResourceName.Checked(id, nameof(id));

    /// <summary>The machine that exists unless the daemon is configured otherwise: "machines/default".</summary>
    public static MachineName Default { get; } = new("default");

    /// <summary>The last segment of the name. Empty for the default value.</summary>
    public string Id => _id ?? "";

    /// <summary>Reads a name.</summary>
    /// <param name="text">"machines/{id}".</param>
    /// <exception cref="FormatException"><paramref name="text"/> has another form.</exception>
    public static MachineName Parse(string text) => TryParse(text, out var name)
        ? name
        : throw ResourceName.Wrong("machines/{id}", text);

    /// <summary>Reads a name. Returns false for a text of another form.</summary>
    /// <param name="text">"machines/{id}".</param>
    /// <param name="name">The name, or the default value.</param>
    public static bool TryParse([NotNullWhen(true)] string? text, out MachineName name)
    {
        var isName = ResourceName.TrySplit(text, out var id);
        name = isName ? new MachineName(id) : default;
        return isName;
    }

    /// <summary>The text of the name, as requests carry it. Empty for the default value.</summary>
    public override string ToString() => _id is null ? "" : $"machines/{_id}";

    /// <summary>The text of the name, for the fields of raw requests.</summary>
    /// <param name="name">The name.</param>
    public static implicit operator string(MachineName name) => name.ToString();

    static MachineName IParsable<MachineName>.Parse(string s, IFormatProvider? provider) => Parse(s);

    static bool IParsable<MachineName>.TryParse(
        [NotNullWhen(true)] string? s, IFormatProvider? provider, out MachineName result) => TryParse(s, out result);
}
