using System.Text.Json.Serialization;

namespace FramePin.Replay;

/// <summary>A line of a recording that is not understood. A replay passes it over.</summary>
/// <param name="Line">Line of the file, from 1.</param>
/// <param name="Text">The line, or the call.</param>
/// <param name="Reason">Why it is not understood.</param>
public sealed record UnreadLine(
    [property: JsonPropertyName("line")] int Line,
    [property: JsonPropertyName("text")] string Text,
    [property: JsonPropertyName("reason")] string Reason);
