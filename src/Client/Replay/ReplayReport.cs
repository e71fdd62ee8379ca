using System.Text.Json.Serialization;

namespace FramePin.Replay;

/// <summary>The findings of a replay. The names of its JSON keys are part of the command's interface.</summary>
/// <remarks>Filled by the replay, and the caller's afterwards. Not synchronised.</remarks>
public sealed record ReplayReport
{
    /// <summary>Calls replayed, by name.</summary>
    [JsonPropertyName("calls")]
    public required SortedDictionary<string, int> Calls { get; init; }

    /// <summary>Calls in the log that are no memory calls of this address space, by name.</summary>
    [JsonPropertyName("calls_other")]
    public required SortedDictionary<string, int> CallsOther { get; init; }

    /// <summary>
    /// Lines of the log that are not understood, and calls whose file the daemon cannot make. They were passed over.
    /// </summary>
    [JsonPropertyName("lines_unread")]
    public List<UnreadLine> LinesUnread { get; } = [];

    /// <summary>
    /// Calls that succeeded and that the emulator lacks, by name, with their lines. What differs behind them may come
    /// from them.
    /// </summary>
    [JsonPropertyName("calls_lacking")]
    public SortedDictionary<string, List<int>> CallsLacking { get; } = new(StringComparer.Ordinal);

    /// <summary>Calls that answered as recorded.</summary>
    [JsonPropertyName("returns_matched")]
    public int ReturnsMatched { get; set; }

    /// <summary>Calls whose recorded answers were compared.</summary>
    [JsonPropertyName("returns_expected")]
    public int ReturnsExpected { get; set; }

    /// <summary>Calls that answered otherwise than recorded.</summary>
    [JsonPropertyName("returns_different")]
    public List<ReturnDifference> ReturnsDifferent { get; } = [];

    /// <summary>Lines of the recorded maps of the end.</summary>
    [JsonPropertyName("maps_expected")]
    public int MapsExpected { get; set; }

    /// <summary>Lines of them that the replay has too.</summary>
    [JsonPropertyName("maps_matched")]
    public int MapsMatched { get; set; }

    /// <summary>Recorded lines that the replay does not have.</summary>
    [JsonPropertyName("maps_missing")]
    public List<string> MapsMissing { get; } = [];

    /// <summary>Lines of the replay that were not recorded.</summary>
    [JsonPropertyName("maps_unexpected")]
    public List<string> MapsUnexpected { get; } = [];

    /// <summary>Mappings of which a page was pinned.</summary>
    [JsonPropertyName("mappings_pinned")]
    public int MappingsPinned { get; set; }

    /// <summary>Pages of 4 KiB that were pinned.</summary>
    [JsonPropertyName("pages_pinned")]
    public long PagesPinned { get; set; }

    /// <summary>Pages that were not pinned, by the errno or the reason of the stop.</summary>
    [JsonPropertyName("pages_refused")]
    public SortedDictionary<string, long> PagesRefused { get; } = new(StringComparer.Ordinal);

    /// <summary>Frame vectors that were converted to PFNs and back.</summary>
    [JsonPropertyName("vectors_converted")]
    public int VectorsConverted { get; set; }

    /// <summary>Pins that the machine counts at the end although every vector was unpinned. 0 is expected.</summary>
    [JsonPropertyName("leaked_pins")]
    public long LeakedPins { get; set; }

    /// <summary>Findings of the machine's audit at the end. None is expected.</summary>
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
    /// Private writable mappings of which one page was stored to, since a program uses what it asks for. A log does not
    /// show stores, and they decide which mappings merge. Mappings are left alone when the smaps of the end show no
    /// page of their own, or the maps of the end show areas joined that two such stores would have kept apart.
    /// </summary>
    [JsonPropertyName("touches_assumed")]
    public int TouchesAssumed { get; set; }

    /// <summary>Mappings that were left alone although a program uses what it asks for.</summary>
    [JsonPropertyName("touches_ruled_out")]
    public int TouchesRuledOut { get; set; }

    /// <summary>
    /// Pages by which the stack grew while the program ran. Stores make it grow, which no log shows; the maps of the
    /// end tell the size.
    /// </summary>
    [JsonPropertyName("stack_growth_assumed")]
    public ulong StackGrowthAssumed { get; set; }

    /// <summary>Notes a call that the emulator lacks.</summary>
    internal void Lacks(string name, int line)
    {
        if (!CallsLacking.TryGetValue(name, out var lines)) CallsLacking[name] = lines = [];
        lines.Add(line);
    }

    /// <summary>Addresses of mappings that the program may have stored to.</summary>
    [JsonIgnore]
    internal HashSet<ulong> Storable { get; } = [];

    /// <summary>Lines of calls that were replayed before others that finished earlier.</summary>
    [JsonPropertyName("calls_reordered")]
    public List<int> CallsReordered { get; } = [];

    /// <summary>
    /// Calls of other threads, after the program asked to end, that are counted into the maps of the end. The log does
    /// not tell which of them had run.
    /// </summary>
    [JsonPropertyName("calls_after_exit")]
    public int CallsAfterExit { get; set; }
}

/// <summary>A call that answered otherwise than recorded.</summary>
/// <param name="Line">Line of the log on which it finished.</param>
/// <param name="Call">Name and arguments.</param>
/// <param name="Expected">The recorded answer.</param>
/// <param name="Actual">The answer of the replay.</param>
public sealed record ReturnDifference(
    [property: JsonPropertyName("line")] int Line,
    [property: JsonPropertyName("call")] string Call,
    [property: JsonPropertyName("expected")] string Expected,
    [property: JsonPropertyName("actual")] string Actual);
