using System.Diagnostics.CodeAnalysis;

namespace FramePin.Client;

/// <summary>Name of an attachment of a local process to a machine's memory:
/// "machines/{machine}/attachments/{id}".</summary>
/// <remarks>Immutable. The default value names nothing, and its text is empty.</remarks>
public readonly record struct AttachmentName : IParsable<AttachmentName>
{
    private const string Collection = "attachments";

    private readonly string? _id;

    /// <summary>Makes the name of the attachment <paramref name="id"/> of a machine.</summary>
    /// <param name="machine">The machine.</param>
    /// <param name="id">A letter, then letters, digits, '-' and '_'.</param>
    /// <exception cref="ArgumentException"><paramref name="machine"/> names nothing, or <paramref name="id"/> is no id.
    /// </exception>
    public AttachmentName(MachineName machine, string id)
    {
        Machine = ResourceName.Checked(machine, nameof(machine));
        _id = ResourceName.Checked(id, nameof(id));
    }

    /// <summary>The machine of the attachment.</summary>
    public MachineName Machine { get; }

    /// <summary>The last segment of the name. Empty for the default value.</summary>
    public string Id => _id ?? "";

    /// <summary>Reads a name.</summary>
    /// <param name="text">"machines/{machine}/attachments/{id}".</param>
    /// <exception cref="FormatException"><paramref name="text"/> has another form.</exception>
    public static AttachmentName Parse(string text) => TryParse(text, out var name)
        ? name
        : throw ResourceName.Wrong("machines/{machine}/attachments/{id}", text);

    /// <summary>Reads a name. Returns false for a text of another form.</summary>
    /// <param name="text">"machines/{machine}/attachments/{id}".</param>
    /// <param name="name">The name, or the default value.</param>
    public static bool TryParse([NotNullWhen(true)] string? text, out AttachmentName name)
    {
        var isName = ResourceName.TrySplit(text, Collection, out var machine, out string id) && ResourceName.IsId(id);
        name = isName ? new AttachmentName(machine, id) : default;
        return isName;
    }

    /// <summary>The text of the name, as requests carry it. Empty for the default value.</summary>
    public override string ToString() => _id is null ? "" : $"{Machine}/{Collection}/{_id}";

    /// <summary>The text of the name, for the fields of raw requests.</summary>
    /// <param name="name">The name.</param>
    public static implicit operator string(AttachmentName name) => name.ToString();

    static AttachmentName IParsable<AttachmentName>.Parse(string s, IFormatProvider? provider) => Parse(s);

    static bool IParsable<AttachmentName>.TryParse(
        [NotNullWhen(true)] string? s, IFormatProvider? provider, out AttachmentName result) =>
        TryParse(s, out result);
}
