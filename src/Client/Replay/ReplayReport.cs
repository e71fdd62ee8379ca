using System.Text.Json.Serialization;

namespace FramePin.Replay;

/// <summary>What a replay found. The names of its JSON keys are part of the command's interface.</summary>
public sealed record ReplayReport
{
    /// <summary>Calls replayed, by name.</summary>
    [JsonPropertyName("calls")]
    public required SortedDictionary<string, int> Calls { get; init; }

    /// <summary>Calls in the log that are no memory calls of this address space, by name.</summary>
    [JsonPropertyName("calls_other")]
    public required SortedDictionary<string, int> CallsOther { get; init; }

    [JsonPropertyName("returns_matched")]
    public int ReturnsMatched { get; set; }

    [JsonPropertyName("returns_expected")]
    public int ReturnsExpected { get; set; }

    [JsonPropertyName("returns_different")]
    public List<ReturnDifference> ReturnsDifferent { get; } = [];

    [JsonPropertyName("maps_expected")]
    public int MapsExpected { get; set; }

    [JsonPropertyName("maps_matched")]
    public int MapsMatched { get; set; }

    /// <summary>Expected lines that are not there, and lines that are there and not expected.</summary>
    [JsonPropertyName("maps_missing")]
    public List<string> MapsMissing { get; } = [];

    [JsonPropertyName("maps_unexpected")]
    public List<string> MapsUnexpected { get; } = [];

    [JsonPropertyName("mappings_pinned")]
    public int MappingsPinned { get; set; }

    [JsonPropertyName("pages_pinned")]
    public long PagesPinned { get; set; }

    [JsonPropertyName("pages_refused")]
    public SortedDictionary<string, long> PagesRefused { get; } = new(StringComparer.Ordinal);

    [JsonPropertyName("vectors_converted")]
    public int VectorsConverted { get; set; }

    [JsonPropertyName("leaked_pins")]
    public long LeakedPins { get; set; }

    [JsonPropertyName("audit_findings")]
    public List<string> AuditFindings { get; } = [];

    /// <summary>Files whose size was taken from the largest offset plus length seen.</summary>
    [JsonPropertyName("file_sizes_inferred")]
    public List<string> FileSizesInferred { get; } = [];

    /// <summary>
    /// Calls that overlapped others in the log: replayed in the order in which they finished, unless another order
    /// explains more.
    /// </summary>
    [JsonPropertyName("calls_overlapped")]
    public int CallsOverlapped { get; set; }

    /// <summary>
    /// Private writable mappings of which one page was stored to, because a program uses what it asks for; and those
    /// that were left alone, because the smaps of the end show nothing of the kind, or its maps show areas joined that
    /// two such stores would have kept apart. A log tells neither, and it decides which mappings merge.
    /// </summary>
    [JsonPropertyName("touches_assumed")]
    public int TouchesAssumed { get; set; }

    [JsonPropertyName("touches_ruled_out")]
    public int TouchesRuledOut { get; set; }

    /// <summary>
    /// Pages that the stack grew by while the program ran: by stores that no log shows, so that its maps of the end
    /// tell.
    /// </summary>
    [JsonPropertyName("stack_growth_assumed")]
    public ulong StackGrowthAssumed { get; set; }

    /// <summary>Where mappings lie that the program may have stored to.</summary>
    [JsonIgnore]
    internal HashSet<ulong> Storable { get; } = [];

    /// <summary>Lines of calls that were replayed before others that finished earlier.</summary>
    [JsonPropertyName("calls_reordered")]
    public List<int> CallsReordered { get; } = [];

    /// <summary>
    /// Calls of other threads, after the program asked to end, that stood in the maps of the end: the log does not tell
    /// which did.
    /// </summary>
    [JsonPropertyName("calls_after_exit")]
    public int CallsAfterExit { get; set; }
}

/// <summary>A call that answered otherwise than recorded.</summary>
public sealed record ReturnDifference(
    [property: JsonPropertyName("line")] int Line,
    [property: JsonPropertyName("call")] string Call,
    [property: JsonPropertyName("expected")] string Expected,
    [property: JsonPropertyName("actual")] string Actual);
